"""The page in Streamlit's own test harness, and in a real headless Chromium."""

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest

from page import digest
from page.background import Compared, Comparer
from page.digest import Digest
from pipeline import metrics, outputs, times
from pipeline.outputs import DataDir
from tests import page_data
from tests.conftest import ROOT, Run, Running, free_port, wait_until
from tests.integration.conftest import Visit

VIEW = ROOT / "page" / "view.py"
#: Labels of the price chart's axes, in the browser.
LABELS = (
    "() => [...document.querySelectorAll('.st-key-price svg.marks .role-axis-label text')]"
    ".map(label => label.textContent)"
)


# --- the script alone ----------------------------------------------------------------------


@pytest.mark.parametrize("scenario", sorted(set(page_data.SCENARIOS) - {"days90"}))
def test_no_state_of_the_data_folder_breaks_the_page(scenario, tmp_path, monkeypatch) -> None:
    data = DataDir(tmp_path)
    page_data.SCENARIOS[scenario](data, times.now())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    made = digest.made(data, None, 60)
    found = Compared(digest=made) if isinstance(made, Digest) else Compared(problem=made)
    monkeypatch.setattr(Comparer, "latest", lambda *_: found)
    page = AppTest.from_file(str(VIEW), default_timeout=60).run()
    assert not page.exception
    sections = [heading.value for heading in page.subheader]
    assert sections[:2] == ["Market, by the stream", "Stream and batch, side by side"]
    assert sections[2] == "Comparison"
    assert sections[-3:] == ["Services", "Gaps and rejected messages", "Report"]
    assert page.expander[0].label == "Settings, machine and versions"


def test_refused_settings_end_the_start_in_one_sentence(tmp_path) -> None:
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
    assert "setting WINDOW='soon' is invalid: must be a whole number" in started.stderr
    assert "Traceback" not in started.stderr


# --- in the browser -------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> DataDir:
    return DataDir(tmp_path / "data")


@pytest.fixture
def serve(run: Run, data: DataDir) -> Callable[[], tuple[str, Running]]:
    """Starts the page on the data folder; gives its address and its process."""

    def started(port: int | None = None) -> tuple[str, Running]:
        port = port or free_port()
        process = run(
            "streamlit", "run", "dashboard.py", f"--server.port={port}", DATA_DIR=data.root
        )
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{address}/_stcore/health"), 60, "the page", process)
        return address, process

    return started


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_page_shows_what_the_files_hold_and_calls_nobody(data, serve, visit) -> None:
    page_data.sample(data, times.now())
    address, _ = serve()
    seen = visit(address).charted()
    top = seen.text(".p-top")
    assert "BTC-USD" in top
    assert "SYNTHETIC" in top
    assert "LIVE" not in top
    metrics = seen.text(".p-metrics")
    [day] = {row["window_start"][:10] for row in _cells(data)[-1:]}
    final = _cells(data)[-1]
    assert final["window_start"].startswith(day)
    assert f"{float(final['close_price']):,.2f}" in metrics
    run = pd.read_csv(outputs.batch_files(data)[-1]).iloc[-1]
    assert f"{run['avg_price']:,.2f}" in metrics
    assert f"{run['rows']:,.0f}" in metrics
    compared(seen)
    for key in ("price", "strip-drawn", "growth-drawn", "micro-drawn"):
        seen.page.wait_for_selector(f".st-key-{key} svg.marks", timeout=20_000)
    drawn = seen.page.evaluate("() => document.querySelectorAll('.vega-embed svg.marks').length")
    assert drawn == 3 + 3
    seen.page.wait_for_selector(".st-key-ages-drawn canvas", timeout=20_000)
    assert seen.page.locator("[data-testid=stDataFrame]").count() == 2
    assert len(seen.page.locator(".p-card").all()) == 4
    seen.page.wait_for_timeout(5000)
    assert seen.complaints == []
    assert seen.foreign == []


def _cells(data: DataDir) -> list[dict[str, str]]:
    """The rows of the newest day of final windows, as text."""
    table = pd.read_csv(outputs.stream_files(data)[-1], dtype=str, keep_default_na=False)
    return [{str(k): str(v) for k, v in row.items()} for row in table.to_dict("records")]


def compared(seen: Visit) -> Visit:
    """Waits until the comparison is there."""
    seen.page.wait_for_selector(".p-legend", timeout=60_000)
    return seen


def test_it_only_reads_and_only_this_machine_reaches_it(data, serve, visit) -> None:
    """No file of the data folder changes but SQLite's index of the WAL."""
    page_data.disputed(data, times.now())
    written = {path: path.stat().st_mtime_ns for path in data.root.rglob("*") if path.is_file()}
    address, process = serve()
    compared(visit(address).charted())
    server = psutil.Process(process.pid)
    connections = [one for process in (server, *server.children()) for one in _sockets(process)]
    assert {one.laddr.ip for one in connections} == {"127.0.0.1"}
    assert {one.raddr.ip for one in connections if one.raddr} == {"127.0.0.1"}
    after = {path: path.stat().st_mtime_ns for path in data.root.rglob("*") if path.is_file()}
    index = {data.root / f"{data.database.name}-{kind}" for kind in ("shm", "wal")}
    assert {path: at for path, at in after.items() if path not in index} == written


def _sockets(process: psutil.Process) -> list[Any]:
    with suppress(psutil.NoSuchProcess):
        return list(process.net_connections("inet"))
    return []


def test_the_comparison_says_how_the_files_differ(data, serve, visit) -> None:
    page_data.disputed(data, times.now())
    stream = {row["window_start"]: row for row in _rows(outputs.stream_files(data))}
    batch = {row["window_start"]: row for row in _rows([data.batch_windows])}
    alone = batch.keys() - stream.keys()
    differing = {
        start
        for start in batch.keys() & stream.keys()
        if any(batch[start][name] != stream[start][name] for name in metrics.METRICS)
        or batch[start]["close_price"] != stream[start]["close_price"]
    }
    assert (len(alone), len(differing)) == (1, 2)
    address, _ = serve()
    seen = compared(visit(f"{address}/?span=everything"))
    legend = " ".join(seen.text(".p-legend").split())
    agreeing = len(stream) - len(differing)
    assert f"{len(differing)}" in legend.partition("differs")[2]
    verdict = seen.text(".p-verdict")
    assert f"he paths agree on {agreeing} of {len(batch)} compared minutes" in verdict
    assert "Not explained in 2 minutes" in verdict
    both = stream.keys() & batch.keys()
    counted = [sum(int(path[one]["trade_count"]) for one in both) for path in (stream, batch)]
    expect(seen.page.locator("[data-testid=stMain]")).to_contain_text(
        f"Of the {len(both)} windows in both 2 differ; rolled up: "
    )
    expect(seen.page.locator("[data-testid=stMain]")).to_contain_text(
        f"trades {counted[0] - counted[1]:+d}"
    )
    seen.page.wait_for_selector(
        ".st-key-strip-drawn canvas, .st-key-strip-drawn svg.marks", timeout=20_000
    )
    listed = seen.page.get_by_role("region", name="Windows that differ")
    for start in (*alone, *differing):
        expect(listed).to_contain_text(f"{start[:10]} {start[11:19]}")
    expect(listed).to_contain_text("/ 1")
    expect(listed).to_contain_text("too late for the stream")
    gaps = seen.page.get_by_role("region", name="Gaps")
    expect(gaps).to_contain_text("43 to 48")
    rejected = seen.page.get_by_role("region", name="Rejected messages")
    for one in page_data.REJECTED_LATEST:
        expect(rejected).to_contain_text(str(one["reason"]))
        expect(rejected).to_contain_text(str(one["message"]))
    assert rejected.locator("script, b").count() == 0
    assert seen.complaints == []
    assert seen.foreign == []
    # a cell of the strip tells both counts and the cause
    seen = compared(visit(address))
    symbols = seen.page.locator(".st-key-strip-drawn svg.marks text", has_text="≠")
    symbols.first.scroll_into_view_if_needed()
    place = symbols.first.bounding_box()
    assert place is not None
    seen.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    [late] = [n for n in differing if stream[n]["trade_count"] != batch[n]["trade_count"]]
    tooltip = seen.page.locator("#vg-tooltip-element")
    counts = (stream[late]["trade_count"], batch[late]["trade_count"])
    for said in (late[11:16], *counts, "differs", "cause", "too late for the stream"):
        expect(tooltip).to_contain_text(said, timeout=10_000)


def _rows(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    for path in paths:
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def test_a_new_comparison_replaces_data_and_no_drawing(data, serve, visit) -> None:
    now = times.now()
    page_data.sample(data, now)
    address, _ = serve()
    seen = compared(visit(address))
    chart = "() => document.querySelector('.st-key-strip-drawn svg.marks')"
    seen.page.wait_for_function(chart, timeout=20_000)
    seen.page.evaluate(f"() => {{ window.strip = ({chart})() }}")
    assert "differs 0" in " ".join(seen.text(".p-legend").split())
    finals = page_data.windows_until(page_data.floor(now) - timedelta(minutes=1), 180)
    finals[-5]["close_price"] = 1.0
    page_data.write_batch(data, finals, now - timedelta(seconds=40))
    expect(seen.page.locator(".p-legend").first).to_contain_text(
        re.compile(r"differs\s*1"), timeout=60_000
    )
    assert seen.page.evaluate("() => window.strip.isConnected")
    assert seen.complaints == []


def test_the_report_and_its_figures_are_made_and_taken_along(data, serve, visit) -> None:
    """From the files as they are at the click, with none of them changed."""
    page_data.disputed(data, times.now())
    address, _ = serve()
    seen = visit(f"{address}/?span=everything")
    with seen.page.expect_download(timeout=60_000) as waiting:
        seen.page.get_by_role("button", name="the report, HTML").click()
    assert waiting.value.suggested_filename == "report.html"
    assert "UNEXPLAINED: 2 windows differ" in Path(waiting.value.path()).read_text()
    with seen.page.expect_download(timeout=60_000) as waiting:
        seen.page.get_by_role("button", name="with its figures").click()
    assert waiting.value.suggested_filename == "report.zip"
    names = zipfile.ZipFile(waiting.value.path()).namelist()
    assert len([name for name in names if name.endswith(".svg")]) >= 6
    assert not data.report.exists()
    assert seen.complaints == []


def test_a_refresh_brings_new_values_and_keeps_zoom_scroll_and_drawing(data, serve, visit) -> None:
    page_data.live(data, times.now())
    address, _ = serve()
    seen = compared(visit(address).charted())
    page = seen.page
    page.wait_for_timeout(1500)
    whole = page.evaluate(LABELS)
    box = seen.box(".st-key-price svg.marks")
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 150)
    page.keyboard.down("Control")
    for _ in range(6):
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(50)
    page.keyboard.up("Control")
    page.wait_for_timeout(1500)
    zoomed = page.evaluate(LABELS)
    assert zoomed != whole
    page.evaluate(
        "() => { window.before = {"
        " chart: document.querySelector('.st-key-price svg.marks'),"
        " table: document.querySelector('[data-testid=stDataFrame] .dvn-scroller')};"
        " window.before.table.scrollTop = 300;"
        " document.querySelector('[data-testid=stMain]').scrollTop = 500 }"
    )
    first = seen.text(".p-metrics")
    for _ in range(3):
        time.sleep(1)
        page_data.refresh(data, times.now(), page_data.LIVE)
    written = f"{float(_live(data)['trade_count']):,.0f}"
    expect(page.locator(".p-metrics")).to_contain_text(written, timeout=20_000)
    assert seen.text(".p-metrics") != first
    assert page.evaluate(LABELS) == zoomed
    kept = page.evaluate(
        "() => [window.before.chart.isConnected, window.before.table.isConnected,"
        " window.before.table.scrollTop,"
        " document.querySelector('[data-testid=stMain]').scrollTop]"
    )
    assert kept == [True, True, 300, 500]
    # the top stays in view
    assert seen.box(".p-top")["y"] == pytest.approx(0, abs=2)
    assert seen.complaints == []


def _live(data: DataDir) -> dict[str, Any]:
    return pd.read_csv(data.stream_live).iloc[-1].to_dict()  # type: ignore[return-value]


def test_a_span_is_chosen_with_a_click_and_stands_in_the_address(data, serve, visit) -> None:
    page_data.live(data, times.now())
    address, _ = serve()
    seen = visit(address).charted()
    seen.page.get_by_text("15 min", exact=True).click()
    expect(seen.page.locator(".p-change")).to_contain_text("over 15 min", timeout=20_000)
    again = visit(seen.page.url).charted()
    expect(again.page.locator(".p-change")).to_contain_text("over 15 min", timeout=20_000)


def test_the_download_holds_the_windows_of_the_span(data, serve, visit) -> None:
    page_data.live(data, times.now())
    address, _ = serve()
    seen = visit(f"{address}/?span=15+min").charted()
    with seen.page.expect_download() as waiting:
        seen.page.get_by_role("button", name="Download all windows").click()
    assert waiting.value.suggested_filename == "windows-15min.csv"
    table = pd.read_csv(io.StringIO(Path(waiting.value.path()).read_text()), dtype=str)
    rows = list(_rows(outputs.stream_files(data)))
    assert table["state"].tolist() == ["final"] * 13 + ["open"] * 2
    expected = [float(row["close_price"]) for row in rows[-13:]]
    assert table["close_price"].astype(float).tolist()[:13] == expected


def test_the_tables_are_searched(data, serve, visit) -> None:
    page_data.live(data, times.now())
    address, _ = serve()
    seen = visit(f"{address}/?span=15+min").charted()
    table = seen.page.locator("[data-testid=stDataFrame]").first
    table.scroll_into_view_if_needed()
    table.hover()
    table.get_by_role("button", name="Search").first.click()
    seen.page.keyboard.type("open")
    found = seen.page.locator(".gdg-search-status, [data-testid=search-result-area]").first
    expect(found).to_contain_text("2 results", timeout=20_000)  # the two open windows
    seen.page.wait_for_timeout(9000)  # two refreshes of the table
    expect(found).to_contain_text("2 results")


def test_the_page_is_used_by_keyboard(data, serve, visit) -> None:
    """The span by arrows, a section by its link: its heading is then in sight, not covered."""
    page_data.sample(data, times.now())
    address, _ = serve()
    seen = compared(visit(address).charted())
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

    seen.page.locator(".p-price").click()  # nothing invisible lies over what stands at the top
    tab_to("radio", "15 min")
    keys.press("Enter")
    expect(seen.page.locator(".p-change")).to_contain_text("over 15 min", timeout=20_000)
    tab_to("A", "Services")
    keys.press("Enter")
    seen.page.wait_for_function(
        "() => { const top = document.querySelector('.p-top').getBoundingClientRect().bottom;"
        " const found = document.getElementById('services').getBoundingClientRect();"
        " return found.top >= top - 1 && found.bottom < innerHeight }",
        timeout=10_000,
    )


def test_several_viewers_see_the_same_and_one_comparison_serves_them(data, serve, visit) -> None:
    page_data.live(data, times.now())
    address, process = serve()
    both = [visit(address).charted() for _ in range(2)]
    server, most = psutil.Process(process.pid), 0
    for _ in range(20):
        time.sleep(0.5)
        page_data.refresh(data, times.now(), page_data.LIVE)
        most = max(most, len(server.children()))
    assert most <= 1
    rows = [path.read_text() for path in (data.stream_live,)]
    counted = f"{float(_live(data)['trade_count']):,.0f}"
    for seen in both:
        expect(seen.page.locator(".p-metrics")).to_contain_text(counted, timeout=20_000)
        expect(seen.page.locator(".p-legend").first).to_contain_text("equal", timeout=60_000)
        assert seen.complaints == []
    assert rows == [data.stream_live.read_text()]


def test_text_from_data_stands_letter_by_letter(data, serve, visit) -> None:
    """Neither HTML nor Markdown of a recording's name is rendered."""
    page_data.ended(data, times.now())
    address, _ = serve()
    seen = visit(address)
    assert page_data.NASTY_NAME in seen.text(".p-reason")
    assert seen.page.locator(".p-top b, .p-top a, .p-top code, .p-top em").count() == 0
    expect(seen.page.locator(".p-cards")).to_contain_text(page_data.NASTY_NAME)


def test_every_state_is_said_in_words_on_a_page_that_stays_open(data, serve, visit) -> None:
    """The files change below one open page, which follows without a complaint."""
    address, _ = serve()
    seen = visit(address)
    for scenario, word, said in (
        ("empty", "WAITING", "No window yet"),
        ("starting", "REPLAY", "spark_processor is starting"),
        ("foreign", "REPLAY", "is not one of this system's files"),
        ("foreign", "REPLAY", "no newer comparison:"),
        ("stale", "STALE", "no trade for"),
        ("down", "DOWN", "producer has not been heard of"),
        ("stopped_stream", "STALE", "spark_processor has not been heard of"),
        ("empty", "WAITING", "No batch run has ended yet"),
    ):
        shutil.rmtree(data.root, ignore_errors=True)
        page_data.SCENARIOS[scenario](data, times.now())
        expect(seen.page.locator(".p-chips")).to_contain_text(word, timeout=30_000)
        expect(seen.page.locator("[data-testid=stMain]")).to_contain_text(said, timeout=30_000)
        seen.page.wait_for_timeout(2500)
        assert seen.complaints == [], scenario


def test_a_locked_database_is_said_and_the_last_comparison_stays(data, serve, visit) -> None:
    """Files are read all the while; when the lock is gone, so is the sentence."""
    page_data.disputed(data, times.now())
    address, _ = serve()
    seen = compared(visit(address))
    before = " ".join(seen.text(".p-legend").split())
    with closing(sqlite3.connect(data.database, isolation_level=None)) as keeper:
        keeper.execute("PRAGMA locking_mode = EXCLUSIVE")
        keeper.execute("BEGIN IMMEDIATE")
        problem = seen.page.locator(".p-verdict .p-problem")
        expect(problem).to_contain_text("crypto_prices.db is locked", timeout=60_000)
        expect(problem).to_contain_text("no newer comparison")
        assert " ".join(seen.text(".p-legend").split()) == before
        keeper.execute("ROLLBACK")
    expect(problem).to_have_count(0, timeout=60_000)
    assert seen.complaints == []


def test_a_page_whose_server_has_gone_says_that_it_is_old_and_comes_back(
    data, serve, visit
) -> None:
    """The browser itself watches: nobody is left to refresh it."""
    page_data.live(data, times.now())
    port = free_port()
    address, process = serve(port)
    seen = visit(address).charted()
    watch = seen.page.locator(".p-watch")
    assert seen.box(".p-watch")["height"] == 0
    expect(watch).to_have_css("visibility", "hidden")  # from screen readers, too
    process.terminate()
    expect(watch).to_have_css("max-height", "96px", timeout=30_000)
    expect(watch).to_have_css("visibility", "visible")
    assert "has not been refreshed" in watch.inner_text()
    old = seen.text(".p-clock")
    serve(port)
    expect(seen.page.locator(".p-clock")).not_to_have_text(old, timeout=60_000)
    expect(watch).to_have_css("max-height", "0px", timeout=30_000)


def test_the_page_follows_the_systems_theme(data, serve, visit) -> None:
    page_data.sample(data, times.now())
    address, _ = serve()
    for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 22, 28)")):
        seen = visit(address, color_scheme=scheme)
        for part in (".stApp", ".p-top"):
            expect(seen.page.locator(part)).to_have_css("background-color", background)


def test_nothing_is_wider_than_the_window_on_a_desk_and_on_a_phone(data, serve, visit) -> None:
    page_data.disputed(data, times.now())
    address, _ = serve()
    for window in ({"width": 1280, "height": 800}, {"width": 390, "height": 844}):
        seen = visit(address, viewport=window).charted()
        seen.page.wait_for_selector(".p-cards")
        compared(seen).page.wait_for_selector(".st-key-micro-drawn svg.marks", timeout=20_000)
        assert seen.overflow() == 0
        for table in seen.page.locator(".p-scroll").all():
            assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_a_finger_on_the_chart_scrolls_the_page(data, serve, visit) -> None:
    """On a phone the chart fills the screen: it must not hold the reader."""
    page_data.sample(data, times.now())
    address, _ = serve()
    phone = {"width": 390, "height": 844}
    seen = visit(address, viewport=phone, has_touch=True, is_mobile=True).charted()
    seen.page.wait_for_selector(".p-cards")
    box = seen.box(".st-key-price svg.marks")
    x, y = 200, min(box["y"] + 150, 700)
    finger = seen.context.new_cdp_session(seen.page)
    for n in range(15):
        kind = "touchStart" if n == 0 else "touchMove"
        points = [{"x": x, "y": y - 15 * n}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        seen.page.wait_for_timeout(20)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    moved = "() => document.querySelector('[data-testid=stMain]').scrollTop > 100"
    seen.page.wait_for_function(moved, timeout=10_000)


def test_it_stops_at_once_when_told_so_with_a_viewer_looking_on(data, serve, visit) -> None:
    page_data.sample(data, times.now())
    address, process = serve()
    visit(address)
    began = time.monotonic()
    process.terminate(timeout=8)
    assert time.monotonic() - began < 8


def test_with_90_days_of_windows_a_refresh_costs_little(data, serve, visit) -> None:
    """129,600 windows on both paths: first paint, and the server's CPU for a second of one viewer.

    One top, half of the results, a quarter of the records and a fifth of the comparison are drawn
    in it.
    """
    page_data.days90(data, times.now())
    address, process = serve()
    seen = visit(f"{address}/?span=everything")
    expect(seen.page.locator(".p-metrics")).to_contain_text("129,600 final", timeout=60_000)
    seen.page.wait_for_selector(".st-key-price canvas, .st-key-price svg.marks", timeout=60_000)
    seen.page.wait_for_timeout(5000)
    compared(seen).page.wait_for_selector(".st-key-strip-drawn canvas", timeout=60_000)
    server = psutil.Process(process.pid)
    seen.close()
    time.sleep(2)
    clock, used = time.monotonic(), sum(server.cpu_times()[:2])
    seen = visit(f"{address}/?span=everything")
    seen.page.wait_for_selector(".st-key-price canvas", timeout=60_000)
    charted, cost = time.monotonic() - clock, sum(server.cpu_times()[:2]) - used
    first_paint = seen.page.evaluate(
        "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )
    print(f"first paint after {first_paint:.0f} ms, the chart after {charted * 1000:.0f} ms")
    print(f"first sight: {cost * 1000:.0f} ms of CPU in the server")
    assert first_paint < 1500
    assert cost < 0.8
    clock, used = time.monotonic(), sum(server.cpu_times()[:2])
    for _ in range(10):
        time.sleep(1)
        page_data.write_live(data, times.now())
    elapsed = timedelta(seconds=time.monotonic() - clock)
    cost = (sum(server.cpu_times()[:2]) - used) / elapsed.total_seconds()
    print(f"{cost * 1000:.0f} ms of CPU a second, {server.memory_info().rss / 2**20:.0f} MiB")
    assert cost < 0.15


#: What the test below makes quicker: refreshes of a quarter of an hour come in a minute.
QUICKER = {
    "page/view.py": {
        "TOP_SECONDS = 1.0": "TOP_SECONDS = 0.1",
        "BODY_SECONDS = 2.0": "BODY_SECONDS = 0.1",
        "RECORDS_SECONDS = 4.0": "RECORDS_SECONDS = 0.1",
        "COMPARISON_SECONDS = 5.0": "COMPARISON_SECONDS = 0.1",
    },
    "page/read.py": {"SHARED_SECONDS = 0.4": "SHARED_SECONDS = 0.05"},
    "page/background.py": {
        "LEAST_REST_SECONDS = 10.0": "LEAST_REST_SECONDS = 4.0",
        "MOST_SHARE = 0.05": "MOST_SHARE = 0.5",
    },
}
#: As many as in a quarter of an hour at the usual pace.
REFRESHES = 500


def test_a_page_that_stays_open_does_not_grow(data, run, visit, tmp_path) -> None:
    """Neither in the server nor in the browser, over many refreshes of all its parts."""
    copy = tmp_path / "project"
    for name in ("page", "pipeline", ".streamlit"):
        shutil.copytree(ROOT / name, copy / name)
    for name, changes in QUICKER.items():
        text = (copy / name).read_text()
        for slow, quick in changes.items():
            assert slow in text
            text = text.replace(slow, quick)
        (copy / name).write_text(text)
    shutil.copy(ROOT / "dashboard.py", copy)
    page_data.sample(data, times.now())
    port = free_port()
    where = {"DATA_DIR": data.root, "PYTHONPATH": copy, "STREAMLIT_SERVER_ADDRESS": "127.0.0.1"}
    process = run("streamlit", "run", str(copy / "dashboard.py"), f"--server.port={port}", **where)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(f"{address}/_stcore/health"), 60, "the page", process)
    seen = compared(visit(address).charted())
    page, server = seen.page, psutil.Process(process.pid)
    tools = seen.context.new_cdp_session(page)
    page.evaluate(
        "() => { window.refreshes = 0; new MutationObserver(() => window.refreshes++).observe("
        "document.querySelector('[data-testid=stHtml]:has(.p-top)').parentElement,"
        " { childList: true, subtree: true, characterData: true }) }"
    )

    def after(refreshes: int) -> tuple[float, float]:
        """MiB in the server and in the browser's heap."""
        end = time.monotonic() + 2 * REFRESHES
        while page.evaluate("() => window.refreshes") < refreshes:
            assert time.monotonic() < end
            page_data.refresh(data, times.now(), page_data.replay())
            page.wait_for_timeout(300)
        tools.send("HeapProfiler.collectGarbage")
        heap = tools.send("Runtime.getHeapUsage")["usedSize"]
        return server.memory_info().rss / 2**20, heap / 2**20

    first, last = after(REFRESHES // 2), after(REFRESHES)
    print(f"server {first[0]:.0f} → {last[0]:.0f} MiB, browser {first[1]:.0f} → {last[1]:.0f} MiB")
    assert last[0] - first[0] < 25
    assert last[1] - first[1] < 40
    assert seen.complaints == []
