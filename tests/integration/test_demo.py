"""`make demo` on the sample: its results, the page in a real browser, restarts and shutdown.

The tests share one stack and its data directory, and run in this order.
"""

import csv
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psutil
import pytest
from playwright.sync_api import expect

from local import programs, stack
from pipeline import outputs
from pipeline.compare.output_files import read_batch_log, read_windows
from tests.conftest import Running, wait_until
from tests.integration.conftest import (
    END_SECONDS,
    OTHER_PROGRAMS,
    PROGRAMS,
    Demo,
    Visit,
    end_by,
    new_demo,
    show,
)

#: One batch run of each start is enough for these tests. It takes 8 CPU seconds.
FEW_RUNS = {"BATCH_INTERVAL_SECONDS": "600"}
#: At least this many of the 30 windows of the backlog are final soon after the start.
BACKLOG_WINDOWS = 25


@dataclass
class Stack:
    """A stack that runs and has its first results."""

    demo: Demo
    #: The process of its newest start.
    made: Running
    #: The final windows at that time, and later at the end of its first stream.
    windows: pd.DataFrame


@pytest.fixture(scope="module")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with new_demo(tmp_path_factory.mktemp("demo")) as demo:
        made = demo.make("demo", **FEW_RUNS)
        data = demo.data

        def has_results() -> bool:
            files = outputs.stream_files(data)
            windows = len(read_windows(*files)) if files else 0
            # A batch run writes its line in the log after its other files.
            return windows >= BACKLOG_WINDOWS and len(read_batch_log(data)) > 0

        wait_until(has_results, 150, "the windows of the backlog and a batch result", made)
        yield Stack(demo, made, read_windows(*outputs.stream_files(data)))


def test_one_command_gives_windows_a_batch_result_and_the_page(running_stack: Stack) -> None:
    demo, made = running_stack.demo, running_stack.made
    assert len(running_stack.windows) >= BACKLOG_WINDOWS
    assert outputs.batch_files(demo.data)
    assert read_batch_log(demo.data)["status"].iloc[-1] == "ok"
    assert "REPLAY of synthetic_btcusd.jsonl.gz (SYNTHETIC, re-timed to the present)" in made.text()
    wait_until(lambda: "page ready: http://" in made.text(), 30, "the page's address", made)
    with urllib.request.urlopen(f"http://127.0.0.1:{demo.ports['DASHBOARD_PORT']}/") as answer:
        assert answer.status == 200


def test_a_normal_start_logs_no_error(running_stack: Stack) -> None:
    """The tests below kill processes, which is logged as an error."""
    logs = sorted(stack.logs(running_stack.demo.data.root).glob("*.log"))
    assert {"kafka.log", "producer.log", "consumer.log", "spark_processor.log"} <= {
        log.name for log in logs
    }
    errors = [
        f"{log.name}: {line}"
        for log in logs
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if re.search(r"\bERROR\b", line)
    ]
    assert errors == []


def test_a_running_stack_keeps_its_folder_and_its_ports(running_stack: Stack) -> None:
    demo = running_stack.demo
    status, text = demo.outcome("demo")
    assert (status, "already runs on DATA_DIR: stop it" in text) == (2, True), text
    status, text = demo.outcome("demo", DATA_DIR=f"{demo.data.root}-2")
    assert (status, "KAFKA_PORT=" in text) == (2, True), text
    status, text = demo.outcome("clean")
    assert (status, "stop it first" in text) == (2, True), text
    status, text = demo.outcome("status")
    assert status == 0, text
    rows = dict(re.findall(r"(?m)^(\w+) +RUNNING +pid \d+, since ([-0-9]+ [:0-9]+ UTC)$", text))
    assert {"kafka", "producer", "consumer"} <= rows.keys(), text
    started = datetime.strptime(rows["consumer"], "%Y-%m-%d %H:%M:%S %Z").replace(tzinfo=UTC)
    assert timedelta(0) <= datetime.now(UTC) - started < timedelta(minutes=10)


# --- the page -------------------------------------------------------------------------------


def newest_row(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def table_row(seen: Visit, head: str) -> list[str]:
    """Return the cells of a metric: open, newest final, batch."""
    table = seen.page.locator(".st-key-side-by-side tbody tr")
    row = table.filter(has=seen.page.get_by_text(head, exact=True))
    return list(row.locator("td").all_inner_texts())[1:]


def shows(seen: Visit, head: str, place: int, value: str) -> bool:
    cells = table_row(seen, head)  # empty until the page has drawn the table
    return len(cells) > place and cells[place] == value


def test_the_page_shows_the_results_comparison_and_services_of_the_real_stack(
    running_stack: Stack, visit
) -> None:
    """It names a service that hangs, and recovers with it."""
    demo, made = running_stack.demo, running_stack.made
    data = demo.data
    seen: Visit = visit(f"http://127.0.0.1:{demo.ports['DASHBOARD_PORT']}").charted()
    page, main = seen.page, seen.page.locator("[data-testid=stMain]")
    chips = page.locator(".p-chips")
    expect(chips).to_contain_text("REPLAY")
    expect(chips).to_contain_text("SYNTHETIC")
    expect(page.locator(".p-age")).to_have_text(re.compile(r"last trade \d\.\d s ago"))

    show(seen, "Results")

    # The latest final window and the newest run are those of the files.
    def the_files_are_shown() -> bool:
        final = newest_row(outputs.stream_files(data)[-1])
        run = newest_row(outputs.batch_files(data)[-1])
        return (
            shows(seen, "trades", 1, f"{int(final['trade_count']):,}")
            and shows(seen, "average price", 1, f"{float(final['avg_price']):,.2f}")
            and shows(seen, "trades", 2, f"{int(run['rows']):,}")
            and shows(seen, "highest price", 2, f"{float(run['max_price']):,.2f}")
        )

    wait_until(the_files_are_shown, 30, "the files' newest rows on the page", made)

    # Every service is there with its state.
    show(seen, "Services")
    badges = page.locator(
        ".st-key-services [data-testid=stBadge], .st-key-services .stMarkdownBadge"
    )
    expect(badges).to_have_text([re.compile("running")] * 4)
    rows = outputs.read_status(data, "consumer")["rows"]
    shown = page.locator(".st-key-card-consumer").inner_text()
    [counted] = re.findall(r"rows in btc_prices\s+([\d,]+)", shown)
    assert (
        rows - 2000 < int(counted.replace(",", "")) <= outputs.read_status(data, "consumer")["rows"]
    )

    # A service that hangs is named as the cause, and no other.
    hanging = outputs.read_status(data, "producer")["pid"]
    os.kill(hanging, signal.SIGSTOP)
    try:
        expect(chips).to_contain_text("DOWN", timeout=60_000)
        reason = page.locator(".p-reason")
        expect(reason).to_contain_text("no heartbeat from producer for")
        expect(page.locator(".p-trouble")).to_have_count(0)
    finally:
        os.kill(hanging, signal.SIGCONT)
    expect(chips).not_to_contain_text("DOWN", timeout=60_000)

    findings = page.locator(".st-key-findings .p-answer")
    expect(findings.nth(0)).to_contain_text(re.compile(r"All \d+ windows match"), timeout=120_000)
    show(seen, "Results")
    identical = re.compile(r"All \d+ windows in both paths are identical")
    expect(main).to_contain_text(identical, timeout=60_000)
    show(seen, "Agreement")
    expect(page.locator("[class*=agreement-table-0]")).to_contain_text(re.compile(r"differs\s*0"))
    assert seen.complaints == []
    assert seen.foreign == []


@pytest.mark.slow
def test_every_question_of_the_overview_has_an_answer_on_the_real_stack(demo: Demo, visit) -> None:
    """The first minutes of a service are not part of its cost: it reads the backlog in them."""
    made = demo.make("demo")
    wait_until(lambda: "page ready: http://" in made.text(), 90, "the page's address", made)
    seen: Visit = visit(f"http://127.0.0.1:{demo.ports['DASHBOARD_PORT']}")
    findings = seen.charted().page.locator(".st-key-findings .p-answer")
    expect(findings.nth(0)).to_contain_text(re.compile(r"All \d+ windows match"), timeout=120_000)
    ages = re.compile(r"open windows [\d.]+ s, stream's final windows [\d.]+ s, batch [\d.]+ s")
    expect(findings.nth(1)).to_contain_text(ages, timeout=120_000)
    expect(findings.nth(2)).to_contain_text("CPU seconds per hour", timeout=200_000)
    expect(findings.nth(3)).to_contain_text(
        re.compile(r"Fast enough: a run takes [\d.]+ s, the interval is 60 s")
    )
    choice = seen.page.locator(".p-choice")
    expect(choice).to_contain_text("For a median age of 30 s or less, the cheapest choice is")
    expect(choice).to_be_in_viewport()
    assert seen.complaints == []


# --- restarts and shutdown ------------------------------------------------------------------


def test_killed_processes_are_restarted(running_stack: Stack) -> None:
    demo, made = running_stack.demo, running_stack.made
    before = demo.pids()
    # A process that ends earlier is reported as "ended soon after its start".
    born = max(psutil.Process(pid).create_time() for pid in before.values())
    time.sleep(max(0.0, born + int(str(programs.COMMON["startsecs"])) + 1 - time.time()))
    for name in PROGRAMS:
        os.kill(before[name], signal.SIGKILL)
    wait_until(
        lambda: (
            (now := demo.pids()).keys() == before.keys()
            and all(now[name] != before[name] for name in PROGRAMS)
        ),
        60,
        "new processes in place of the killed ones",
        made,
    )
    assert "consumer was killed" in made.text()


def test_the_next_start_ends_the_processes_that_a_killed_supervisor_left(
    running_stack: Stack,
) -> None:
    demo = running_stack.demo
    before, expected = running_stack.made, {*PROGRAMS, *OTHER_PROGRAMS}
    # The processes that the test before killed are running again.
    wait_until(lambda: demo.pids(*expected).keys() == expected, 30, "all programs", before)
    left = stack.leftovers(demo.data.root)
    supervisor = next(p for p in before.tree() if "local.supervise" in p.cmdline())
    supervisor.kill()
    before.process.wait(10)
    again = running_stack.made = demo.make("demo", **FEW_RUNS)
    wait_until(lambda: "REPLAY of" in again.text(), 60, "the next start", again)
    assert "of an earlier stack that was killed" in again.text()
    assert not [p for p in left if p.is_running()]
    running_stack.windows = read_windows(*outputs.stream_files(demo.data))


@pytest.mark.slow
def test_the_stack_continues_where_it_was(running_stack: Stack) -> None:
    data, before, made = running_stack.demo.data, running_stack.windows, running_stack.made
    last = newest_row(data.stream_live)["last_trade_time"]
    wait_until(
        lambda: newest_row(data.stream_live)["last_trade_time"] > last,
        150,
        "newer trades in the open windows",
        made,
    )
    after = read_windows(*outputs.stream_files(data))
    assert after["window_start"].is_unique
    kept = after[after["window_start"].isin(before["window_start"])].reset_index(drop=True)
    assert kept.equals(before)  # final windows have not changed


def test_ctrl_c_ends_the_stack(running_stack: Stack) -> None:
    made = running_stack.made
    # A terminal sends SIGINT to its whole foreground process group.
    took = end_by(made, lambda: os.killpg(made.pid, signal.SIGINT))
    assert took < END_SECONDS, made.tail()


def test_another_feed_is_refused(running_stack: Stack) -> None:
    status, text = running_stack.demo.outcome("demo", RETIME="0")
    assert (status, "DATA_DIR=" in text, "make clean" in text) == (2, True, True), text


def test_a_stack_that_has_ended_is_cleaned(running_stack: Stack) -> None:
    demo = running_stack.demo
    status, text = demo.outcome("clean")
    assert status == 0, text
    assert list(demo.data.root.iterdir()) == []
