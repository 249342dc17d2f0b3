"""The README agrees with the code."""

import re
from datetime import timedelta

from pipeline.compare import causes
from pipeline.durations import parse_duration
from pipeline.outputs import WINDOW_COLUMNS
from pipeline.settings import Settings
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_has_default_meaning_and_reason_of_every_setting() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.+?) \| (.+) \|$", README, re.MULTILINE)
    assert [name for name, *_ in rows] == [name.upper() for name in Settings.model_fields]
    for name, default, meaning, _reason in rows:
        field = Settings.model_fields[name.lower()]
        assert meaning == field.description
        if field.default is None:
            assert default == "-"
        elif isinstance(field.default, timedelta):
            assert parse_duration(default.strip("`")) == field.default
        elif isinstance(field.default, float):
            assert float(default.strip("`")) == field.default
        else:
            assert default.strip("`") == str(field.default)


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named <= targets | {"and"}


def test_every_file_it_links_or_shows_exists() -> None:
    for path in re.findall(r"\]\(([a-z][^):]*)\)", README):
        assert (ROOT / path).exists(), path


def test_its_excerpt_of_a_window_file_has_the_columns_of_today() -> None:
    assert ",".join(WINDOW_COLUMNS) in README


def test_the_table_of_causes_lists_every_cause_and_no_other() -> None:
    section = README.partition("## Compare the two paths")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    every = (
        *(causes.LATE, causes.BACKFILLED, causes.AFTER_SNAPSHOT, causes.CONFLICT),
        *(causes.NOT_RECORDED, causes.UNEXPLAINED, causes.GAP, causes.REJECTED),
        *(causes.THRESHOLDS, causes.TWO_TOPICS, causes.DELETED),
    )
    assert sorted(listed) == sorted(every)
