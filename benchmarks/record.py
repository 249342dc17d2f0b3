"""The results of all parts in one JSON file. A part that is measured again replaces its results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import LOAD
from benchmarks.results import Result, as_json, from_json, markdown, shown, table
from pipeline.text_files import write_atomically


@dataclass
class Part:
    """The results of one part."""

    #: When the part began, ISO 8601.
    began: str
    results: list[Result] = field(default_factory=list)
    #: Wall seconds from its beginning to its end.
    seconds: float = 0.0
    #: The step at which it failed, and why. None: it did not fail.
    failure: str | None = None


@dataclass
class Record:
    """The results of a run, and of earlier runs for parts that this run did not measure.

    Attributes:
        about: the machine, the versions, the inputs and the sizes, by name.
        parts: the results by the name of the part.
    """

    about: dict[str, str]
    parts: dict[str, Part] = field(default_factory=dict)

    def merged(self, older: "Record | None", names: Mapping[str, object]) -> "Record":
        """Return this record with the parts that only an older one has, in the order of names.

        Parts of an older record count only if they were measured with the same inputs on the same
        machine with the same versions.
        """
        same = older is not None and _lasting(older.about) == _lasting(self.about)
        kept = older.parts if older is not None and same else {}
        parts = {**kept, **self.parts}
        return Record(self.about, {name: parts[name] for name in names if name in parts})

    def text(self) -> str:
        """Return everything as Markdown: the marks first, then all results."""
        lines = [f"- {name}: {value}" for name, value in self.about.items()]
        lines += [
            f"- {name}: measured from {part.began}, {part.seconds:.0f} s"
            for name, part in self.parts.items()
        ]
        rows = [result for part in self.parts.values() for result in part.results]
        marked = [result for result in rows if result.mark]
        failed = [
            f"\n{name} FAILED {part.failure}" for name, part in self.parts.items() if part.failure
        ]
        tables = ["", table(marked), "", table(rows)] if marked else ["", table(rows)]
        return "\n".join([*lines, *tables, *failed])


def _lasting(about: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in about.items() if name != LOAD}


def read(path: Path) -> Record | None:
    """Return the record in a file; None if there is none or another version wrote it."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = {
            name: Part(
                part["began"],
                [from_json(row) for row in part["results"]],
                part["seconds"],
                part["failure"],
            )
            for name, part in found["parts"].items()
        }
        return Record(found["about"], parts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def write(path: Path, record: Record) -> None:
    """Write a record as JSON."""
    parts = {
        name: {
            "began": part.began,
            "seconds": round(part.seconds, 1),
            "failure": part.failure,
            "results": [as_json(result) for result in part.results],
        }
        for name, part in record.parts.items()
    }
    write_atomically(path, json.dumps({"about": record.about, "parts": parts}, indent=1) + "\n")
    write_atomically(path.with_suffix(".md"), record.text() + "\n")


class Rows:
    """A table of rows with equal columns, as JSON and as Markdown. Older rows are kept.

    Args:
        path: the JSON file. The Markdown file is beside it.
        about: what the rows depend on. Rows that depend on anything else are not kept.
        keys: the columns that identify a row. A row that is measured again replaces the older one.
    """

    def __init__(self, path: Path, about: Mapping[str, str], keys: Sequence[str]) -> None:
        self._path = path
        self._about = dict(about)
        self._keys = keys
        self._rows: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if _lasting(found["about"]) == _lasting(about):
                self._rows = {self._key(row): row for row in found["rows"]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # there is none, or another version wrote it

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row and write the files."""
        self._rows[self._key(row)] = row
        self.write({})

    def rows(self) -> list[Mapping[str, Any]]:
        """Return the rows, sorted by all keys but the last one."""
        return sorted(self._rows.values(), key=lambda row: self._key(row)[:-1])

    def write(self, failures: Mapping[str, str]) -> str:
        """Write the files; return the Markdown text."""
        rows = self.rows()
        lines = [f"- {name}: {value}" for name, value in self._about.items()]
        if rows:
            cells = [[_cell(value) for value in row.values()] for row in rows]
            lines += ["", markdown(tuple(rows[0]), cells)]
        lines += [f"\n{name} FAILED {why}" for name, why in failures.items()]
        found = {"about": self._about, "rows": rows, "failures": dict(failures)}
        write_atomically(self._path, json.dumps(found, indent=1) + "\n")
        write_atomically(self._path.with_suffix(".md"), "\n".join(lines) + "\n")
        return "\n".join(lines)

    def _key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[key] for key in self._keys)


def _cell(value: object) -> str:
    return shown(value) if isinstance(value, int | float | None) else str(value)
