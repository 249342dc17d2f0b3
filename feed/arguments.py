"""The values of the replay's options.

It imports only the standard library: `make` checks its variables before any package is installed.
"""

from argparse import ArgumentTypeError


def parse_speed(text: str) -> float | None:
    """Return a multiple of the recorded speed, or None for `max`."""
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
    """Return a number of seconds from 0 to ten days."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10 * 86400:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 864000")
    return seconds
