"""The option `--minutes` of the comparison and of the report."""

from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from datetime import timedelta

#: The times that pandas can express start in 1677.
MAX_SPAN = timedelta(days=36_525)


def add_minutes(parser: ArgumentParser) -> None:
    """Add the option. Its value is a timedelta; None if it is not given."""
    parser.add_argument(
        "--minutes",
        type=minutes,
        metavar="N",
        help="cover only the last N minutes (completeness and batch run time cover all data)",
    )


def minutes(text: str) -> timedelta:
    """Return the argument of `--minutes` as a time.

    Raises:
        ArgumentTypeError: The text is not a positive number of minutes, or is above 100 years.
    """
    with suppress(ValueError, OverflowError):
        if timedelta(0) < (span := timedelta(minutes=float(text))) <= MAX_SPAN:
            return span
    most = MAX_SPAN // timedelta(minutes=1)
    raise ArgumentTypeError(f"{text!r} is not a number of minutes above 0, up to {most:,}")
