"""The page with the real stack: `make demo` on the sample, in a real browser."""

import csv
import os
import re
import signal
from pathlib import Path

from playwright.sync_api import expect

from pipeline import outputs
from pipeline.compare.inputs import read_batch_log
from tests.conftest import wait_until
from tests.integration.conftest import END_SECONDS, Demo, Visit, end_by


def newest_row(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def table_row(seen: Visit, head: str) -> list[str]:
    """Return the cells of a metric: open, newest final, all finals, batch, difference."""
    table = seen.page.locator(".st-key-side-by-side tbody tr")
    row = table.filter(has=seen.page.get_by_text(head, exact=True))
    return list(row.locator("td").all_inner_texts())[1:]


def shows(seen: Visit, head: str, place: int, value: str) -> bool:
    return table_row(seen, head)[place] == value


def test_the_page_shows_the_results_comparison_and_services_of_the_real_stack(
    demo: Demo, visit
) -> None:
    """It names a service that hangs, and recovers with it."""
    data = demo.data
    made = demo.make("demo")
    wait_until(
        lambda: outputs.stream_files(data) and len(read_batch_log(data)),
        150,
        "windows and a batch result",
        made,
    )
    seen: Visit = visit(f"http://127.0.0.1:{demo.ports['DASHBOARD_PORT']}").charted()
    page, main = seen.page, seen.page.locator("[data-testid=stMain]")
    chips = page.locator(".p-chips")
    expect(chips).to_contain_text("REPLAY")
    expect(chips).to_contain_text("SYNTHETIC")
    expect(page.locator(".p-age")).to_have_text(re.compile(r"last trade \d\.\d s ago"))

    # The latest final window and the newest run are those of the files.
    def the_files_are_shown() -> bool:
        final = newest_row(outputs.stream_files(data)[-1])
        run = newest_row(outputs.batch_files(data)[-1])
        return (
            shows(seen, "trades", 1, f"{int(final['trade_count']):,}")
            and shows(seen, "average price", 1, f"{float(final['avg_price']):,.2f}")
            and shows(seen, "trades", 3, f"{int(run['rows']):,}")
            and shows(seen, "highest price", 3, f"{float(run['max_price']):,.2f}")
        )

    wait_until(the_files_are_shown, 30, "the files' newest rows on the page", made)

    # Every service is there with its state.
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
        expect(reason).to_contain_text("cause: producer")
        expect(page.locator(".p-trouble")).to_have_count(0)
    finally:
        os.kill(hanging, signal.SIGCONT)
    expect(chips).not_to_contain_text("DOWN", timeout=60_000)

    # Every question has an answer, and the paths agree.
    answers = page.locator(".st-key-answers [data-testid=stAlert]")
    expect(answers.nth(0)).to_contain_text(re.compile(r"Yes, in all \d+ minutes"), timeout=60_000)
    ages = re.compile(r"(Open windows|Batch) [\d.]+ s, .*final windows [\d.]+ s", re.IGNORECASE)
    expect(answers.nth(1)).to_contain_text(ages, timeout=120_000)
    expect(answers.nth(2)).to_contain_text("CPU seconds an hour", timeout=150_000)
    expect(answers.nth(3)).to_contain_text(re.compile(r"Not forecast; [\d.]+ s of 60 s now"))
    expect(main).to_contain_text(re.compile(r"All \d+ windows that both paths have are identical"))
    expect(page.locator(".p-legend").first).to_contain_text(re.compile(r"differs\s*0"))
    assert seen.complaints == []
    assert seen.foreign == []
    assert end_by(made, made.process.terminate) < END_SECONDS
