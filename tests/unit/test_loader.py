"""Where the consumer continues after a start."""

from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import GroupAuthorizationFailedError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from pipeline.ingest.loader import handled_before, not_committed, start_offset


def test_an_empty_database_starts_at_the_beginning() -> None:
    assert start_offset(stored=None, committed=None, end=0) is None
    assert start_offset(stored=None, committed=None, end=500) is None


def test_a_lost_database_starts_at_the_beginning_despite_a_committed_offset() -> None:
    assert start_offset(stored=None, committed=500, end=500) is None


def test_stored_records_are_not_read_again_if_their_offset_is_not_committed() -> None:
    assert start_offset(stored=500, committed=400, end=900) == 500
    assert start_offset(stored=500, committed=500, end=500) == 500


def test_a_database_that_is_older_than_the_committed_offset_continues_at_its_own() -> None:
    assert start_offset(stored=300, committed=500, end=500) == 300


def test_a_new_topic_starts_at_the_beginning() -> None:
    assert start_offset(stored=500, committed=None, end=900) is None
    assert start_offset(stored=500, committed=20, end=20) is None


def test_rejected_records_before_the_committed_offset_of_this_topic_are_not_sent_again() -> None:
    committed = OffsetAndMetadata(400, "topic-a", -1)
    assert handled_before(committed, end=400, topic_id="topic-a") == 400
    assert handled_before(committed, end=900, topic_id="topic-a") == 400
    assert handled_before(committed, end=900, topic_id="topic-b") == 0
    assert handled_before(committed, end=399, topic_id="topic-a") == 0  # it lost its newest ones
    assert handled_before(None, end=900, topic_id="topic-a") == 0
    of_an_older_version = OffsetAndMetadata(400, "", -1)
    assert handled_before(of_an_older_version, end=900, topic_id="topic-a") == 0


@given(
    stored=st.none() | st.integers(0, 50),
    committed=st.none() | st.integers(0, 50),
    end=st.integers(0, 50),
)
def test_no_record_after_the_stored_ones_is_skipped(
    stored: int | None, committed: int | None, end: int
) -> None:
    start = start_offset(stored, committed, end)
    assert start is None or start == stored
    assert start is None or start <= end


def test_an_offset_that_is_not_committed_asks_for_something_only_if_kafka_refuses_it() -> None:
    assert not_committed(1_234_567, KafkaTimeoutError("no answer")) == (
        "Offset 1234567 is stored but not committed. Nothing to do: the next commit includes it. "
        "Cause: KafkaTimeoutError: no answer"
    )
    assert not_committed(7, GroupAuthorizationFailedError("a-group")).startswith(
        "Offset 7 is stored but not committed. Kafka refuses this client. Grant its user access"
    )
