"""Read the text files that settings name: certificates, credentials, a password."""

from pathlib import Path

from pipeline.errors import OperationalError


def read_text(setting: str, path: Path) -> str:
    """Return the text of the file that a setting names.

    Raises:
        OperationalError: it cannot be read, or is not a text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not a text in UTF-8"
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        raise OperationalError(
            f"cannot read {setting}: {reason}. Set it to a file that this user can read. The "
            f"file: {path}"
        ) from error
