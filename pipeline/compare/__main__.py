"""Compare the results of both paths: `python -m pipeline.compare`.

The exit status is 1 if a difference has the cause `cause unknown`, 2 if there is nothing to compare
or a file cannot be read, 3 after an internal error, and 0 otherwise.
"""

import argparse
import json
import math
import signal
import sys
import textwrap
import traceback
from dataclasses import is_dataclass
from datetime import datetime

import pandas as pd

from pipeline import stores
from pipeline.compare.arguments import add_minutes
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.decision import headline
from pipeline.compare.inputs import read_outputs, require_folder
from pipeline.compare.section import Section, Table
from pipeline.compare.sections import sections
from pipeline.compare.summary import findings, summary
from pipeline.compare.tradeoffs import aspects
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.settings import load
from pipeline.source import check
from pipeline.times import iso

#: Width of the text in columns.
WIDTH = 80
#: Fields left out of the JSON, because a program can read them from the files.
_NOT_IN_JSON = ("outputs", "teeth", "runs", "windows")


def main() -> None:
    """Print the comparison of `DATA_DIR`, and exit with its status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_minutes(parser)
    arguments = parser.parse_args()
    settings = load()
    data = DataDir(settings.data_dir)
    try:
        require_folder(data)
        check(data, settings)
        outputs = read_outputs(data, stores.store_of(settings), arguments.minutes)
        comparison = compare(outputs, settings.batch_interval_seconds)
        print(as_json(comparison) if arguments.json else as_text(comparison))
    except OutputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except Exception:  # noqa: BLE001 - Python's own status for a fault, 1, means "unexplained"
        traceback.print_exc()
        sys.exit(3)
    nothing = comparison.span is None or not comparison.compared
    sys.exit(2 if nothing else 1 if comparison.unexplained else 0)


def as_json(comparison: Comparison) -> str:
    """Return all numbers of the comparison, its findings and the table of aspects.

    Programs depend on the names, so these names stay although the code uses others: `verdict`
    (in the code, the status of a window, and the summary), `answers` (findings) and `question`
    (title).
    """
    fields = {name: of for name, of in vars(comparison).items() if name not in _NOT_IN_JSON}
    answers = [
        {"question" if name == "title" else name: value for name, value in vars(finding).items()}
        for finding in findings(comparison)
    ]
    fields |= {
        "agreement": comparison.agreement.rename(columns={"status": "verdict"}),
        "verdict": summary(comparison),
        "answers": answers,
        "unexplained": comparison.unexplained,
        "compared": comparison.compared,
        "aspects": aspects(comparison),
        "watermarks": {
            "trades": comparison.watermarks.trades,
            "current_s": comparison.watermarks.current_s,
            "lossless_s": comparison.watermarks.lossless_s,
            "table": comparison.watermarks.listed,
        },
    }
    return json.dumps(_plain(fields), indent=1, allow_nan=False)


def _plain(value: object) -> object:
    """Return a value as JSON can express it: unknown and infinite numbers become null."""
    match value:
        case pd.DataFrame():
            return json.loads(value.to_json(orient="records", date_format="iso"))
        case datetime():
            return iso(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
    return _plain(vars(value)) if is_dataclass(value) else value


def as_text(comparison: Comparison) -> str:
    """Return the summary and all sections for a terminal; only the summary without any result."""
    if comparison.outputs.final.empty and comparison.outputs.runs.empty:
        return _wrapped(summary(comparison))
    parts = [
        _wrapped(headline(comparison)),
        _wrapped(summary(comparison)),
        *map(section_as_text, sections(comparison)),
    ]
    return "\n\n".join(parts)


def section_as_text(section: Section) -> str:
    """Return a section: its title, how to read it, its lines, and its tables."""
    lines = [section.title, "=" * len(section.title), _wrapped(section.how_to_read)]
    lines += map(_wrapped, section.lines)
    for table in section.tables:
        if table.rows:
            lines += ["", *([_wrapped(table.title)] if table.title else []), _table_as_text(table)]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH))


def _table_as_text(table: Table) -> str:
    """Return a table in columns; or each row as a list, if the table is too wide."""
    cells = [table.header, *table.rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(table.header))]
    if sum(widths) + 2 * len(widths) > WIDTH:
        return "\n".join(_row_as_list(table.header, row) for row in table.rows)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < table.text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def _row_as_list(header: tuple[str, ...], row: tuple[str, ...]) -> str:
    lines = [_wrapped(row[0])]
    for name, cell in zip(header[1:], row[1:], strict=True):
        lines += textwrap.wrap(
            f"{name}: {cell}", WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
