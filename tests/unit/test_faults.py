"""The fault lab finds what it must find: its judge, its plan, its messages and its table."""

import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from faults import __main__ as faults_main
from faults import clock, lab, messages, parallel, results, servers, soak, truth, verdict
from faults.catalogue import QUICK, catalogue
from faults.injections import TARGETS
from faults.lab import Fault
from feed import recording
from feed.sample import SAMPLE
from pipeline.ingest import trade
from tests import golden
from tests.conftest import ROOT
from tests.golden import Trade

NOW = datetime(2026, 1, 1, tzinfo=UTC)


# --- the judge ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """Five minutes of the sample."""
    path = tmp_path_factory.mktemp("lab") / "r.jsonl"
    lab.prepare(SAMPLE, path, 300)
    return truth.issued(path, {}, NOW)


def write_table(path: Path, trades: Iterable[Trade]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE btc_prices (trade_id INTEGER PRIMARY KEY, price REAL, best_bid REAL,"
            " best_ask REAL, side TEXT, time TEXT, last_size REAL)"
        )
        for t in trades:
            quotes = (None if q is None else float(q) for q in (t.best_bid, t.best_ask))
            row = (t.trade_id, float(t.price), *quotes, t.side, golden.iso(t.time), float(t.size))
            connection.execute("INSERT INTO btc_prices VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()


def cells(metrics: dict[str, object]) -> dict[str, str]:
    times = ("first_trade_time", "last_trade_time")
    return {k: golden.iso(int(str(v))) if k in times else str(v) for k, v in metrics.items()}


def window_row(start: int, trades: Iterable[Trade]) -> dict[str, str]:
    edges = {"window_start": golden.iso(start), "window_end": golden.iso(start + golden.MINUTE)}
    return {**edges, **cells(golden.metrics(trades))}


def by_minute(trades: Iterable[Trade]) -> dict[int, list[Trade]]:
    found: dict[int, list[Trade]] = {}
    for t in trades:
        found.setdefault(t.time // golden.MINUTE * golden.MINUTE, []).append(t)
    return found


def judge(
    issued: truth.Issued, order: Iterable[Trade], last: int = 500, **topic: Any
) -> truth.Judge:
    slices = [truth.Slice("a", 0, 0.0), truth.Slice("b", last, 100.0)]
    return truth.Judge(slices, issued, truth.Topic(order=list(order), **topic))


def windows_judged(
    issued: truth.Issued, rows: Iterable[dict[str, str]], **topic: Any
) -> dict[str, truth.Outcome]:
    found = judge(issued, issued.trades.values(), **topic)
    found.judge_windows({row["window_start"]: [row] for row in rows}, [])
    return found.outcomes


def test_a_lost_trade_counts_for_the_fault_in_whose_part_it_was_issued(issued, tmp_path):
    trades = list(issued.trades.values())
    kept = [t for t in trades if issued.lines[t.trade_id] not in (10, 600, 700)]
    write_table(tmp_path / "db", kept)
    found = judge(issued, kept)
    found.judge_table(tmp_path / "db")
    assert (found.outcomes["a"].lost, found.outcomes["b"].lost) == (1, 2)
    assert found.outcomes["a"].offered + found.outcomes["b"].offered == len(trades)


def test_trades_after_the_last_received_one_are_not_offered(issued, tmp_path):
    trades = list(issued.trades.values())[:100]
    write_table(tmp_path / "db", trades)
    found = judge(issued, trades, last=100)
    found.judge_table(tmp_path / "db")
    assert found.outcomes["a"].offered == found.outcomes["a"].stored == 100


def test_trades_from_before_the_last_part_are_lost_even_if_no_later_one_arrived(issued, tmp_path):
    trades = list(issued.trades.values())
    write_table(tmp_path / "db", trades[:100])
    found = judge(issued, trades[:100], last=300)
    found.judge_table(tmp_path / "db")
    assert found.outcomes["a"].lost == sum(
        issued.lines[trade.trade_id] < 300 for trade in trades[100:]
    )


def test_the_first_acknowledged_trade_that_is_not_stored_is_lost(issued, tmp_path):
    trades = list(issued.trades.values())
    write_table(tmp_path / "db", trades[20:])
    found = judge(issued, trades)
    found.judge_table(tmp_path / "db")
    assert found.outcomes["a"].lost == 20


def test_an_acknowledged_trade_that_is_not_stored_is_lost_even_at_the_end(issued, tmp_path):
    trades = list(issued.trades.values())[:100]
    write_table(tmp_path / "db", trades[:99])
    found = judge(issued, trades, last=50)
    found.judge_table(tmp_path / "db")
    assert sum(outcome.lost for outcome in found.outcomes.values()) == 1


def test_a_stored_row_with_other_content_is_found(issued, tmp_path):
    trades = list(issued.trades.values())[:100]
    write_table(tmp_path / "db", [trades[0]._replace(side="neither"), *trades[1:]])
    found = judge(issued, trades)
    found.judge_table(tmp_path / "db")
    assert "side is 'neither'" in found.outcomes["a"].problems[0]


def test_right_windows_are_right(issued):
    rows = [window_row(*item) for item in by_minute(issued.trades.values()).items()]
    found = windows_judged(issued, rows)
    assert sum(outcome.right for outcome in found.values()) == len(rows)
    assert not any(outcome.problems for outcome in found.values())


def test_a_window_that_counts_a_trade_twice_is_doubled_and_wrong(issued):
    minutes = by_minute(issued.trades.values())
    rows = [window_row(start, [*trades, trades[0]]) for start, trades in minutes.items()]
    found = windows_judged(issued, rows)
    assert sum(outcome.doubled for outcome in found.values()) == len(rows)
    assert sum(outcome.wrong for outcome in found.values()) == len(rows)


def test_a_missing_window_and_one_without_a_trade_are_found(issued):
    minutes = by_minute(issued.trades.values())
    (first, trades), *others = minutes.items()
    rows = [window_row(start, of) for start, of in others]
    rows.append(window_row(first - golden.MINUTE, trades))
    found = windows_judged(issued, rows)
    assert sum(outcome.missing for outcome in found.values()) == 1
    assert sum(outcome.wrong for outcome in found.values()) == 1


@pytest.mark.parametrize(("late", "expected"), [(True, "late"), (False, "wrong")])
def test_a_window_may_lack_only_trades_that_arrived_after_the_watermark(issued, late, expected):
    minutes = by_minute(issued.trades.values())
    start, trades = next(iter(minutes.items()))
    lacking = {t.trade_id for t in trades[5:9]}
    minutes[start] = [t for t in trades if t.trade_id not in lacking]
    rows = [window_row(*item) for item in minutes.items()]
    found = windows_judged(issued, rows, late=dict.fromkeys(lacking, 1.0) if late else {})
    assert sum(getattr(outcome, expected) for outcome in found.values()) == 1


@pytest.mark.parametrize(("recorded", "expected"), [(True, "late"), (False, "wrong")])
def test_late_trades_of_several_micro_batches_are_told_apart_by_their_record(
    issued, recorded, expected
):
    """The second micro-batch has a newer watermark, so only its own late trade is dropped."""
    minutes = by_minute(issued.trades.values())
    start, trades = next(iter(minutes.items()))
    latest, dropped, last = trades[5], trades[7], trades[9]
    late = {latest.trade_id: 9.0, dropped.trade_id: 1.0, last.trade_id: 0.5}
    offsets = {latest.trade_id: 1, dropped.trade_id: 5, last.trade_id: 9}
    batches = [
        truth.MicroBatch("c", 0, 4, latest.time - 1),
        truth.MicroBatch("c", 4, 8, dropped.time),
    ]
    minutes[start] = [t for t in trades if t is not dropped]
    rows = [window_row(*item) for item in minutes.items()]
    found = judge(issued, issued.trades.values(), late=late, offsets=offsets)
    by_start = {row["window_start"]: [row] for row in rows}
    found.judge_windows(by_start, batches if recorded else [])
    assert sum(getattr(outcome, expected) for outcome in found.outcomes.values()) == 1


def test_the_micro_batches_that_dropped_records_are_read_from_the_record(tmp_path):
    head = "topic,delay_s,micro_batch,counted_from,first_offset,end_offset,watermark,dropped"
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "stream_drops.csv").write_text(
        f"{head},checkpoint\nt,60.0,9,3,10,20,1970-01-01T00:00:02.5Z,4,c\nt,60.0,9,3,10\n"
    )
    assert truth.micro_batches(tmp_path) == [truth.MicroBatch("c", 10, 20, 2_500_000)]


def test_a_batch_run_is_compared_with_the_trades_that_were_stored_then(issued):
    trades = list(issued.trades.values())
    rows = [
        {
            **cells(golden.metrics(trades[:count])),
            "rows": str(count + wrong),
            "snapshot_at": moment,
        }
        for count, wrong, moment in (
            (50, 0, "1970-01-01T00:00:50Z"),
            (400, 0, "1970-01-01T00:02:50Z"),
            (300, 1, "1970-01-01T00:02:40Z"),
            (len(trades), 1, "1970-01-01T00:03:00Z"),
        )
    ]
    found = judge(issued, trades)
    found.judge_batch(rows)
    counts = [(o.batch_right, o.batch_wrong) for o in found.outcomes.values()]
    assert counts == [(1, 0), (1, 2)]


def test_a_logged_run_without_its_result_is_wrong(issued):
    log = "".join(
        f"started=1970-01-01T00:0{n}:00Z run=r{n} status={status} exit=0\n"
        for n, status in enumerate(("ok", "failed", "ok", "ok"))
    )
    found = judge(issued, [])
    found.judge_log(log, {"r0"})
    assert [outcome.batch_wrong for outcome in found.outcomes.values()] == [0, 2]


def test_a_missing_z_score_is_found(tmp_path):
    path = tmp_path / "r.jsonl"
    lab.prepare(SAMPLE, path, 1200)  # a score needs some windows before it
    issued = truth.issued(path, {}, NOW)
    rows = [window_row(*item) for item in by_minute(issued.trades.values()).items()]
    outcomes = windows_judged(issued, rows)
    assert sum(outcome.right for outcome in outcomes.values()) == len(rows)
    assert any("range_z is ''" in problem for problem in outcomes["b"].problems)


@pytest.mark.parametrize(
    ("starts", "wrong"),
    [(("01T00", "01T01"), 0), (("01T01", "01T00"), 1), (("01T01", "02T00"), 1)],
)
def test_windows_out_of_order_or_in_the_file_of_another_day_are_found(tmp_path, starts, wrong):
    file = tmp_path / "stream_csv" / "2025-01-01.csv"
    file.parent.mkdir()
    file.write_text("\n".join(["window_start", *(f"2025-01-{start}" for start in starts), ""]))
    assert len(truth.order_problems(tmp_path)) == wrong


def test_late_and_backfilled_trades_are_found_in_the_order_of_the_topic(issued):
    trades = sorted(issued.trades.values(), key=lambda t: t.time)
    lines = {t.trade_id: t for t in trades}
    frames = [line.frame for line in recording.read(SAMPLE)][:400]
    frames = [f for f in frames if json.loads(f)["trade_id"] in lines]
    records = [truth.Record(frame, NOW.timestamp(), backfilled=False) for frame in frames]
    records.append(truth.Record(b"no trade", NOW.timestamp(), backfilled=False))
    records.append(truth.Record(frames[0], NOW.timestamp(), backfilled=True))
    found = truth.topic(records[1:])
    first = json.loads(frames[0])["trade_id"]
    assert found.backfilled == {first}
    assert len(found.order) == len(frames)
    assert found.order[-1].trade_id == first
    assert found.late.keys() == {first}  # 400 messages last longer than a minute


def test_every_dead_letter_must_have_been_sent_and_every_invalid_message_have_one():
    sent = [b"one", b"two", b"two", json.dumps(messages.VALID).encode(), b'{"type": "other"}']
    letters = [json.dumps({"message": text}).encode() for text in ("one", "two", "two")]
    assert truth.unexplained_rejections(letters, sent, []) == []
    assert "1 invalid messages" in truth.unexplained_rejections(letters[1:], sent, [])[0]
    assert "1 dead letters" in truth.unexplained_rejections(letters, sent[1:], [])[0]
    assert truth.unexplained_rejections(letters, sent[1:], [b"one"]) == []


# --- the plan -----------------------------------------------------------------------------------


def test_a_seed_repeats_the_order_and_each_fault_has_all_its_injections():
    faults = catalogue()
    order = lab.plan(faults, Random(3))
    assert [f.name for f in order] == [f.name for f in lab.plan(faults, Random(3))]
    assert Counter(f.name for f in order) == {f.name: f.times for f in faults}
    assert [f.name for f in order] != [f.name for f in lab.plan(faults, Random(4))]


def test_no_service_is_killed_again_before_all_others():
    order = [f.name for f in lab.plan(catalogue(), Random(1)) if f.mixed]
    rounds = [order[place : place + len(TARGETS)] for place in range(0, len(order), len(TARGETS))]
    assert all(len(set(of_round)) == len(TARGETS) for of_round in rounds)


def test_the_catalogue_fits_into_an_hour_and_names_are_unique():
    faults = catalogue()
    assert len({f.name for f in faults}) == len(faults)
    assert set(QUICK) <= {f.name for f in faults}
    assert faults_main.planned_seconds(faults, faults_main.JOBS) <= 58 * 60


def test_stacks_start_in_order_as_soon_as_one_of_the_jobs_is_free():
    faults = [
        Fault(name, "", lambda _: None, seconds=seconds, stack=name)
        for name, seconds in (("a", 300), ("b", 100), ("c", 150))
    ]
    own = faults_main.STACK_SECONDS
    assert faults_main.planned_seconds(faults, 1) == 550 + 3 * own
    assert faults_main.planned_seconds(faults, 2) == max(300 + own, 250 + 2 * own)


@pytest.fixture
def sigint_ignored():
    """A shell ignores SIGINT for what it starts in the background: `make faults &`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_kill_stops_a_lab_that_runs_in_the_background(sigint_ignored):
    del sigint_ignored

    def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        results.run(main)
    assert ended.value.code == 130


def test_stacks_run_at_the_same_time_and_one_that_ends_without_rows_is_reported():
    """Each process waits for the other one."""
    both = multiprocessing.Barrier(2)

    def rows_of(name: str) -> list[verdict.Row]:
        both.wait(30)
        return [verdict.skipped(name, "", "x")]

    def dies() -> list[verdict.Row]:
        os._exit(1)

    found = dict(parallel.run({"a": lambda: rows_of("a"), "b": lambda: rows_of("b"), "c": dies}, 2))
    assert {name: rows and rows[0].fault for name, rows in found.items()} == {
        "a": "a",
        "b": "b",
        "c": None,
    }


def test_an_interruption_reaches_every_process_and_is_awaited(tmp_path, sigint_ignored):
    del sigint_ignored

    def ends_late() -> list[verdict.Row]:
        (tmp_path / "started").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (tmp_path / "ended").touch()
            raise
        return []

    with contextlib.closing(parallel.run({"a": ends_late, "b": list}, 2)) as found:
        assert next(found)[0] == "b"
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
    assert (tmp_path / "ended").exists()


def test_a_prepared_recording_has_the_length_asked_for_and_ids_without_repetition(tmp_path):
    path = tmp_path / "long.jsonl"
    lab.prepare(SAMPLE, path, 4500)
    found = truth.issued(path, {}, NOW)
    times = [t.time for t in found.trades.values()]
    assert 4400e6 < max(times) - min(times) < 4600e6
    ids = sorted(found.trades)
    assert ids[-1] - ids[0] + 1 - len(ids) <= 3  # the sample lacks one id in each repetition


# --- messages and frames ------------------------------------------------------------------------


def test_the_pipeline_rejects_every_malformed_message():
    kinds = messages.kinds()
    assert len(set(kinds)) >= 60
    for message in (*kinds, *messages.generated(Random(1), 2000)):
        with pytest.raises(trade.InvalidTradeError):
            trade.decode(message, "BTC-USD", NOW)


@pytest.mark.parametrize(
    ("length", "size"), [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (2**62, 10)]
)
def test_the_header_of_a_frame_has_the_shortest_form(length, size):
    assert len(servers.header(servers.TEXT, length)) == size


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "recovery", "late", "result"),
    [
        ({"offered": 5}, 1.0, False, verdict.OK),
        ({"offered": 5, "lost": 1}, 1.0, False, verdict.FAILED),
        ({"offered": 5, "doubled": 1}, 1.0, False, verdict.FAILED),
        ({"offered": 5, "wrong": 1}, 1.0, False, verdict.FAILED),
        ({"offered": 5, "missing": 1}, 1.0, False, verdict.FAILED),
        ({"offered": 5, "batch_wrong": 1}, 1.0, False, verdict.FAILED),
        ({"offered": 5, "late": 1}, 1.0, False, verdict.FAILED),
        ({"offered": 5, "late": 1}, 1.0, True, verdict.OK),
        ({"offered": 5, "problems": ["x"]}, 1.0, False, verdict.FAILED),
        ({"offered": 5}, None, False, verdict.FAILED),
        ({"offered": 0}, 1.0, False, verdict.FAILED),
    ],
)
def test_a_row_is_ok_only_without_any_difference(outcome, recovery, late, result):
    injections = [verdict.Injection("a", recovery)]
    row = verdict.row("a", "", injections, truth.Outcome(**outcome), late_is_expected=late)
    assert row.verdict == result
    assert verdict.exit_status([row]) == (result == verdict.FAILED)


def test_a_skipped_row_shows_its_reason_and_is_no_failure():
    rows = [verdict.skipped("clock", "", "it needs a C compiler")]
    assert "skipped: it needs a C compiler" in verdict.table(rows)
    assert verdict.exit_status(rows) == 0
    assert "1 skipped" in verdict.summary(rows)


# --- the clocks ---------------------------------------------------------------------------------


def test_only_the_wall_clock_of_one_service_is_shifted_while_it_runs(tmp_path):
    if problem := clock.problem():
        pytest.skip(problem)
    clocks = clock.Clocks(tmp_path)
    code = (
        "import time\n"
        "for _ in range(2):\n"
        "    input()\n"
        "    began = time.monotonic(); time.sleep(0.05)\n"
        "    print(time.time(), time.monotonic() - began, flush=True)\n"
    )
    with contextlib.ExitStack() as started:
        services = [
            started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    env={**clocks.environment, "SUPERVISOR_PROCESS_NAME": name},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for name in ("producer", "consumer")
        ]
        for shift in (3600, -3600):
            clocks.shift("producer", shift)
            for service, expected in zip(services, (shift, 0), strict=True):
                assert service.stdin is not None
                assert service.stdout is not None
                service.stdin.write("\n")
                shown, slept = map(float, service.stdout.readline().split())
                assert shown - time.time() == pytest.approx(expected, abs=30)
                assert 0.05 <= slept < 10


# --- the soak -----------------------------------------------------------------------------------


def test_growth_is_found_and_the_warm_up_is_left_out():
    flat = [soak.Sample(t, "threads", "a", 10.0 if t > 10 else 1.0) for t in range(90)]
    rising = [soak.Sample(t, "threads", "b", 10.0 + t) for t in range(90)]
    lines = "\n".join(soak.statements([*flat, *rising]))
    assert "| threads | a | 10 | 10 | +0% |" in lines
    assert lines.count("grows") == 1


def test_samples_of_processes_of_different_age_are_not_compared():
    """A process needs more memory in its first minutes. It was killed more often at the start."""

    def memory(age: float) -> float:
        return 400.0 + min(age, 300.0)

    young = [
        soak.Sample(t, "memory, MiB", "a", memory(t % 120), t % 120) for t in range(0, 1800, 5)
    ]
    old = [
        soak.Sample(t, "memory, MiB", "a", memory((t - 1800) % 900), (t - 1800) % 900)
        for t in range(1800, 3600, 5)
    ]
    lines = soak.statements([*young, *old])
    assert "grows" not in "".join(lines)
    leak = [sample._replace(value=sample.value + sample.at / 20) for sample in (*young, *old)]
    assert soak.statements(leak)[-1].endswith("grows |")


def test_without_two_samples_of_the_same_age_there_is_no_statement_about_growth():
    early = [soak.Sample(t, "threads", "a", 1.0, t) for t in range(60)]
    late = [soak.Sample(60 + t, "threads", "a", 9.0, 240.0) for t in range(60)]
    assert soak.statements([*early, *late])[-1] == "| threads | a | \u2013 | \u2013 | \u2013 |"


def test_the_soak_chooses_short_faults_of_the_main_stack_and_repeats_them_for_a_seed():
    chosen = soak.choose(catalogue(), Random(1), 60)
    again = soak.choose(catalogue(), Random(1), 60)
    assert [f.name for f in chosen] == [f.name for f in again]
    assert {f.stack for f in chosen} == {lab.MAIN, lab.KILLS}
    assert max(f.seconds for f in chosen) <= soak.LONGEST_FAULT


def test_a_closed_pipe_is_no_error_of_the_list() -> None:
    """As in `python -m faults --list | head -1`."""
    program = [sys.executable, "-m", "faults", "--list"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, cwd=ROOT, **pipes) as started:
        assert started.stdout
        assert started.stderr
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == -signal.SIGPIPE
