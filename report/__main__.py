"""Makes the report: `python -m report`, or `make report`.

Into `DATA_DIR/report/`: `report.html` with its figures in it, `report.md` beside `figures/`.
`--into` names another folder.
"""

import argparse
import base64
import re
import sys
import time
from datetime import timedelta
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from pipeline import outputs
from pipeline.compare import compare
from pipeline.outputs import DataDir, OutputError, write_atomically
from pipeline.settings import load
from pipeline.tables import read_written
from pipeline.verdict import interval_of, minutes
from report import content, figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m report", description=__doc__)
    parser.add_argument("--minutes", type=minutes, help="of the last minutes only, so many")
    parser.add_argument("--into", type=Path, help="the folder to write to")
    arguments = parser.parse_args()
    settings = load()
    data = DataDir(settings.data_dir)
    began = time.monotonic()
    try:
        path = make(
            data,
            settings.batch_interval_seconds,
            arguments.minutes,
            arguments.into or data.report,
        )
    except OutputError as error:
        print(f"of {data.root} no report can be made: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"the report cannot be written: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{path} (made in {time.monotonic() - began:.1f} s)")


def make(data: DataDir, interval_s: float, last: timedelta | None, into: Path) -> Path:
    """Reads, compares, draws and writes into a folder; returns the path of the HTML file.

    Raises:
        OutputError: a file holds something else than it should, or the database cannot be read.
        OSError: the report cannot be written.
    """
    written = read_written(data, last)
    found = compare(written, interval_of(written.status, interval_s))
    report = content.report(found, written, outputs.now())
    drawn = {name: figures.svg(figure) for name, figure in figures.draw(found).items()}
    for old in (into / "figures").glob("*.svg"):
        if old.stem not in drawn:
            old.unlink()
    for name, text in drawn.items():
        write_atomically(into / "figures" / f"{name}.svg", text, durable=False)
    for name in ("report.md", "report.html"):
        text = _templates().get_template(f"{name}.j2").render(report=report, figures=drawn)
        write_atomically(into / name, text, durable=False)
    return into / "report.html"


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    environment.filters["plain"] = plain
    environment.filters["code"] = code
    return environment


def plain(text: str) -> str:
    """Text from data as Markdown that says just that."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def code(text: str) -> Markup:
    """A paragraph of ours for HTML: what stands between backquotes is code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )


if __name__ == "__main__":
    main()
