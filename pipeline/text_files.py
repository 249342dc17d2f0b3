"""Text files below `DATA_DIR`: atomic writes, CSV and JSON, and reading without pandas.

Every file except the database is text. A file is replaced as a whole (`os.replace`), so a reader
sees the old file or the new file, never a part of one.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import OutputError, sentence
from pipeline.times import iso

# --- writing --------------------------------------------------------------------------------


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file by one with this text.

    Args:
        path: the file. Missing directories are created.
        text: the new content.
        durable: whether the new content survives a power cut as soon as this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # it would fill a full disk further
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cell(value: object) -> str:
    # The most frequent types come first: the batch writes a year of windows into one file.
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return iso(value)
    return "" if value is None else str(value)


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows as CSV text, header first. An unknown value is an empty cell."""
    names = tuple(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def append_csv(path: Path, columns: Iterable[str], row: Mapping[str, object], limit: int) -> None:
    """Append a row to a CSV file that holds the latest rows.

    A kill or a full disk may have cut off the last line. The row then starts on a new line.

    Args:
        path: the file. A file with the columns of another version is emptied first.
        columns: its columns.
        row: the values of the row.
        limit: the size above which the file loses its older half, bytes.
    """
    header, line = (text.encode() + b"\n" for text in to_csv(columns, [row]).splitlines())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        fits = file.readline() == header
        if not fits:
            file.truncate(0)
        file.write(b"\n" * _last_line_is_cut_off(file) + (line if fits else header + line))
        long = file.tell() > limit
    if long:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = b"".join([header, *lines[len(lines) // 2 :]])
        write_atomically(path, kept.decode(errors="replace"), durable=False)


def cells(columns: Iterable[str], row: Mapping[str, object]) -> dict[str, str]:
    """Return the text of each cell of a row. An unknown value is an empty cell."""
    return {name: cell(row.get(name)) for name in columns}


def _last_line_is_cut_off(file: BinaryIO) -> bool:
    """Return whether the last line has no line end, and seek to the end of the file."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(-1, os.SEEK_END)
    return size > 0 and file.read(1) != b"\n"


# --- reading --------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} if the file does not exist.

    Raises:
        OutputError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise damaged(path, "is not valid JSON", error) from error
    if not isinstance(value, dict):
        raise damaged(path, "does not hold a JSON object")
    return value


def short(path: Path) -> str:
    """Return the path of an output below the data directory."""
    return f"{path.parent.name}/{path.name}" if path.parent.name == "stream_csv" else path.name


def cannot_read(path: Path, error: OSError) -> OutputError:
    """Return the error for a file that this user cannot read."""
    return OutputError(f"Cannot read {short(path)}. {sentence(error)}")


def damaged(path: Path, problem: str, cause: object = None) -> OutputError:
    """Return the error for a file with unusable content."""
    why = f" ({cause})" if cause else ""
    return OutputError(f"{short(path)} {problem}. Move it away. The file: {path}{why}")


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a CSV file as text; ([], []) if it does not exist.

    A row that was cut off is shorter than the header.

    Raises:
        OutputError: the file cannot be read, or is not a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, csv.Error) as error:
        raise damaged(path, "is not a valid CSV file", error) from error
    if not rows:
        raise damaged(path, "is empty because it was cut off")
    header, *rows = rows
    if any(len(row) > len(header) for row in rows):
        raise damaged(path, "has rows with more cells than its header")
    return header, rows


def read_text(path: Path) -> str:
    """Return the text of a file, with damaged bytes replaced; "" if it does not exist.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise cannot_read(path, error) from error


def read_record(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file that `append_csv` wrote, without cells that need quotes.

    Each line is read on its own, so that a damaged one does not affect the others. A row that was
    cut off has fewer cells. A file that does not exist has no rows.

    Raises:
        OutputError: the file cannot be read.
    """
    header, *lines = read_text(path).split("\n")
    names = header.split(",")
    rows = (line.replace("\0", "").split(",") for line in lines)
    return [dict(zip(names, row, strict=False)) for row in rows if row != [""]]
