"""Makes the report: `python -m report`, or `make report`.

Into `DATA_DIR/report/`: `report.html` with its figures in it, `report.md` beside `figures/`.
"""

import argparse
import base64
import re
import sys
import time
import zipfile
from collections.abc import Mapping
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from pipeline import times
from pipeline.compare.comparison import compare
from pipeline.compare.inputs import read_written
from pipeline.compare.summary import interval_of, minutes
from pipeline.outputs import DataDir, OutputError, write_atomically
from pipeline.settings import load
from report import figures
from report import sections as content


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m report", description=__doc__)
    parser.add_argument("--minutes", type=minutes, help="of the last minutes only, so many")
    parser.add_argument(
        "--zip", action="store_true", help="write it to stdout as a ZIP archive, and no file"
    )
    arguments = parser.parse_args()
    settings = load()
    data = DataDir(settings.data_dir)
    began = time.monotonic()
    try:
        files = make(data, settings.batch_interval_seconds, arguments.minutes)
        if arguments.zip:
            sys.stdout.buffer.write(packed(files))
            return
        write(files, data.report)
    except OutputError as error:
        print(f"of {data.root} no report can be made: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"the report cannot be written: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{data.report / 'report.html'} (made in {time.monotonic() - began:.1f} s)")


def make(data: DataDir, interval_s: float, last: timedelta | None) -> dict[str, str]:
    """Reads, compares and draws: the report's files, by their paths in its folder.

    Raises:
        OutputError: a file holds something else than it should, or the database cannot be read.
    """
    written = read_written(data, last)
    found = compare(written, interval_of(written.status, interval_s))
    report = content.report(found, written, times.now())
    drawn = {name: figures.svg(figure) for name, figure in figures.draw(found).items()}
    return {f"figures/{name}.svg": text for name, text in drawn.items()} | {
        name: _templates().get_template(f"{name}.j2").render(report=report, figures=drawn)
        for name in ("report.md", "report.html")
    }


def write(files: Mapping[str, str], folder: Path) -> None:
    """Into a folder; figures of an earlier report that this one has not are removed.

    Raises:
        OSError: the report cannot be written.
    """
    for old in (folder / "figures").glob("*.svg"):
        if f"figures/{old.name}" not in files:
            old.unlink()
    for name, text in files.items():
        write_atomically(folder / name, text, durable=False)


def packed(files: Mapping[str, str]) -> bytes:
    """The files as a ZIP archive."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        for name, text in files.items():
            into.writestr(name, text)
    return archive.getvalue()


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
