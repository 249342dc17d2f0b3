"""The check of the predictions: which alerts agree with an outside observer. Pure parts."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.compare.comparison import compare
from pipeline.compare.detection import KEY
from pipeline.compare.frontier import Frontier
from pipeline.compare.inputs import read_outputs
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests import page_data, predictions
from tests.unit.test_compare_frontier import MODEL, measured

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def keyed(*seconds: float) -> dict[tuple[str, str], datetime]:
    return {(f"w{number}", "High"): at(each) for number, each in enumerate(seconds)}


@pytest.mark.parametrize(
    ("recorded", "seen", "problem"),
    [
        (keyed(10, 20, 30), keyed(10.9, 20, 29.1), None),
        (keyed(-5, 10, 20, 30), keyed(1, 10, 20, 30), None),  # before the observer began
        (keyed(10, 20, 30), keyed(10, 20, 30, 99.5), None),  # its record may not be read yet
        (keyed(), keyed(), None),
        (keyed(10, 20, 30), keyed(10, 20, 31.1), "from the observer 1.10 s, limit 1.00 s"),
        (keyed(10, 20, 30), keyed(10, 20), "did not see the High window w2"),
        (keyed(10, 20, 30), keyed(10, 20, 30, 40), "no record of the High window w3"),
    ],
)
def test_every_alert_is_seen_and_every_window_that_is_seen_has_its_alert(recorded, seen, problem):
    found = predictions.disagreements("stream", recorded, seen, NOON, at(100))
    if problem is None:
        assert found == []
    else:
        (text,) = found
        assert problem in text


def test_a_path_without_results_has_no_largest_difference():
    assert predictions.comparison_text("batch", []) == "No result of the batch to compare"
    assert predictions.comparison_text("final", [0.2, 0.9, 0.1]) == (
        "Compared 3 results of the stream's final windows: largest difference from the observer "
        "0.90 s"
    )


def test_the_reported_median_must_be_within_a_second_of_the_observed_one():
    observed = predictions.median_s(keyed(0, 0, 0), keyed(1, 2, 9))
    assert observed == 2
    assert predictions.off_median("batch", 2.9, observed) == []
    assert predictions.off_median("batch", 3.1, observed)
    assert predictions.off_median("batch", math.nan, observed)
    assert predictions.off_median("batch", 2.0, predictions.median_s({}, keyed(1)))


def test_the_model_is_the_one_of_the_mode_that_runs():
    incremental = replace(MODEL, mode="incremental")
    found = Frontier((MODEL, incremental), {}, measured(1.5, 92, 33), 60)
    assert predictions.model_of(found, "incremental") is incremental
    assert predictions.model_of(found, "pushdown") is None


def test_the_results_of_a_comparison_agree_with_an_observer_that_saw_each_of_them(tmp_path):
    data = DataDir(tmp_path)
    page_data.disputed(data, NOON)
    outputs = read_outputs(data, SqliteStore(data.database))
    # The alerts of the test data follow from a lower threshold than the final rows.
    spikes = outputs.final["window_start"].isin(outputs.crossings["window_start"])
    assert spikes.any()
    outputs.final.loc[spikes, "volume_spike"] = "Spike"
    found = compare(outputs, 600)
    final = {
        (row["window_start"], kind): datetime.fromisoformat(row["written_at"])
        for row in found.outputs.final.to_dict("records")
        for flag, kind in predictions.FLAGS.items()
        if row[flag] == kind
    }
    assert len(final) >= 3
    observer = predictions.Observer(data)
    observer.began = NOON - timedelta(days=1)
    observer.seen = {("final", *key): moment for key, moment in final.items()}
    for path in ("stream", "batch"):
        raised = found.outputs.alerts[path][[*KEY, "raised_at"]]
        for key, moment in predictions.times_of(raised).items():
            observer.seen[path, *key] = moment
    problems, compared = predictions.detection_problems(found, observer, NOON)
    assert problems == []
    assert compared["final"] == len(final)
    assert min(compared["stream"], compared["batch"]) >= 3
    (path, *late), _ = observer.seen.popitem()
    problems, _ = predictions.detection_problems(found, observer, NOON)
    assert f"{path}: the observer did not see the {late[1]} window {late[0]}" in problems
    for seen in observer.seen:
        observer.seen[seen] += timedelta(seconds=3)
    problems, _ = predictions.detection_problems(found, observer, NOON)
    assert len([text for text in problems if "reported median" in text]) == 3


def test_unknown_medians_agree_and_an_unknown_and_a_known_one_do_not():
    assert predictions.off_median("batch", math.nan, math.nan) == []
    assert predictions.off_median("batch", 1.0, math.nan)
