"""The cost of each path and the parts of a batch run."""

import json
import math
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from pipeline.compare.cost import RUN_PARTS, cost, run_parts

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def moments(*at: float) -> pd.Series:
    return pd.Series(pd.to_datetime([seconds(second) for second in at], utc=True))


def test_the_parts_of_a_run_add_up_to_its_time_and_an_unknown_part_stays_unknown() -> None:
    log = pd.DataFrame(
        {
            "status": ["ok"] * 3 + ["failed"],
            "wall_s": [10.0, 11.0, 12.0, 99.0],
            "start_s": [4.0, 4.0, 4.0, 1.0],
            "logic_s": [5.0, 5.5, 6.0, 1.0],
            "read_s": [2.0, 2.0, 2.0, 1.0],
            "write_s": [0.5, 0.5, 0.5, 1.0],
        }
    )
    found = run_parts(log)
    assert list(found["part"]) == list(RUN_PARTS)
    assert list(found["seconds"]) == [4, 2, 3.5, 0.5, 1]
    assert found["share"].sum() == pytest.approx(1)
    old = run_parts(log.drop(columns=["read_s", "write_s"]))
    assert list(old["seconds"].isna()) == [False, True, False, True, False]
    assert old["seconds"].sum() == pytest.approx(11)
    assert run_parts(log[:0])["seconds"].isna().all()


def minutes(*rows: tuple[float, float, int | None]) -> pd.DataFrame:
    """Return a minute record from noon on, given as (CPU seconds, MiB, rows; None: starting)."""
    return pd.DataFrame(
        [
            (60.0, cpu, mib, json.dumps({} if read is None else {"rows": read}))
            for cpu, mib, read in rows
        ],
        columns=["seconds", "cpu_s", "rss_mib", "counters"],
    ).assign(at=moments(*(60 * (n + 1) for n in range(len(rows)))))


def test_cost_per_hour_result_and_million_rows_covers_the_recorded_time_only() -> None:
    stream = minutes((30, 800, 1000), (30, 900, 1000), (3, 850, 0))
    log = pd.DataFrame(
        {
            "started": moments(5, 60, 125, 175),
            "status": ["ok", "failed", "ok", "ok"],
            "rows": [1000.0, None, 3000.0, 9000.0],
            "wall_s": [10.0, 10.0, 10.0, 10.0],  # the last one ends when the record has ended
            "peak_mib": [400, 9, 500, 600],
            "mode": "full",
        }
    )
    services = {
        "spark_processor": stream,
        "batch_scheduler": minutes((12, 40, None), (0, 40, None), (0, 40, None)),
    }
    finals = moments(-1, 10, 20, 179, 181)
    found = cost(services, log, finals).set_index("path")
    assert found["cpu_s_per_hour"].to_dict() == {"stream": 63 / 180 * 3600, "batch": 240}
    assert found["peak_mib"].to_dict() == {"stream": 900, "batch": 500}
    assert found["answers"].to_dict() == {"stream": 3, "batch": 2}
    assert found["cpu_s_per_answer"].to_dict() == {"stream": 21, "batch": 6}
    assert found["cpu_s_per_million"].to_dict() == {"stream": 31_500, "batch": 3_000}
    assert found["idle_cpu_s_per_hour"]["stream"] == pytest.approx(180)
    incremental = cost(services, log.assign(mode="incremental"), finals).set_index("path")
    assert math.isnan(
        incremental["cpu_s_per_million"]["batch"]
    )  # the rows that it read are unknown


def test_the_cost_is_unknown_if_it_is_unknown_in_one_minute() -> None:
    stream = minutes((30, 800, 1000), (30, 900, 1000), (3, 850, 0))
    stream.loc[1, ["cpu_s", "rss_mib"]] = math.nan
    log = pd.DataFrame(
        {"started": moments(), "status": [], "rows": [], "wall_s": [], "peak_mib": [], "mode": []}
    )
    found = cost({"spark_processor": stream}, log, moments(10)).set_index("path").loc["stream"]
    assert found[["cpu_s_per_hour", "peak_mib", "cpu_s_per_answer"]].isna().all()
    assert found["answers"] == 1
    assert found["idle_cpu_s_per_hour"] == pytest.approx(180)


def test_a_minute_in_which_the_stream_starts_is_not_idle() -> None:
    log = pd.DataFrame(
        {"started": moments(), "status": [], "rows": [], "wall_s": [], "peak_mib": [], "mode": []}
    )
    starting = minutes((30, 800, None), (30, 900, 1000))
    found = cost({"spark_processor": starting}, log, moments())
    assert found["idle_cpu_s_per_hour"].isna().all()


def test_the_idle_cost_leaves_out_the_last_row_of_a_process() -> None:
    """It is shorter than a minute, and the CPU time of the shutdown is in it."""
    log = pd.DataFrame(
        {"started": moments(), "status": [], "rows": [], "wall_s": [], "peak_mib": [], "mode": []}
    )
    stream = minutes((3, 850, 0), (9, 850, 0))
    stream.loc[1, "seconds"] = 45.0
    found = cost({"spark_processor": stream}, log, moments()).set_index("path")
    assert found["idle_cpu_s_per_hour"]["stream"] == pytest.approx(180)


def test_without_a_minute_record_the_cost_is_unknown_and_results_are_still_counted() -> None:
    log = pd.DataFrame(
        {
            "started": moments(1, 2),
            "status": ["ok", "ok"],
            "rows": [1.0, 2.0],
            "wall_s": [1.0, 1.0],
            "peak_mib": [1.0, 2.0],
            "mode": "full",
        }
    )
    found = cost({}, log, moments(1, 2, 3))
    assert found[["cpu_s_per_hour", "cpu_s_per_answer", "cpu_s_per_million"]].isna().all().all()
    assert list(found["answers"]) == [3, 2]
