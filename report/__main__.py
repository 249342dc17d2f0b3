"""Write the report: `python -m report`, or `make report`.

The report is in `DATA_DIR/report/`: `report.html`, which contains its figures, and `report.md`,
which refers to `figures/`.
"""

import argparse
import base64
import re
import sys
import time
import zipfile
from collections.abc import Container, Iterable, Mapping
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from pipeline import stores, times
from pipeline.compare.arguments import add_minutes
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.decision import headline
from pipeline.compare.figures import figures
from pipeline.compare.inputs import read_outputs, require_folder
from pipeline.compare.reproduction import run_sections
from pipeline.compare.section import Section
from pipeline.compare.sections import sections
from pipeline.compare.summary import summary
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError, exit_on_error, sentence
from pipeline.outputs import stream_files
from pipeline.settings import load
from pipeline.source import check, feed_description
from pipeline.stores.interface import Store
from pipeline.text_files import write_atomically
from report.figures import draw, svg

TITLE = "Stream and batch: one market feed, processed both ways"


def main() -> None:
    """Write the report of `DATA_DIR`, or exit with one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_minutes(parser)
    parser.add_argument(
        "--zip", action="store_true", help="print the report as a ZIP archive and write no file"
    )
    arguments = parser.parse_args()
    settings = load()
    data = DataDir(settings.data_dir)
    began = time.monotonic()
    with exit_on_error():
        if not arguments.zip:  # the page offers the report, also before the directory exists
            require_folder(data)
            require_results(data)
        check(data, settings)
        interval_s = settings.batch_interval_seconds
        files = make(data, stores.store_of(settings), interval_s, arguments.minutes)
        if arguments.zip:
            sys.stdout.buffer.write(zipped(files))
            return
        write(files, data.report)
    print(f"{data.report / 'report.html'} (took {time.monotonic() - began:.1f} s)")


def require_results(data: DataDir) -> None:
    """Raise OutputError if there is nothing to report: no window and no batch run."""
    others = (data.stream_live, data.batch_windows, data.batch_log)
    if stream_files(data) or any(path.exists() for path in others):
        return
    raise OutputError(
        "Nothing to report yet: DATA_DIR has no window and no batch run. Start a stack with "
        f"`make demo` or `make run`, and wait for its first results. DATA_DIR={data.root}"
    )


def make(
    data: DataDir,
    trades: Store,
    default_interval_s: float,
    last: timedelta | None,
) -> dict[str, str]:
    """Read, compare and draw.

    Args:
        data: The data directory.
        trades: The store of the trades.
        default_interval_s: The batch interval, used if the scheduler's is unknown.
        last: Cover only this time before the newest result. None: everything.

    Returns:
        The text of each file, by its path below the report's directory.

    Raises:
        OutputError: A file has unexpected content, or the database cannot be read.
    """
    comparison = compare(read_outputs(data, trades, last), default_interval_s)
    shown = (*sections(comparison), *run_sections(comparison))
    drawn = {name: svg(figure) for name, figure in draw(figures(comparison)).items()}
    context = {
        "title": TITLE,
        "made": f"{times.now():%Y-%m-%d %H:%M} UTC",
        "about": f"{_source(comparison)}. {_span(comparison)}",
        "headline": headline(comparison),
        "summary": summary(comparison),
        "sections": shown,
        "figures": drawn,
        "captions": captions(shown, drawn),
    }
    return {f"figures/{name}.svg": text for name, text in drawn.items()} | {
        name: _templates().get_template(f"{name}.j2").render(context)
        for name in ("report.md", "report.html")
    }


def captions(shown: Iterable[Section], drawn: Container[str]) -> dict[str, str]:
    """Return the numbered caption of each figure, by the key of its section."""
    with_figure = [section for section in shown if section.key in drawn]
    return {
        section.key: " ".join(
            filter(None, (f"Figure {number}. {section.figure_alt}.", section.figure_note))
        )
        for number, section in enumerate(with_figure, 1)
    }


def _source(comparison: Comparison) -> str:
    text = feed_description(comparison.outputs.source) or "data source unknown"
    return text[0].upper() + text[1:]


def _span(comparison: Comparison) -> str:
    if comparison.span is None:
        return "No results from both paths yet"
    start, end = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in comparison.span)
    return f"Results from {start} to {end} UTC"


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the report and remove figures of an earlier report that this one lacks.

    Raises:
        OutputError: A file cannot be written.
    """
    try:
        for old in (folder / "figures").glob("*.svg"):
            if f"figures/{old.name}" not in files:
                old.unlink()
        for name, text in files.items():
            write_atomically(folder / name, text, durable=False)
    except OSError as error:
        raise OutputError(f"Cannot write the report. {sentence(error)}") from error


def zipped(files: Mapping[str, str]) -> bytes:
    """Return the files as a ZIP archive."""
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
    environment.filters["plain"] = escape_markdown
    environment.filters["code"] = code_to_html
    return environment


def escape_markdown(text: str) -> str:
    """Return text from the data with every character escaped that Markdown would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def code_to_html(text: str) -> Markup:
    """Return a paragraph as HTML: escaped, with text between backquotes as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )


if __name__ == "__main__":
    main()
