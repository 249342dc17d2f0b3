"""Take the pictures in docs/screenshots: `make screenshots`.

The demo on the sample runs for about ten minutes, until the batch has enough runs for a forecast.
The other states are prepared data directories. `--data-dir` uses another data directory in place of
the demo. `--states` takes only the pictures of prepared data directories.
"""

import argparse
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from local.ports import free_port, free_ports
from pipeline import times
from pipeline.compare.growth import MIN_RUNS as LEAST_RUNS
from pipeline.compare.output_files import read_batch_log
from pipeline.data_dir import DataDir
from pipeline.processes import exit_on_sigterm
from tests import page_data
from tests.conftest import ROOT, Running, chromium

FOLDER = ROOT / "docs" / "screenshots"
SAMPLE = "data/sample/synthetic_btcusd.jsonl.gz"
DESK = (1280, 800)
PHONE = (390, 844)
#: Pictures of the demo: name, window, theme, tab at the top.
OF_DEMO = (
    ("page", DESK, "light", None),
    ("page-dark", DESK, "dark", None),
    ("results", DESK, "light", "Results"),
    ("comparison", DESK, "light", "Agreement"),
    ("comparison-dark", DESK, "dark", "Freshness"),
    ("growth", DESK, "light", "Batch run time"),
    ("tables", DESK, "light", "Windows"),
    ("services", DESK, "light", "Services"),
    ("phone", PHONE, "light", None),
    ("phone-dark", PHONE, "dark", "Agreement"),
)
#: Pictures of prepared data directories: name, scenario, window, theme, tab at the top.
OF_STATES = (
    ("nothing-yet", "empty", DESK, "light", None),
    ("starting", "starting", DESK, "dark", None),
    ("stale", "stale", DESK, "light", None),
    ("wrong-product", "wrong", DESK, "light", None),
    ("down", "down", DESK, "light", None),
    ("down-services", "down", DESK, "dark", "Services"),
    ("ended", "ended", DESK, "dark", None),
    ("unreadable", "foreign", DESK, "light", None),
    ("differs", "disputed", DESK, "light", "Agreement"),
    ("rejected", "disputed", DESK, "dark", "Services"),
    ("phone-down", "down", PHONE, "light", None),
)
#: Milliseconds that the page needs to draw a new comparison.
SETTLED_MS = 7000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="data directory to use in place of the demo")
    parser.add_argument("--runs", type=int, default=LEAST_RUNS + 1, help="batch runs to wait for")
    parser.add_argument(
        "--states", action="store_true", help="take only the pictures of prepared data directories"
    )
    given = parser.parse_args()
    exit_on_sigterm()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        if given.states:
            take_states(browser, Path(folder))
        elif given.data_dir:
            with serving(DataDir(given.data_dir), Path(folder)) as address:
                take_demo(browser, address)
        else:
            with demo(Path(folder)) as (address, data):
                take_states(browser, Path(folder))
                wait_for_runs(data, given.runs)
                take_demo(browser, address)
        browser.close()


def take_states(browser: Browser, folder: Path) -> None:
    for number, (name, scenario, size, scheme, part) in enumerate(OF_STATES):
        data = DataDir(folder / f"{number}")
        page_data.SCENARIOS[scenario](data, times.now())
        with serving(data, folder) as address:
            page = opened(browser, address, size, scheme)
            # heartbeats must be fresh when the picture is taken
            page_data.SCENARIOS[scenario](data, times.now())
            take(page, name, part)


def take_demo(browser: Browser, address: str) -> None:
    for name, size, scheme, part in OF_DEMO:
        take(opened(browser, address, size, scheme), name, part)


def opened(browser: Browser, address: str, size: tuple[int, int], scheme: str) -> Page:
    """Return the page in a window of this size, with its comparison."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(
        ".p-answer:not(:has(.p-sentence:empty)), [data-testid=stAlert]:has-text('No comparison')",
        timeout=60_000,
    )
    page.wait_for_timeout(SETTLED_MS)
    return page


def take(page: Page, name: str, part: str | None) -> None:
    """Take a picture of the window, scrolled to a tab, and close the page."""
    if part:
        page.get_by_role("tab", name=part, exact=True).click()
        page.wait_for_timeout(SETTLED_MS)
        # the header covers the top of the window
        page.evaluate(
            "() => { const boxOf = name => document.querySelector(name).getBoundingClientRect();"
            " document.querySelector('[data-testid=stMain]').scrollTop +="
            " boxOf('.st-key-part').top - boxOf('.p-top').bottom }"
        )
    page.wait_for_timeout(2500)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    page.context.close()
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KB", flush=True)


@contextmanager
def serving(data: DataDir, logs: Path) -> Iterator[str]:
    """Serve the page on a data directory and yield its address."""
    port = free_port()
    command = ["-m", "streamlit", "run", "dashboard.py", f"--server.port={port}"]
    environment = {"DATA_DIR": str(data.root)}
    server = Running([sys.executable, *command], logs / f"page-{port}.log", environment)
    try:
        wait_for(f"http://127.0.0.1:{port}", server, timedelta(minutes=1))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()


@contextmanager
def demo(folder: Path) -> Iterator[tuple[str, DataDir]]:
    """Run the whole stack on the sample; yield the page's address and the data directory."""
    data, ports = DataDir(folder / "demo"), free_ports(4)
    port = ports[0]
    names = ("--dashboard-port", "--kafka-port", "--controller-port", "--feed-port")
    options = [str(part) for pair in zip(names, ports, strict=True) for part in pair]
    replay = ["--recording", SAMPLE, "--speed", "1", "--retime", "1", "--backlog", "1800"]
    command = ["-m", "local.start", "demo", "--data-dir", str(data.root), *options, *replay]
    running = Running([sys.executable, *command], folder / "demo.log", {})
    try:
        wait_for(f"http://127.0.0.1:{port}", running, timedelta(minutes=3))
        yield f"http://127.0.0.1:{port}", data
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


def wait_for_runs(data: DataDir, runs: int) -> None:
    """Wait until the batch has finished this many runs."""
    end = time.monotonic() + (runs + 5) * 90
    while (made := len(read_batch_log(data))) < runs:
        if time.monotonic() > end:
            raise SystemExit(f"the demo finished only {made} of {runs} batch runs")
        print(f"the demo has finished {made} of {runs} batch runs", flush=True)
        time.sleep(30)


def wait_for(address: str, server: Running, patience: timedelta) -> None:
    end = time.monotonic() + patience.total_seconds()
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):  # noqa: S310
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{address} does not answer. Its log:\n{server.tail()}")


if __name__ == "__main__":
    main()
