"""The pure rules of the consumer: where it starts to read."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.loader import start_offset

# --- where the consumer starts --------------------------------------------------------------


def test_the_first_run_starts_at_the_beginning() -> None:
    assert start_offset(stored=None, committed=None, end=0) is None
    assert start_offset(stored=None, committed=None, end=500) is None


def test_a_lost_database_is_filled_from_the_beginning_whatever_was_committed() -> None:
    assert start_offset(stored=None, committed=500, end=500) is None


def test_what_is_stored_and_not_yet_committed_is_not_read_again() -> None:
    assert start_offset(stored=500, committed=400, end=900) == 500
    assert start_offset(stored=500, committed=500, end=500) == 500


def test_an_older_database_than_the_committed_offset_is_filled_up() -> None:
    assert start_offset(stored=300, committed=500, end=500) == 300


def test_a_new_topic_is_read_from_its_beginning() -> None:
    assert start_offset(stored=500, committed=None, end=900) is None
    assert start_offset(stored=500, committed=20, end=20) is None


@given(
    stored=st.none() | st.integers(0, 50),
    committed=st.none() | st.integers(0, 50),
    end=st.integers(0, 50),
)
def test_nothing_is_ever_skipped_beyond_what_is_stored(
    stored: int | None, committed: int | None, end: int
) -> None:
    start = start_offset(stored, committed, end)
    assert start is None or start == stored
    assert start is None or start <= end
