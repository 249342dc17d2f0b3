"""The page in Streamlit's own test harness, and in a real headless Chromium.

Tests share a server for each scenario, and tests that follow each other share an open page.
"""

import csv
import io
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import pytest
from playwright.sync_api import Locator, expect
from streamlit.testing.v1 import AppTest

from local.ports import free_port
from page import comparison_data
from page.comparison_data import ComparisonData
from page.comparison_worker import Comparer, LatestComparison
from page.parts import PARTS
from pipeline import outputs, times
from pipeline.data_dir import DataDir
from pipeline.metrics import definitions
from pipeline.stores.sqlite import SqliteStore
from tests import page_data
from tests.conftest import ROOT, Run, Running, running, wait_until
from tests.integration.conftest import Visit, show

VIEW = ROOT / "page" / "view.py"
#: Seconds between refreshes, and between two comparisons. The first pace is for tests of changing
#: data. The second one is for data that do not change: a refresh takes much of a core.
FAST_SECONDS, FAST_REST = 0.7, 3.0
CALM_SECONDS, CALM_REST = 4.0, 60.0
#: The table that counts windows by status, on the page as soon as there is a comparison.
STATUSES = "[class*=st-key-words-2-agreement-table-0]"
#: The headings of each part besides those of the comparison.
SUBHEADINGS = {
    "Results": (
        "Newest results",
        "Trades counted by each path",
        "Stream and batch over the same windows",
    ),
    "Batch run time": ("Batch run time by part", "Batch runs"),
    "Alerts": ("Alerts",),
    "Windows": ("Windows of the stream",),
    "Services": ("Services", "Rejected messages"),
    "Report": ("Report",),
}
#: Labels of the price chart's time axis, in the browser. A new price can change the price axis.
LABELS = (
    "() => [...document.querySelectorAll('.st-key-price svg.marks .role-axis-label text')]"
    ".map(label => label.textContent).filter(text => text.includes(':'))"
)


# --- the script alone ----------------------------------------------------------------------


@pytest.mark.parametrize("scenario", sorted(set(page_data.SCENARIOS) - {"days90"}))
def test_no_state_of_the_data_folder_breaks_the_page(scenario, tmp_path, monkeypatch) -> None:
    data = DataDir(tmp_path)
    page_data.SCENARIOS[scenario](data, times.now())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    loaded = comparison_data.load(data, SqliteStore(data.database), None, 60)
    latest = (
        LatestComparison(data=loaded)
        if isinstance(loaded, ComparisonData)
        else LatestComparison(problem=loaded)
    )
    monkeypatch.setattr(Comparer, "latest", lambda *_: latest)
    page = AppTest.from_file(str(VIEW), default_timeout=60)
    for part in PARTS:
        page.query_params["part"] = page.session_state["part"] = part
        page.run()
        assert not page.exception, part
        sections = [heading.value for heading in page.subheader]
        assert sections == ["Market (stream)", *SUBHEADINGS.get(part, ())], part
        if part == "Services":
            assert page.expander[0].label == "Settings, machine and versions"


def test_an_invalid_setting_stops_the_start_with_one_sentence(tmp_path) -> None:
    """Before any viewer comes, as with every other service."""
    started = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "dashboard.py", f"--server.port={free_port()}"],
        cwd=ROOT,
        env={"PATH": "", "WINDOW": "soon", "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 2
    assert "WINDOW" in started.stderr
    assert "soon" in started.stderr
    assert "Traceback" not in started.stderr


# --- servers --------------------------------------------------------------------------------


class Server(NamedTuple):
    """A page on a data directory."""

    data: DataDir
    address: str
    process: Running


def serve(
    run: Run,
    data: DataDir,
    *,
    port: int | None = None,
    pace: tuple[float, float] | None = None,
    **environment: object,
) -> Server:
    """Start the page, with the usual intervals or with this pace, and wait until it answers."""
    port = port or free_port()
    script = ["tests/paced_page.py", "--", *map(str, pace)] if pace else ["dashboard.py"]
    options = [script[0], f"--server.port={port}", *script[1:]]
    process = run("streamlit", "run", *options, DATA_DIR=data.root, **environment)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(f"{address}/_stcore/health"), 60, "the page", process)
    return Server(data, address, process)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def module_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running(tmp_path_factory.mktemp("servers")) as start:
        yield start


class Disputed(NamedTuple):
    """The page on a folder whose paths differ, and when each file was written."""

    server: Server
    written: dict[Path, int]


@pytest.fixture(scope="module")
def disputed(module_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Disputed:
    """The page with long intervals. No test changes its files."""
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, times.now())
    written = _modified(data)
    return Disputed(serve(module_run, data, pace=(CALM_SECONDS, CALM_REST)), written)


def _modified(data: DataDir) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in data.root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def fast_server(module_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The page with short intervals, on a folder that tests fill."""
    data = DataDir(tmp_path_factory.mktemp("fast") / "data")
    return serve(module_run, data, pace=(FAST_SECONDS, FAST_REST))


@pytest.fixture
def fast(fast_server: Server) -> Iterator[Server]:
    """The fast page on an empty folder."""
    shutil.rmtree(fast_server.data.root, ignore_errors=True)
    yield fast_server
    shutil.rmtree(fast_server.data.root, ignore_errors=True)


@pytest.fixture
def live(fast_server: Server) -> Server:
    """Return the fast page on a data directory whose services run, shared by successive tests."""
    if fast_server.data.stream_live.exists():
        page_data.refresh(fast_server.data, times.now(), page_data.LIVE)
    else:
        page_data.live(fast_server.data, times.now())
    return fast_server


@pytest.fixture(scope="module")
def forwarded_server(module_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Return the page with the usual intervals and the README's settings for other addresses."""
    data = DataDir(tmp_path_factory.mktemp("forwarded"))
    page_data.live(data, times.now())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    settings = dict(re.findall(r"\b(STREAMLIT_[A-Z_]+)=(\w+)", readme))
    assert len(settings) == 2
    return serve(module_run, data, **settings)


def status_of_a_connection(server: Server, host: str, origin: str) -> int:
    """Return how the server answers a browser that opens the page's WebSocket."""
    connection = HTTPConnection(server.address.removeprefix("http://"), timeout=20)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "streamlit"}
    connection.request(
        "GET", "/_stcore/stream", headers=upgrade | key | {"Host": host, "Origin": origin}
    )
    with closing(connection):
        return connection.getresponse().status


def test_the_page_works_behind_a_forwarded_address_with_the_two_settings_of_the_readme(
    fast_server: Server, forwarded_server: Server
) -> None:
    forwarded = "localhost:8501", "https://name-8501.app.example.dev"
    assert status_of_a_connection(fast_server, *forwarded) == HTTPStatus.FORBIDDEN
    assert status_of_a_connection(forwarded_server, *forwarded) == HTTPStatus.SWITCHING_PROTOCOLS


def compared(seen: Visit) -> Visit:
    """Wait until the comparison is on the page."""
    show(seen, "Agreement")
    seen.page.wait_for_selector(f"{STATUSES} td", timeout=60_000)
    return seen


def main_of(seen: Visit) -> Locator:
    return seen.page.locator("[data-testid=stMain]")


def statuses_of(seen: Visit) -> str:
    return " ".join(seen.text(STATUSES).split())


def _rows(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    for path in paths:
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def _live(data: DataDir) -> dict[str, Any]:
    return pd.read_csv(data.stream_live).iloc[-1].to_dict()  # type: ignore[return-value]


# --- one state ------------------------------------------------------------------------------


def test_the_page_shows_the_values_of_the_files_and_requests_nothing_elsewhere(
    disputed, shared_visit
) -> None:
    data = disputed.server.data
    seen = shared_visit("desk", disputed.server.address).charted()
    header = seen.text(".p-top")
    assert "BTC-USD" in header
    assert "SYNTHETIC" in header
    assert "LIVE" not in header
    results = show(seen, "Results").page.locator(".st-key-side-by-side")
    final = list(_rows(outputs.stream_files(data)))[-1]
    expect(results).to_contain_text(f"{float(final['close_price']):,.2f}", timeout=20_000)
    run = pd.read_csv(outputs.batch_files(data)[-1]).iloc[-1]
    expect(results).to_contain_text(f"{run['avg_price']:,.2f}")
    expect(results).to_contain_text(f"{run['rows']:,.0f}")
    seen.page.wait_for_selector(".st-key-counts-chart svg.marks", timeout=20_000)
    compared(seen)
    for part, charts, tables in (
        ("Overview", ("frontier",), 0),
        ("Agreement", ("agreement", "completeness"), 0),
        ("Freshness", ("latency", "watermark"), 0),
        ("Alerts", ("detection",), 0),
        ("Batch run time", ("growth", "micro_batches", "durations"), 1),
        ("Windows", (), 1),
        ("Services", (), 1),  # rejected messages
    ):
        show(seen, part)
        for key in charts:
            seen.page.wait_for_selector(f".st-key-{key}-chart svg.marks", timeout=20_000)
        if part == "Freshness":
            seen.page.wait_for_selector(".st-key-freshness-chart canvas", timeout=20_000)
        if part == "Alerts":
            expect(seen.page.locator(".st-key-alerts")).to_contain_text("● new", timeout=20_000)
        expect(seen.page.locator("[data-testid=stDataFrame]")).to_have_count(tables, timeout=20_000)
    expect(seen.page.locator("[class*=st-key-service-]")).to_have_count(4)
    seen.page.wait_for_timeout(1000 * CALM_SECONDS + 500)  # a refresh of every part
    assert seen.complaints == []
    assert seen.foreign == []


Windows = dict[str, dict[str, str]]


def windows_of(data: DataDir) -> tuple[Windows, Windows]:
    """Return the final windows of the stream and those of the batch, by their start."""
    paths = outputs.stream_files(data), [data.batch_windows]
    stream, batch = ({row["window_start"]: row for row in _rows(files)} for files in paths)
    return stream, batch


def differing_windows(stream: Windows, batch: Windows) -> set[str]:
    """Return the starts of the windows that both paths have with other values."""
    return {
        start
        for start in batch.keys() & stream.keys()
        if any(batch[start][name] != stream[start][name] for name in definitions.METRICS)
        or batch[start]["close_price"] != stream[start]["close_price"]
    }


def test_the_tooltip_of_a_cell_has_both_counts_and_the_cause(disputed, shared_visit) -> None:
    stream, batch = windows_of(disputed.server.data)
    seen = compared(shared_visit("desk", disputed.server.address))
    symbols = seen.page.locator(".st-key-agreement-chart svg.marks text", has_text="≠")
    symbols.first.scroll_into_view_if_needed()
    place = symbols.first.bounding_box()
    assert place is not None
    seen.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    differing = differing_windows(stream, batch)
    [late] = [n for n in differing if stream[n]["trade_count"] != batch[n]["trade_count"]]
    tooltip = seen.page.locator("#vg-tooltip-element")
    counts = (stream[late]["trade_count"], batch[late]["trade_count"])
    for text in (late[11:16], *counts, "differs", "cause", "dropped as late"):
        expect(tooltip).to_contain_text(text, timeout=10_000)


def assert_nothing_is_wider_than_the_window(seen: Visit, background: str) -> None:
    for part in (".stApp", ".p-top"):
        expect(seen.page.locator(part)).to_have_css("background-color", background)
    compared(seen)
    for part, last in (
        ("Overview", "[class*=overview-table]"),
        ("Results", ".st-key-side-by-side table"),
        ("Agreement", STATUSES),
        ("Freshness", ".st-key-latency-chart svg.marks"),
        ("Cost", "[class*=cost-table]"),
        ("Batch run time", ".st-key-micro_batches-chart svg.marks"),
        ("Services", ".st-key-services table"),
    ):
        show(seen, part).page.wait_for_selector(last, timeout=20_000)
        assert seen.overflow() == 0, part
        # Not while a refresh draws a table anew.
        assert seen.page.evaluate(
            "() => [...document.querySelectorAll('[data-testid=stTable]')]"
            ".every(box => box.scrollWidth - box.clientWidth <= 1)"
        ), part


def test_nothing_is_wider_than_the_window_and_the_theme_is_the_systems(
    disputed, shared_visit
) -> None:
    seen = shared_visit("desk", disputed.server.address).charted()
    assert_nothing_is_wider_than_the_window(seen, "rgb(255, 255, 255)")


def test_the_page_is_used_by_keyboard(disputed, shared_visit) -> None:
    """Arrows select the time range. A card leads to the tab with its details, below the header."""
    seen = compared(shared_visit("desk", disputed.server.address).charted())
    keys = seen.page.keyboard

    def tab_to(role: str, name: str) -> None:
        for _ in range(30):
            keys.press("Tab")
            here = seen.page.evaluate(
                "() => { const here = document.activeElement;"
                " return [here.getAttribute('role') || here.tagName, here.textContent] }"
            )
            if here == [role, name]:
                return
        pytest.fail(f"Tab does not lead to {role} {name}")

    seen.page.locator(".p-price").click()  # nothing invisible covers the header
    tab_to("radio", "15 min")
    keys.press("Enter")
    expect(seen.page.locator(".p-change")).to_contain_text("in 15 min", timeout=20_000)
    tab_to("BUTTON", "Freshness arrow_downward")
    keys.press("Enter")
    seen.page.wait_for_selector(".st-key-freshness-chart canvas", timeout=20_000)
    seen.page.wait_for_function(
        "() => { const top = document.querySelector('.p-top').getBoundingClientRect().bottom;"
        " const found = document.querySelector('.st-key-part [role=tab]').getBoundingClientRect();"
        " return found.top >= top - 1 && found.bottom < innerHeight / 2 }",
        timeout=10_000,
    )


def test_the_comparison_shows_how_the_files_differ(disputed, shared_visit) -> None:
    stream, batch = windows_of(disputed.server.data)
    alone, differing = batch.keys() - stream.keys(), differing_windows(stream, batch)
    assert (len(alone), len(differing)) == (1, 2)
    seen = compared(shared_visit("all", f"{disputed.server.address}/?span=everything"))
    assert f"{len(differing)}" in statuses_of(seen).partition("differs")[2]
    findings = seen.page.locator(".st-key-findings")
    unequal = len(differing) + len(alone)
    expect(findings).to_contain_text(f"{unequal} of {len(batch)} compared windows differ")
    seen.page.wait_for_selector(
        ".st-key-agreement-chart canvas, .st-key-agreement-chart svg.marks", timeout=20_000
    )
    listed = seen.page.locator("[class*=agreement-table-1]")
    for start in (*alone, *differing):
        expect(listed).to_contain_text(f"{start[:10]} {start[11:19]}")
    expect(listed).to_contain_text("/ 1")
    expect(listed).to_contain_text("dropped as late")
    expect(seen.page.locator("[class*=completeness-table-2]")).to_contain_text("43 to 48")
    both = stream.keys() & batch.keys()
    counted = [sum(int(path[one]["trade_count"]) for one in both) for path in (stream, batch)]
    show(seen, "Results")
    expect(main_of(seen)).to_contain_text(
        f"2 of {len(both)} windows in both paths differ", timeout=20_000
    )
    expect(main_of(seen)).to_contain_text(f"trades {counted[0] - counted[1]:+d}")
    totals = seen.page.locator("[class*=metrics-table-0] tr", has_text="trades")
    numbers = [f"{counted[0]:,}", f"{counted[1]:,}", f"{counted[0] - counted[1]:+,}"]
    expect(totals.locator("td")).to_have_text(["trades", *numbers])
    show(seen, "Services")
    rejected = seen.page.locator(".st-key-rejected-table [data-testid=data-grid-canvas]")
    for one in page_data.REJECTED_LATEST:
        expect(rejected).to_contain_text(str(one["reason"]), timeout=20_000)
        expect(rejected).to_contain_text(str(one["message"]))
    assert rejected.locator("script, b").count() == 0
    assert seen.complaints == []
    assert seen.foreign == []


def choose(seen: Visit, span: str) -> None:
    seen.page.get_by_text(span, exact=True).click()
    expect(seen.page.locator(".p-change")).to_contain_text(f"in {span}", timeout=20_000)


def test_the_downloads_are_the_report_and_the_windows_of_the_span(disputed, shared_visit) -> None:
    """Made from the files at the click."""
    data = disputed.server.data
    seen = shared_visit("all", f"{disputed.server.address}/?span=everything")

    def download(name: str) -> tuple[str, Path]:
        """Streamlit keeps a file for two refreshes, too short on an overloaded machine."""
        for _ in range(3):
            with seen.page.expect_download(timeout=60_000) as waiting:
                seen.page.get_by_role("button", name=name).click()
            if waiting.value.failure() is None:
                break
            seen.complaints.clear()  # the browser reports the failed attempt
        return waiting.value.suggested_filename, Path(waiting.value.path())

    show(seen, "Report")
    name, path = download("Download report (HTML)")
    assert name == "report.html"
    assert re.search(r"2 (of [\d,]+ )?windows differ", path.read_text())
    name, path = download("Download report and figures (ZIP)")
    assert name == "report.zip"
    figures = [name for name in zipfile.ZipFile(path).namelist() if name.endswith(".svg")]
    assert len(figures) >= 6
    assert not data.report.exists()
    assert seen.complaints == []
    choose(seen, "15 min")
    show(seen, "Windows")
    name, path = download("Download all windows")
    assert name == "windows-15min.csv"
    table = pd.read_csv(io.StringIO(path.read_text()), dtype=str)
    assert table["state"].tolist() == ["final"] * 13 + ["open"] * 2
    expected = [float(row["close_price"]) for row in _rows(outputs.stream_files(data))][-13:]
    assert table["close_price"].astype(float).tolist()[:13] == expected


def test_a_chosen_span_is_part_of_the_address(disputed, shared_visit, visit) -> None:
    seen = shared_visit("all", f"{disputed.server.address}/?span=everything").charted()
    for span in ("1 h", "15 min"):  # the first one is the default
        choose(seen, span)
    # The open tab is part of the address too.
    show(seen, "Windows")
    again = visit(seen.page.url).charted()
    expect(again.page.locator(".p-change")).to_contain_text("in 15 min", timeout=20_000)
    tab = again.page.get_by_role("tab", name="Windows", exact=True)
    expect(tab).to_have_attribute("aria-selected", "true")


#: The phone of the tests. Its system has a dark theme.
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "color_scheme": "dark",
}


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone_and_the_theme_is_the_systems(disputed, shared_visit) -> None:
    seen = shared_visit("phone", disputed.server.address, **PHONE).charted()
    assert_nothing_is_wider_than_the_window(seen, "rgb(18, 22, 28)")


@pytest.mark.slow
def test_a_finger_on_the_chart_scrolls_the_page(disputed, shared_visit) -> None:
    """On a phone the chart fills the screen."""
    seen = shared_visit("phone", disputed.server.address, **PHONE).charted()
    seen.page.locator(".st-key-price").scroll_into_view_if_needed()
    top = seen.page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollTop")
    box = seen.box(".st-key-price svg.marks")
    x, y = 200, min(box["y"] + 150, 700)
    finger = seen.context.new_cdp_session(seen.page)
    for n in range(15):
        kind = "touchStart" if n == 0 else "touchMove"
        points = [{"x": x, "y": y - 15 * n}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        seen.page.wait_for_timeout(20)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    moved = f"() => document.querySelector('[data-testid=stMain]').scrollTop > {top} + 100"
    seen.page.wait_for_function(moved, timeout=10_000)


def test_the_page_only_reads_and_only_this_machine_reaches_it(disputed, shared_visit) -> None:
    """After the tests above, no file has changed except SQLite's index of the WAL."""
    compared(shared_visit("all", f"{disputed.server.address}/?span=everything").charted())
    server = psutil.Process(disputed.server.process.pid)
    connections = [one for process in (server, *server.children()) for one in _sockets(process)]
    assert {one.laddr.ip for one in connections} == {"127.0.0.1"}
    assert {one.raddr.ip for one in connections if one.raddr} == {"127.0.0.1"}
    data = disputed.server.data
    index = {data.root / f"{data.database.name}-{kind}" for kind in ("shm", "wal")}
    after = {path: at for path, at in _modified(data).items() if path not in index}
    assert after == disputed.written


def _sockets(process: psutil.Process) -> list[Any]:
    with suppress(psutil.NoSuchProcess):
        return list(process.net_connections("inet"))
    return []


# --- the server -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_page_without_its_server_warns_and_recovers(
    forwarded_server: Server, run: Run, visit
) -> None:
    """The browser counts down by itself. The server stops at once, with a viewer connected."""
    server = forwarded_server
    page_data.refresh(server.data, times.now(), page_data.LIVE)
    seen = visit(server.address).charted()
    warning = seen.page.locator(".p-watch")
    assert seen.box(".p-watch")["height"] == 0
    expect(warning).to_have_css("visibility", "hidden")  # from screen readers, too
    began = time.monotonic()
    server.process.terminate(timeout=8)
    assert time.monotonic() - began < 8
    expect(warning).to_have_css("max-height", "96px", timeout=30_000)
    expect(warning).to_have_css("visibility", "visible")
    assert "No update from the page's server" in warning.inner_text()
    old = seen.text(".p-clock")
    serve(run, server.data, port=int(server.address.rpartition(":")[2]))
    expect(seen.page.locator(".p-clock")).not_to_have_text(old, timeout=60_000)
    expect(warning).to_have_css("max-height", "0px", timeout=30_000)


# --- changing data --------------------------------------------------------------------------


def test_a_refresh_shows_new_values_and_keeps_zoom_scroll_and_drawing(live, shared_visit) -> None:
    seen = compared(shared_visit("live", live.address).charted())
    page = show(seen, "Windows").page
    page.wait_for_selector("[data-testid=stDataFrame] .dvn-scroller", timeout=20_000)
    page.wait_for_timeout(1000)
    whole = page.evaluate(LABELS)
    page.locator(".st-key-price").scroll_into_view_if_needed()
    box = seen.box(".st-key-price svg.marks")
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 100)
    page.keyboard.down("Control")
    for _ in range(6):
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(50)
    page.keyboard.up("Control")
    page.wait_for_timeout(1000)
    zoomed = page.evaluate(LABELS)
    assert zoomed != whole
    page.evaluate(
        "() => { window.before = {"
        " chart: document.querySelector('.st-key-price svg.marks'),"
        " table: document.querySelector('[data-testid=stDataFrame] .dvn-scroller')};"
        " window.before.table.scrollTop = 300;"
        " const main = document.querySelector('[data-testid=stMain]');"
        " main.scrollTop = 500;"
        " window.before.scrollTop = main.scrollTop;"
        " window.before.top = window.before.chart.getBoundingClientRect().top }"
    )
    before = seen.text(".p-age")
    for _ in range(3):
        page.wait_for_timeout(1000 * FAST_SECONDS)
        page_data.refresh(live.data, times.now(), page_data.LIVE)
    expect(page.locator(".p-age")).not_to_have_text(before, timeout=20_000)
    assert page.evaluate(LABELS) == zoomed
    kept = page.evaluate(
        "() => [window.before.chart.isConnected, window.before.table.isConnected,"
        " window.before.table.scrollTop,"
        " Math.abs(window.before.chart.getBoundingClientRect().top - window.before.top) < 2,"
        " window.before.scrollTop > 100]"
    )
    assert kept == [True, True, 300, True, True]
    written = f"{float(_live(live.data)['trade_count']):,.0f}"
    results = show(seen, "Results").page.locator(".st-key-side-by-side")
    expect(results).to_contain_text(written, timeout=20_000)
    # the header stays in view
    assert seen.box(".p-top")["y"] == pytest.approx(0, abs=2)
    assert seen.complaints == []


def test_a_refresh_dims_nothing(live, shared_visit) -> None:
    """Streamlit fades elements of a refresh that takes longer; the page does not."""
    seen = compared(shared_visit("live", live.address).charted())
    seen.page.evaluate(
        "() => { window.opacities = []; window.looking = true; const look = () => {"
        " for (const one of document.querySelectorAll('[data-stale=true]'))"
        " window.opacities.push(Number(getComputedStyle(one).opacity));"
        " if (window.looking) requestAnimationFrame(look) }; look() }"
    )
    for _ in range(4):
        page_data.refresh(live.data, times.now(), page_data.LIVE)
        seen.page.wait_for_timeout(1000 * FAST_SECONDS)
    opacities = seen.page.evaluate("() => { window.looking = false; return window.opacities }")
    assert set(opacities) == {1}  # and some elements were stale


def test_a_paused_page_stays_as_it_is_until_it_continues(live, shared_visit) -> None:
    seen = shared_visit("live", live.address).charted()
    switch = seen.page.get_by_role("switch", name="Pause")
    switch.focus()
    seen.page.keyboard.press("Space")
    expect(seen.page.locator(".p-chips")).to_contain_text("PAGE PAUSED", timeout=20_000)
    seen.page.wait_for_timeout(1000)  # a refresh that was under way ends
    before = seen.text(".p-clock"), seen.text(".p-age")
    seen.page.wait_for_timeout(1500 + 3000 * FAST_SECONDS)
    assert (seen.text(".p-clock"), seen.text(".p-age")) == before
    switch.focus()
    seen.page.keyboard.press("Space")
    expect(seen.page.locator(".p-clock")).not_to_have_text(before[0], timeout=20_000)
    expect(seen.page.locator(".p-chips")).not_to_contain_text("PAGE PAUSED")
    assert seen.complaints == []


def test_viewers_share_one_comparison_and_see_the_same(live, shared_visit, visit) -> None:
    both = [one.charted() for one in (shared_visit("live", live.address), visit(live.address))]
    server = psutil.Process(live.process.pid)

    def comparisons() -> int:
        page_data.refresh(live.data, times.now(), page_data.LIVE)
        return len(server.children())

    most = wait_until(comparisons, 20, "a comparison")
    for _ in range(12):
        time.sleep(0.3)
        most = max(most, comparisons())
    assert most == 1
    counted = f"{float(_live(live.data)['trade_count']):,.0f}"
    for seen in both:
        results = show(seen, "Results").page.locator(".st-key-side-by-side")
        expect(results).to_contain_text(counted, timeout=20_000)
        show(seen, "Agreement")
        expect(seen.page.locator(STATUSES).first).to_contain_text("equal", timeout=60_000)
        assert seen.complaints == []


def test_the_search_in_a_table_survives_refreshes(live, shared_visit) -> None:
    seen = show(shared_visit("live", live.address).charted(), "Windows")
    table = seen.page.locator("[data-testid=stDataFrame]").first
    # Away from the header, which stays at the top of the window.
    table.evaluate("element => element.scrollIntoView({block: 'center'})")
    table.hover()
    table.get_by_role("button", name="Search").first.press("Enter")
    seen.page.keyboard.type("open")
    found = seen.page.locator(".gdg-search-status, [data-testid=search-result-area]").first
    expect(found).to_contain_text("2 results", timeout=20_000)  # the two open windows
    seen.page.wait_for_timeout(3000 * FAST_SECONDS)
    expect(found).to_contain_text("2 results")


def test_a_new_comparison_replaces_the_data_and_keeps_the_drawing(fast, shared_visit) -> None:
    now = times.now()
    page_data.sample(fast.data, now)
    seen = compared(shared_visit("changing", fast.address))
    expect(seen.page.locator(STATUSES).first).to_contain_text(
        re.compile(r"differs\s*0"), timeout=60_000
    )
    # The drawing of the test before can still be there: it must be the same for a second.
    is_drawn = (
        "() => { const before = window.strip;"
        " window.strip = document.querySelector('.st-key-agreement-chart svg.marks');"
        " return window.strip !== null && window.strip === before }"
    )
    seen.page.wait_for_function(is_drawn, polling=1000, timeout=20_000)
    finals = page_data.windows_until(page_data.floor(now) - timedelta(minutes=1), 180)
    finals[-5]["close_price"] = 1.0
    page_data.write_batch(fast.data, finals, now - timedelta(seconds=40))
    expect(seen.page.locator(STATUSES).first).to_contain_text(
        re.compile(r"differs\s*1"), timeout=60_000
    )
    assert seen.page.evaluate("() => window.strip.isConnected")
    assert seen.complaints == []


def test_a_locked_database_is_named_and_the_last_comparison_stays(fast, shared_visit) -> None:
    """The message disappears when the lock ends."""
    data = fast.data
    page_data.disputed(data, times.now())
    seen = compared(shared_visit("changing", fast.address))
    expect(seen.page.locator(STATUSES).first).to_contain_text(
        re.compile(r"differs\s*2"), timeout=60_000
    )
    before = statuses_of(seen)
    problem = seen.page.locator("[data-testid=stAlert]", has_text="has locked it")
    with closing(sqlite3.connect(data.database, isolation_level=None)) as keeper:
        keeper.execute("PRAGMA locking_mode = EXCLUSIVE")
        keeper.execute("BEGIN IMMEDIATE")
        expect(problem.first).to_contain_text(
            "crypto_prices.db: another program has locked it", timeout=60_000
        )
        expect(problem.first).to_contain_text("No newer comparison")
        assert statuses_of(seen) == before
        keeper.execute("ROLLBACK")
    expect(problem).to_have_count(0, timeout=60_000)
    assert seen.complaints == []


def test_every_state_is_named_on_a_page_that_stays_open(fast, shared_visit) -> None:
    """The files change below one open page, which follows without an error in the browser."""
    data = fast.data
    seen = shared_visit("changing", fast.address)
    for scenario, word, text in (
        ("empty", "WAITING", "No window yet"),
        ("wrong", "UNUSABLE", "8,551 messages are for BTC-USD, but PRODUCT_ID is ETH-USD"),
        ("starting", "REPLAY", "spark_processor has been starting"),
        ("foreign", "REPLAY", "so this pipeline did not write it"),
        ("foreign", "REPLAY", "No newer comparison:"),
        ("stale", "STALE", "no trade for"),
        ("down", "DOWN", "no heartbeat from producer"),
        ("stopped_stream", "STALE", "no heartbeat from spark_processor"),
        ("ended", "ENDED", page_data.NASTY_NAME),
        ("empty", "WAITING", "Nothing to compare yet"),
    ):
        shutil.rmtree(data.root, ignore_errors=True)
        page_data.SCENARIOS[scenario](data, times.now())
        expect(seen.page.locator(".p-chips")).to_contain_text(word, timeout=30_000)
        expect(main_of(seen)).to_contain_text(text, timeout=30_000)
        if scenario == "ended":
            show(seen, "Services")
            # neither HTML nor Markdown of a recording's name is rendered
            expect(seen.page.locator(".p-reason")).to_contain_text(page_data.NASTY_NAME)
            assert seen.page.locator(".p-top b, .p-top a, .p-top code, .p-top em").count() == 0
            cards = seen.page.locator(".st-key-services")
            expect(cards).to_contain_text(page_data.NASTY_NAME, timeout=20_000)
            assert cards.locator("td :is(b, strong, em, code, .katex)").count() == 0
        seen.page.wait_for_timeout(2000 * FAST_SECONDS)
        assert seen.complaints == [], scenario


# --- a long time ---------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> DataDir:
    return DataDir(tmp_path / "data")


@pytest.mark.slow
def test_with_90_days_of_windows_a_refresh_costs_little(data, run, visit) -> None:
    """129,600 windows on both paths: first paint, and the server's CPU per second of one viewer.

    One header, half of the results, a quarter of the records and a fifth of the comparison are
    written in a second.
    """
    page_data.days90(data, times.now())
    server = serve(run, data)
    process = psutil.Process(server.process.pid)
    seen = show(visit(f"{server.address}/?span=everything"), "Results")
    expect(main_of(seen)).to_contain_text("129,600 final", timeout=60_000)
    seen.page.wait_for_selector(".st-key-price canvas, .st-key-price svg.marks", timeout=60_000)
    seen.page.wait_for_timeout(5000)
    compared(seen).page.wait_for_selector(".st-key-agreement-chart canvas", timeout=60_000)
    seen.close()
    time.sleep(2)
    clock, used = time.monotonic(), sum(process.cpu_times()[:2])
    seen = visit(f"{server.address}/?span=everything")
    seen.page.wait_for_selector(".st-key-price canvas", timeout=60_000)
    charted, cost = time.monotonic() - clock, sum(process.cpu_times()[:2]) - used
    first_paint = seen.page.evaluate(
        "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )
    print(f"first paint after {first_paint:.0f} ms, the chart after {charted * 1000:.0f} ms")
    print(f"first view: {cost * 1000:.0f} ms of CPU in the server")
    assert first_paint < 1500
    assert cost < 0.8
    clock, used = time.monotonic(), sum(process.cpu_times()[:2])
    for _ in range(10):
        time.sleep(1)
        page_data.write_live(data, times.now())
    elapsed = timedelta(seconds=time.monotonic() - clock)
    cost = (sum(process.cpu_times()[:2]) - used) / elapsed.total_seconds()
    print(f"{cost * 1000:.0f} ms of CPU a second, {process.memory_info().rss / 2**20:.0f} MiB")
    assert cost < 0.15


#: As many as in a quarter of an hour at the usual intervals.
REFRESHES = 500


@pytest.mark.slow
def test_a_page_that_stays_open_does_not_grow(data, run, visit) -> None:
    """Neither in the server nor in the browser, over many refreshes of all its parts."""
    page_data.sample(data, times.now())
    server = serve(run, data, pace=(0.1, FAST_REST))
    seen = compared(visit(server.address).charted())
    page, process = seen.page, psutil.Process(server.process.pid)
    tools = seen.context.new_cdp_session(page)
    page.evaluate(
        "() => { window.refreshes = 0; new MutationObserver(() => window.refreshes++).observe("
        "document.querySelector('[data-testid=stHtml]:has(.p-top)').parentElement,"
        " { childList: true, subtree: true, characterData: true }) }"
    )

    def after(refreshes: int) -> tuple[float, float]:
        """Return the MiB of the server and of the browser's heap."""
        end = time.monotonic() + 2 * REFRESHES
        while page.evaluate("() => window.refreshes") < refreshes:
            assert time.monotonic() < end
            page_data.refresh(data, times.now(), page_data.replay())
            page.wait_for_timeout(300)
        tools.send("HeapProfiler.collectGarbage")
        heap = tools.send("Runtime.getHeapUsage")["usedSize"]
        return process.memory_info().rss / 2**20, heap / 2**20

    first, last = after(REFRESHES // 2), after(REFRESHES)
    print(f"server {first[0]:.0f} → {last[0]:.0f} MiB, browser {first[1]:.0f} → {last[1]:.0f} MiB")
    assert last[0] - first[0] < 25
    assert last[1] - first[1] < 40
    assert seen.complaints == []
