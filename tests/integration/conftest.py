"""Shared by the tests of the page and of the local stack: a browser and `make demo`."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as Timeout

from local import stack
from local.ports import free_ports
from pipeline import processes
from pipeline.data_dir import DataDir
from tests.conftest import ROOT, Running, chromium, require, require_jars

#: Chromium must send no requests of its own: a test looks for requests to other hosts.
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: Seconds within which Ctrl-C and SIGTERM end the stack.
END_SECONDS = 10
#: A word of the command line that identifies the program.
PROGRAMS = ("consumer.py", "kafka.Kafka")
#: The other programs that process trades, and the Java process of the stream.
OTHER_PROGRAMS = (
    *("producer.py", "spark_processor.py", "batch_scheduler.py"),
    "org.apache.spark.deploy.SparkSubmit",
)


# --- the browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        yield launched
        launched.close()


class Visit:
    """An open page, its console messages and its requests to other hosts."""

    def __init__(self, browser: Browser, address: str, **how: Any) -> None:
        how = {"viewport": {"width": 1280, "height": 800}} | how
        self.context = browser.new_context(**how)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.network_changed = False
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self._hear("error", str(error)))
        for event in ("request", "websocket"):
            self.page.on(event, lambda made: self._note(made.url))
        self.page.goto(address)
        try:
            self.page.wait_for_selector(".p-top", timeout=60_000)
        except Timeout:
            if not self.network_changed:
                shown = self.page.locator("body").inner_text()
                pytest.fail(f"no top of the page; it shows {shown!r}, said {self.complaints}")
            self.page.reload()
            self.page.wait_for_selector(".p-top", timeout=60_000)

    def _hear(self, kind: str, text: str) -> None:
        """Record a console message. A change of the host's network is no complaint."""
        if "ERR_NETWORK_CHANGED" in text:
            self.network_changed = True
        elif kind in ("error", "warning"):
            self.complaints.append(text)

    def _note(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.foreign.append(url)

    def box(self, selector: str) -> dict[str, float]:
        """Return an element's box in one step, because a refresh replaces elements."""
        found: dict[str, float] = self.page.evaluate(
            "selector => document.querySelector(selector).getBoundingClientRect().toJSON()",
            selector,
        )
        return found

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def charted(self) -> "Visit":
        self.page.wait_for_selector(".st-key-price svg.marks", timeout=60_000)
        return self

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        width: int = self.page.evaluate(
            "() => { const main = document.querySelector('[data-testid=stMain]');"
            " return main.scrollWidth - main.clientWidth }"
        )
        return width

    def close(self) -> None:
        self.context.close()


def show(seen: Visit, part: str) -> Visit:
    """Open the tab of a part."""
    tab = seen.page.get_by_role("tab", name=part, exact=True)
    tab.click()
    expect(tab).to_have_attribute("aria-selected", "true", timeout=20_000)
    return seen


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    opened: list[Visit] = []

    def open_page(address: str, **how: Any) -> Visit:
        opened.append(Visit(browser, address, **how))
        return opened[-1]

    yield open_page
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def shared_visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Share a page between tests that follow each other: opening a page takes 6 s of CPU.

    The function returns the open page if name and options are those of the call before. Otherwise
    it closes that page and opens another one.
    """
    opened: list[tuple[Any, Visit]] = []

    def find_or_open(name: str, address: str, **how: Any) -> Visit:
        asked = (name, address, how)
        if not opened or opened[-1][0] != asked:
            for _, before in opened:
                before.close()
            opened[:] = [(asked, Visit(browser, address, **how))]
        return opened[-1][1]

    yield find_or_open
    for _, last in opened:
        last.close()


# --- the local stack ------------------------------------------------------------------------


class Demo:
    """`make demo` with its own folder and ports."""

    def __init__(self, folder: Path) -> None:
        self.data = DataDir(folder / "data")
        self._folder = folder
        names = ("KAFKA_PORT", "CONTROLLER_PORT", "FEED_PORT", "DASHBOARD_PORT")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.started: list[Running] = []

    def make(self, target: str, **variables: str) -> Running:
        """Start make in its own process group, as a shell does."""
        chosen = {"DATA_DIR": str(self.data.root)} | self.ports | variables
        words = [f"{name}={value}" for name, value in chosen.items()]
        log = self._folder / f"{len(self.started):02d}-make-{target}.log"
        self.started.append(Running(["make", target, *words], log, {}))
        return self.started[-1]

    def outcome(self, target: str, **variables: str) -> tuple[int, str]:
        """Return the exit status of make and its output."""
        made = self.make(target, **variables)
        return made.process.wait(60), made.text()

    def pids(self, *programs: str) -> dict[str, int]:
        """Return the pids of the running programs; by default of PROGRAMS."""
        found: dict[str, int] = {}
        for process in stack.leftovers(self.data.root):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                found |= {name: process.pid for name in programs or PROGRAMS if name in words}
        return found


@contextlib.contextmanager
def new_demo(folder: Path) -> Iterator[Demo]:
    """Give a demo with nothing started. Kill every process of it at the end."""
    require_jars("kafka")
    require_jars("spark")
    require(".venv/.made (make venv)", (ROOT / ".venv" / ".made").exists())
    demo = Demo(folder)
    try:
        yield demo
    finally:
        for running in demo.started:
            running.kill()
        processes.end(stack.leftovers(demo.data.root), wait_seconds=1)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with new_demo(tmp_path) as demo:
        yield demo


def has_ended(process: psutil.Process, seconds: float) -> bool:
    """Return whether the process ends in time. A zombie that init has not reaped has ended."""
    end = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
    return True


def end_by(running: Running, request: Callable[[], None]) -> float:
    """Ask a running stack to end and return the seconds it took. Fail if a process is left."""
    tree = running.tree()
    begin = time.monotonic()
    request()
    running.process.wait(3 * END_SECONDS)
    took = time.monotonic() - begin
    left = [process for process in tree if not has_ended(process, seconds=1)]
    assert not left, f"{left}\n{running.tail()}"
    return took
