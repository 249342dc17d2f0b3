"""The results of all parts in one JSON file. A part that is measured again replaces its results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import LOAD
from benchmarks.results import Result, as_json, from_json, markdown, shown, table
from pipeline.outputs import write_atomically


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
        marked = [result for result in rows if result.goal]
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


def write_rows(
    path: Path,
    about: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    failures: Mapping[str, str],
) -> str:
    """Write rows with equal keys as JSON and as a Markdown table; return the Markdown text."""
    texts = [[_cell(value) for value in row.values()] for row in rows]
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", markdown(tuple(rows[0]), texts)] if rows else []
    lines += [f"\n{name} FAILED {why}" for name, why in failures.items()]
    found = {"about": dict(about), "rows": list(rows), "failures": dict(failures)}
    write_atomically(path, json.dumps(found, indent=1) + "\n")
    write_atomically(path.with_suffix(".md"), "\n".join(lines) + "\n")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return shown(value) if isinstance(value, int | float | None) else str(value)
