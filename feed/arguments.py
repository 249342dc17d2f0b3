"""The parser of a command line, and the values of its options.

It imports only the standard library: `make` checks its variables before any package is installed.
"""

from argparse import ArgumentParser, ArgumentTypeError


class Arguments(ArgumentParser):
    """An argument parser that reports an error as one sentence."""

    def error(self, message: str) -> None:  # type: ignore[override]
        action = ". See --help" if message.startswith("unrecognized arguments") else ""
        self.exit(2, f"{self.prog}: {message}{action}\n")


def parse_speed(text: str) -> float | None:
    """Return a multiple of the recorded speed, or None for `max`.

    Raises:
        ArgumentTypeError: the text is neither `max` nor a number above 0, up to a million.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e6:
        raise ArgumentTypeError(
            f"{text!r} is not valid: choose max, or a number above 0, up to 1e6"
        )
    return speed


def parse_seconds(text: str) -> float:
    """Return a number of seconds.

    Raises:
        ArgumentTypeError: the text is not a number from 0 to ten days.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10 * 86400:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 864000")
    return seconds


def parse_port(text: str) -> int:
    """Return a port number.

    Raises:
        ArgumentTypeError: the text is not a whole number from 1 to 65535.
    """
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ArgumentTypeError(f"{text!r} is not valid: choose a port from 1 to 65535")
    return int(text)


def parse_count(text: str) -> int:
    """Return a whole number.

    Raises:
        ArgumentTypeError: the text is not a whole number above 0.
    """
    if not text.isdecimal() or not 0 < int(text) < 10**12:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
