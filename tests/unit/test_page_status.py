"""The state of the feed and of the services, from their status files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from page import formatting, status
from page.sections.services import rejected_caption
from pipeline import outputs
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
RECORDED = page_data.replay(synthetic=False, retimed=False)


def services(
    changes: dict[str, dict[str, Any]] | None = None,
    *,
    feed: Mapping[str, Any] | None = page_data.LIVE,
    trade_time: datetime | None = None,
    absent: Sequence[str] = (),
) -> dict[str, status.ServiceStatus]:
    """Return healthy services, with these changes by service."""
    found = page_data.statuses(NOW, feed, trade_time=trade_time)
    read = {}
    for name in outputs.SERVICES:
        fields = {} if name in absent else found[name] | (changes or {}).get(name, {})
        read[name] = status.ServiceStatus(name, {k: text(v) for k, v in fields.items()})
    return read


def text(value: Any) -> Any:
    """Return a value as it comes from a JSON file."""
    if isinstance(value, datetime):
        return value.isoformat()
    return {k: text(v) for k, v in value.items()} if isinstance(value, dict) else value


def state(*args: Any, source: Any = None, **kwargs: Any) -> status.FeedState:
    return status.feed_state(services(*args, **kwargs), source or {}, NOW)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def test_with_healthy_services_the_feed_decides_live_or_replay() -> None:
    assert state().word == "LIVE"
    assert state(feed=page_data.replay()).word == "REPLAY"
    assert state(feed=RECORDED, trade_time=page_data.RECORDED_END).word == "REPLAY"


def test_an_unknown_feed_is_never_called_live() -> None:
    assert state(feed=None).word == "WAITING"
    assert state(feed={"kind": "something"}).word == "WAITING"
    live = {"kind": "live", "url": "wss://x"}
    assert state(feed=None, source=live).word == "LIVE"


@pytest.mark.parametrize(
    ("changes", "absent", "word", "cause"),
    [
        ({}, outputs.SERVICES, "WAITING", None),
        ({}, ("producer",), "WAITING", "producer"),
        ({"producer": {"state": "starting", "healthy": False}}, (), "WAITING", "producer"),
        ({"producer": {"updated": ago(31)}}, (), "DOWN", "producer"),
        ({"producer": {"updated": ago(29)}}, (), "LIVE", None),
        ({"producer": {"updated": "nonsense"}}, (), "DOWN", "producer"),
        ({"producer": {"state": "stopped", "healthy": False}}, (), "DOWN", "producer"),
        ({"producer": {"connected": False}}, (), "DOWN", "feed"),
        (
            {"producer": {"state": "waiting for Kafka", "healthy": False}},
            (),
            "DOWN",
            "producer",
        ),
        ({"producer": {"connected": False, "healthy": False}}, (), "DOWN", "feed"),
        (
            {"producer": {"connected": False, "healthy": False, "started": ago(5)}},
            (),
            "WAITING",
            "producer",
        ),
        ({"producer": {"last_trade": None}}, (), "WAITING", "feed"),
        ({"spark_processor": {"updated": ago(31)}}, (), "STALE", "spark_processor"),
        ({"spark_processor": {"healthy": False}}, (), "STALE", "spark_processor"),
        ({"spark_processor": {"newest_trade": ago(40)}}, (), "STALE", "spark_processor"),
        ({"spark_processor": {"newest_trade": ago(20)}}, (), "LIVE", None),
        ({"spark_processor": {"newest_trade": None}}, (), "LIVE", None),
        ({"spark_processor": {"state": "starting", "healthy": False}}, (), "LIVE", None),
        ({"consumer": {"updated": ago(500)}}, (), "LIVE", None),
    ],
)
def test_the_first_fault_on_the_way_is_the_cause(changes, absent, word, cause) -> None:
    found = state(changes, absent=absent)
    assert (found.word, found.cause) == (word, cause)


def test_an_old_trade_makes_the_feed_stale() -> None:
    assert state(trade_time=NOW - timedelta(seconds=29)).word == "LIVE"
    found = state(trade_time=NOW - timedelta(seconds=31))
    assert (found.word, found.cause) == ("STALE", "feed")


def test_the_age_counts_from_receipt_for_a_recording_with_original_timestamps() -> None:
    """An age from its event times would be months."""
    now = services(feed=RECORDED, trade_time=page_data.RECORDED_END)["producer"]
    trade = status.last_trade(now, status.feed_of(now, {}), NOW)
    assert trade.counted_from == "receipt"
    assert trade.age_s == pytest.approx(0.12)
    age = status.age_of(trade)
    assert age == "last trade received 0.1 s ago (event time 2025-12-02 05:07:17)"


def test_a_feed_without_a_usable_trade_is_a_state_of_its_own() -> None:
    """It has priority over the other states of a connected producer."""
    text = (
        "No usable trade: 8,551 messages are for BTC-USD, but PRODUCT_ID is ETH-USD. "
        "Correct PRODUCT_ID or FEED_URL"
    )
    for more in ({}, {"healthy": False}, {"last_trade": None}):
        found = state({"producer": {"unusable": {"text": text}, **more}})
        assert (found.word, found.reason, found.cause) == ("UNUSABLE", text, "feed")
    lost = {"connected": False, "healthy": False, "message": "Connection refused"}
    found = state({"producer": {"unusable": {"text": text}, **lost}})
    assert (found.word, found.reason) == (
        "DOWN", "no connection to the feed: Connection refused",
    )  # fmt: skip
    shown = status.ServiceStatus("producer", {"unusable": {"text": text}, **lost})
    assert status.unusable_feed({"producer": shown}) == ""
    silent = state({"producer": {"unusable": {"text": text}, "updated": ago(60)}})
    assert silent.word == "DOWN"
    assert state({"producer": {"unusable": None}}).word == "LIVE"


def test_the_age_of_a_retimed_or_live_trade_counts_from_its_event_time() -> None:
    for feed in (page_data.LIVE, page_data.replay()):
        producer = services(feed=feed)["producer"]
        trade = status.last_trade(producer, status.feed_of(producer, {}), NOW)
        assert trade.counted_from == "event time"
        assert trade.age_s == pytest.approx(0.32)
        assert status.age_of(trade) == "last trade 0.3 s ago"


def test_an_ended_replay_is_ended_not_stale() -> None:
    feed = page_data.replay(retimed=False, state="ended")
    assert state(feed=feed, trade_time=page_data.RECORDED_END).word == "ENDED"
    # a dead producer ranks first
    dead = {"producer": {"updated": ago(60)}}
    assert state(dead, feed=feed, trade_time=page_data.RECORDED_END).word == "DOWN"


@pytest.mark.parametrize("junk", [None, 7, "text", [1], {"x": {}}, {"price": "NaN", "time": 5}])
def test_fields_of_other_types_are_unknown_and_break_nothing(junk) -> None:
    """Status files come from other processes."""
    names = ("feed", "last_trade", "connected", "counters", "updated", "started", "newest_trade")
    for name in names:
        found = services({service: {name: junk} for service in outputs.SERVICES})
        assert status.feed_state(found, {}, NOW).word in ("LIVE", "WAITING", "DOWN", "STALE")
        status.problems(found, NOW)
    producer = services({"producer": {"last_trade": junk}})["producer"]
    assert status.last_trade(producer, status.feed_of(producer, {}), NOW).price is None


def test_each_unhealthy_service_has_a_sentence() -> None:
    found = services(
        {
            "consumer": {"healthy": False, "state": "waiting for Kafka", "message": "no broker"},
            "spark_processor": {"updated": ago(95)},
        },
        absent=("batch_scheduler",),
    )
    assert status.problems(found, NOW) == [
        "consumer (waiting for Kafka): no broker",
        "no heartbeat from spark_processor for 1 min 35 s. Check that it runs, and read its log",
        "not started yet: batch_scheduler",
    ]
    assert status.problems(services(), NOW) == []


def test_only_the_first_of_several_silent_services_has_the_action() -> None:
    quiet = {"updated": ago(95)}
    found = services({"producer": quiet, "consumer": quiet, "batch_scheduler": quiet})
    assert status.problems(found, NOW) == [
        "no heartbeat from producer for 1 min 35 s. Check that it runs, and read its log",
        "no heartbeat from consumer for 1 min 35 s",
        "no heartbeat from batch_scheduler for 1 min 35 s",
    ]


FULL = "No space left on device: free space on the disk of DATA_DIR"


def on_a_full_disk(
    changes: dict[str, dict[str, Any]] | None = None, absent: Sequence[str] = ()
) -> dict[str, status.ServiceStatus]:
    found = services(changes, absent=absent)
    return {name: replace(service, full_disk=FULL) for name, service in found.items()}


def test_a_full_disk_comes_before_a_missing_heartbeat() -> None:
    """A service cannot write its status then."""
    quiet = {"updated": ago(95)}
    found = on_a_full_disk({"producer": quiet, "consumer": quiet})
    first = f"{FULL} (no heartbeat from producer for 1 min 35 s)"
    state = status.feed_state(found, {}, NOW)
    assert (state.word, state.reason) == ("DOWN", first)
    assert status.problems(found, NOW) == [first, "no heartbeat from consumer for 1 min 35 s"]


def test_a_full_disk_comes_before_a_service_that_cannot_report_its_start() -> None:
    stopped = {"state": "stopped", "updated": ago(300), "healthy": False}
    found = on_a_full_disk({"producer": stopped})
    state = status.feed_state(found, {}, NOW)
    assert state.reason == f"{FULL} (producer stopped 5 min ago)"
    state = status.feed_state(on_a_full_disk(absent=("producer",)), {}, NOW)
    assert state.reason == f"{FULL} (producer has not started yet)"
    state = status.feed_state(on_a_full_disk(absent=outputs.SERVICES), {}, NOW)
    assert state.reason == f"{FULL} (no service has started yet)"


def test_services_with_new_heartbeats_on_a_full_disk_report_it_themselves() -> None:
    found = on_a_full_disk()
    assert status.feed_state(found, {}, NOW).word == "LIVE"
    assert status.problems(found, NOW) == []


def test_a_young_service_may_wait_for_others_without_alarm() -> None:
    """All start at once. Its sentence counts the restarts."""
    waiting = {"healthy": False, "state": "waiting for Kafka", "message": "no broker", "starts": 7}
    young = services({"consumer": waiting | {"started": ago(12)}})["consumer"]
    assert status.condition(young, NOW) == "starting"
    sentence = "consumer has been starting for 12 s (6 restarts): no broker"
    assert status.sentence(young, NOW) == sentence
    old = services({"consumer": waiting | {"started": ago(31)}})["consumer"]
    assert status.condition(old, NOW) == "unhealthy"


def test_an_unreadable_status_has_its_reason() -> None:
    broken = status.ServiceStatus("consumer", {}, "Cannot read consumer.json: Expecting value")
    assert status.condition(broken, NOW) == "unreadable"
    assert "Expecting value" in status.sentence(broken, NOW)


def test_the_name_of_a_replay_has_its_speed_and_timestamps() -> None:
    def name(**more: Any) -> str:
        producer = services(feed=page_data.replay(recording="r.gz", **more))["producer"]
        return status.feed_of(producer, {}).name

    assert name() == "replay of r.gz, re-timed to the present"
    fast = name(retimed=False, speed=10)
    assert fast == f"replay of r.gz, with its original timestamps, at 10{formatting.TIMES} speed"
    assert name(retimed=False, speed="max").endswith("as fast as possible")


def test_the_rate_is_the_count_of_the_last_minute_by_its_length() -> None:
    minute = {"at": NOW.isoformat(), "seconds": "60.5", "counters": '{"received": 423}'}
    found = status.rate(status.ServiceStatus("producer", {}, None, minute), NOW)
    assert found is not None
    assert found.per_second == pytest.approx(423 / 60.5)
    assert found.until == NOW


@pytest.mark.parametrize(
    "minute",
    [
        {},
        {"at": (NOW - timedelta(minutes=4)).isoformat(), "seconds": "60", "counters": "{}"},
        {"at": NOW.isoformat(), "seconds": "0", "counters": "{}"},
        {"at": NOW.isoformat(), "seconds": "60", "counters": "[1]"},
        {"at": NOW.isoformat(), "seconds": "60", "counters": '{"recei'},
        {"at": NOW.isoformat(), "seconds": "60"},
        {"at": NOW.isoformat(), "seconds": "60", "counters": "{}"},
    ],
)
def test_the_rate_of_an_old_broken_or_empty_record_is_unknown(minute) -> None:
    assert status.rate(status.ServiceStatus("producer", {}, None, minute), NOW) is None


def test_rejected_messages_of_all_services_are_merged_newest_first() -> None:
    def rejecting(name: str, second: int) -> status.ServiceStatus:
        message = {"reason": "price: x", "received": f"2026-03-01T11:00:{second:02}Z", "bytes": 3}
        rejected = {"reasons": {"price": second, "time": 1}, "latest": [message, "torn", {}]}
        return status.ServiceStatus(name, {"rejected": rejected})

    services = {name: rejecting(name, n) for name, n in (("producer", 5), ("consumer", 9))}
    found = status.latest_rejected(services)
    assert [one.service for one in found[:2]] == ["consumer", "producer"]
    assert len(found) == 4
    assert status.rejected_by_reason(services) == {"price": 14, "time": 2}


def test_an_unreadable_count_of_rejected_messages_is_unknown_and_not_zero() -> None:
    rejected = {"reasons": {"price": "many", "time": 2}}
    services = {"producer": status.ServiceStatus("producer", {"rejected": rejected})}
    assert rejected_caption(services).startswith(
        "Messages rejected since the services started, by reason: time 2, price –."  # noqa: RUF001
    )


def test_a_stream_behind_the_feed_is_stale_except_with_original_timestamps() -> None:
    """There a minute of event time may pass in a moment."""
    behind = {"spark_processor": {"newest_trade": ago(90)}}
    assert state(behind).word == "STALE"
    end = page_data.RECORDED_END
    behind = {"spark_processor": {"newest_trade": (end - timedelta(seconds=90)).isoformat()}}
    assert state(behind, feed=RECORDED, trade_time=end).word == "REPLAY"
