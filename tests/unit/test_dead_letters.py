"""What a status file shows of rejected messages: the reasons, in bounded size."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.dead_letters import CHARACTERS, LATEST, OTHERS, REASONS, RejectedSummary

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_latest_messages_are_shown_with_reason_receipt_and_size() -> None:
    rejected = RejectedSummary()
    for n in range(LATEST + 5):
        rejected.add(f"message {n}", 9, f"price: {n} is not positive", NOW + timedelta(seconds=n))
    status = rejected.as_status()
    assert status["reasons"] == {"price": LATEST + 5}
    assert [one["message"] for one in status["latest"]] == [f"message {n}" for n in range(5, 15)]
    assert status["latest"][-1] == {
        "reason": "price: 14 is not positive",
        "received": "2026-03-01T12:00:14Z",
        "bytes": 9,
        "message": "message 14",
    }


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=900), st.text(max_size=900)), max_size=60))
def test_every_message_is_counted_once_and_the_size_is_bounded(messages) -> None:
    rejected = RejectedSummary()
    for message, reason in messages:
        rejected.add(message, len(message), reason, NOW)
    status = json.loads(json.dumps(rejected.as_status()))
    assert sum(status["reasons"].values()) == len(messages)
    assert len(status["reasons"]) <= REASONS + 1
    kinds = Counter(reason.partition(":")[0][:CHARACTERS] for _, reason in messages)
    if len(kinds) <= REASONS and OTHERS not in kinds:
        assert status["reasons"] == dict(kinds)
    assert all(len(one["message"]) <= CHARACTERS for one in status["latest"])
    assert all(len(one["reason"]) <= CHARACTERS for one in status["latest"])
