"""How the results of the benchmarks are kept, merged and drawn."""

import json
from pathlib import Path

from benchmarks import batch, growth_figure, memory, parts, peers, record
from benchmarks.catch_up import Run
from benchmarks.cost import Cost
from benchmarks.machine import LOAD
from benchmarks.record import Part, Record
from benchmarks.results import Mark, Result
from benchmarks.windows import Check

ABOUT = {"processor": "P", "input": "I"}
ROWS = [
    Result("a", "s", 4.0, 10.0, Mark(at_most=0.5, of_ratio=True)),
    Result("b", "MiB", None, None, Mark(at_least=3)),
    Result("c", "messages/s", 7.0, 8.0, None, "empty loop"),
]


def test_a_record_is_read_as_it_was_written(tmp_path: Path):
    file = tmp_path / "latest.json"
    written = Record(
        ABOUT, {"one": Part("2025-06-01", ROWS, 1.5), "two": Part("x", [], 2.0, "why")}
    )
    record.write(file, written)
    assert record.read(file) == written
    rows = json.loads(file.read_text())["parts"]["one"]["results"]
    assert [row["ratio"] for row in rows] == [0.4, None, 0.875]
    assert [row["reached"] for row in rows] == [True, None, None]
    assert "FAILED why" in file.with_suffix(".md").read_text()


def test_a_part_that_is_measured_again_replaces_only_its_own_results():
    older = Record(
        ABOUT | {LOAD: "0.10"}, {"one": Part("old", ROWS), "two": Part("old", ROWS, 0, "failed")}
    )
    newer = Record(ABOUT, {"two": Part("new", ROWS)})
    merged = newer.merged(older, {"two": 0, "one": 0})
    assert [(name, part.began) for name, part in merged.parts.items()] == [
        ("two", "new"),
        ("one", "old"),
    ]
    assert merged.parts["two"].failure is None


def test_results_of_another_machine_or_size_are_not_merged():
    older = Record(ABOUT | {"processor": "Q"}, {"one": Part("old", ROWS)})
    newer = Record(ABOUT, {"two": Part("new", ROWS)})
    assert newer.merged(older, {"one": 0, "two": 0}).parts.keys() == {"two"}


def test_a_damaged_file_or_one_of_another_version_counts_as_none(tmp_path: Path):
    file = tmp_path / "latest.json"
    assert record.read(file) is None
    for text in ("", "{", "[]", '{"results": {}}', '{"about": {}, "parts": {"one": {}}}'):
        file.write_text(text)
        assert record.read(file) is None


def test_a_part_that_fails_names_its_step_and_the_others_run(tmp_path: Path):
    def fails(open_bench):
        with open_bench("here") as bench:
            bench.log("filling the topic")
            yield ROWS[0]
            raise ValueError("no broker")

    session = parts.Session(tmp_path / "run", "cores")
    measured = {"bad": fails, "good": lambda _open: iter(ROWS)}
    file = tmp_path / "latest.json"
    found = parts.run(session, measured, measured, ABOUT, file)
    assert found.parts["bad"].failure == 'at "filling the topic": ValueError: no broker'
    assert found.parts["bad"].results == ROWS[:1]
    assert found.parts["good"].results == ROWS
    assert session.failures.keys() == {"bad"}
    again = parts.run(
        parts.Session(tmp_path / "again", "cores"),
        measured | {"bad": measured["good"]},
        ["bad"],
        ABOUT,
        file,
    )
    assert [part.failure for part in again.parts.values()] == [None, None]


KEYS = ("size", "mode")


def size_row(size: int, mode: str, wall: float | None) -> dict[str, object]:
    return {"size": size, "mode": mode, "wall, s": wall}


def test_rows_are_written_as_json_and_as_a_table_with_the_failures(tmp_path: Path):
    file = tmp_path / "growth.json"
    rows = record.Rows(file, ABOUT, KEYS)
    rows.add(size_row(20, "full", 6.25))
    rows.add(size_row(20, "pushdown", None))
    text = rows.write({"batch": "at x: y"})
    assert json.loads(file.read_text()) == {
        "about": ABOUT,
        "rows": [size_row(20, "full", 6.25), size_row(20, "pushdown", None)],
        "failures": {"batch": "at x: y"},
    }
    assert file.with_suffix(".md").read_text() == f"{text}\n"
    table = [" ".join(line.split()) for line in text.splitlines() if line.startswith("|")]
    assert table[2:] == ["| 20 | full | 6.25 |", "| 20 | pushdown | - |"]
    assert text.endswith("batch FAILED at x: y")


def test_rows_of_an_earlier_run_are_kept_until_they_are_measured_again(tmp_path: Path):
    file = tmp_path / "growth.json"
    earlier = record.Rows(file, ABOUT | {LOAD: "0.10"}, KEYS)
    for row in (size_row(100, "full", 1), size_row(20, "full", 2), size_row(20, "pushdown", 3)):
        earlier.add(row)
    again = record.Rows(file, ABOUT | {LOAD: "0.20"}, KEYS)
    again.add(size_row(20, "full", 9))
    again.add(size_row(30, "full", 8))
    assert [[*row.values()] for row in again.rows()] == [
        [20, "full", 9],
        [20, "pushdown", 3],
        [30, "full", 8],
        [100, "full", 1],
    ]
    assert record.Rows(file, {"processor": "Q"}, KEYS).rows() == []


def test_the_lines_of_the_figure_go_from_the_smallest_size_to_the_largest():
    rows = [
        {"measurement": "batch", "mode": mode, "rows or messages": size, "wall, s": wall}
        for mode, size, wall in (("full", 9, 2.0), ("full", 3, 1.0), ("pushdown", 3, 0.5))
    ]
    assert growth_figure.series(rows, "batch") == {
        "full": [(3, 1.0), (9, 2.0)],
        "pushdown": [(3, 0.5)],
    }
    assert growth_figure.series(rows, "catch-up") == {}
    assert [growth_figure.short(size) for size in (20, 20_000, 1.5e6)] == ["20", "20k", "1.5M"]


def test_the_cpu_of_each_service_is_per_minute_and_adds_up():
    samples = memory.Samples(cpu={"producer": 3.0, "spark_processor": 45.0}, seconds=90)
    found = list(memory.cpu_results("CPU", samples))
    assert [(result.what, result.ours) for result in found] == [
        ("CPU: whole stack", 32.0),
        ("CPU: spark_processor", 30.0),
        ("CPU: producer", 2.0),
    ]


def test_the_wall_time_of_a_batch_mode_is_compared_with_its_mark():
    costs = [Cost(9.0, 20.0, 500), Cost(11.0, 10.0, 700), Cost(1.0, 30.0, 600)]
    ours = batch.median_cost(costs)
    assert ours == Cost(9.0, 20.0, 600)
    wall, cpu, _ = batch.compare("pushdown", 10_000_000, ours, Cost(18.0, 10.0))
    assert (wall.ratio, wall.reached) == (0.5, True)
    assert (cpu.ratio, cpu.reached) == (2.0, None)
    assert not next(batch.compare("pushdown", 10_000_000, Cost(9.1, 1), Cost(18.0, 1))).reached


def test_the_ratios_of_an_engine_need_the_cost_of_the_pipeline():
    run = Run(Cost(20.0, 40.0, 900.4), True, Check(5, 0, 0), Check(0, 5, 0))
    row = peers.table_row(100, "Flink", run, Cost(30.0, 10.0))
    assert (row["wall, this project / engine"], row["CPU, this project / engine"]) == (1.5, 0.25)
    assert (row["windows right / wrong / missing"], row["finished"]) == ("5 / 0 / 0", "yes")
    assert peers.table_row(100, "Flink", run, None)["CPU, this project / engine"] is None
