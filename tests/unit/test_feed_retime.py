"""Re-timing: the same clock gives the same messages, and only times and ids change."""

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import recording, retime, sample
from feed.recording import Line

LATEST = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * retime.SECOND
NOW = int(datetime(2026, 3, 4, 12, 34, 56, 789, tzinfo=UTC).timestamp() * 1e6)


def micros(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


def ticker(time: str, trade_id: int = 100, sequence: int = 5000) -> bytes:
    return (
        b'{"type":"ticker","sequence":%d,"price":"90000.10","time":"%b","trade_id":%d,"x": 1.50}'
        % (sequence, time.encode(), trade_id)
    )


def lay(*frames: bytes) -> retime.Tiles:
    return retime.tile([Line(frame, None) for frame in frames], LATEST)


def times(tiles: retime.Tiles, first: int, count: int) -> list[str]:
    return [json.loads(tiles.frame(first + n))["time"] for n in range(count)]


@pytest.fixture(scope="module")
def tiles() -> retime.Tiles:
    return retime.tile(recording.read(sample.SAMPLE), LATEST)


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    return [line.frame for line in recording.read(sample.SAMPLE)]


def test_the_sample_is_an_hour_from_a_whole_minute_on(tiles, recorded):
    assert (tiles.count, tiles.period) == (len(recorded), 60 * retime.MINUTE)


def test_same_clock_same_messages_after_any_restart(tiles):
    again = retime.tile(recording.read(sample.SAMPLE), LATEST + 5 * retime.SECOND)
    first = again.first_after(NOW)
    assert first == tiles.first_after(NOW)
    for position in range(first, first + 1000):
        assert again.frame(position) == tiles.frame(position)
        assert again.due(position) == tiles.due(position)


def test_a_tile_is_the_recording_moved_by_whole_minutes_with_increasing_ids(tiles, recorded):
    tile = 11_111
    start = retime.ORIGIN + tile * tiles.period
    base = micros("2025-06-30T23:30:00Z")
    shift = timedelta(microseconds=start - base)
    messages = [json.loads(frame) for frame in recorded]
    ids = [message["trade_id"] for message in messages]
    sequences = [message["sequence"] for message in messages]
    id_step, sequence_step = max(ids) - min(ids) + 1, max(sequences) - min(sequences) + 1
    for n, message in enumerate(messages):
        moved = datetime.fromisoformat(message["time"]) + shift
        message["time"] = moved.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        message["trade_id"] += tile * id_step
        message["sequence"] += tile * sequence_step
        position = tile * tiles.count + n
        assert tiles.frame(position) == json.dumps(message, separators=(",", ":")).encode()


def test_all_bytes_but_time_and_ids_are_kept():
    odd = b'{ "type":"ticker",  "price":"9e4","time" : "2025-06-30T23:30:01.25+02:00",'
    odd += b'"u":"\xc3\xa9", "trade_id": 100 ,"last_size":"0.10"}\t'
    tiles = lay(odd)
    moved = odd.replace(b"2025-06-30T23:30:01", b"2025-01-01T02:00:04")
    # The fourth tile of a second each, two hours east.
    assert tiles.frame(3) == moved.replace(b": 100 ", b": 103 ")


def test_the_first_tile_has_the_recordings_own_ids(tiles, recorded):
    assert json.loads(tiles.frame(0))["trade_id"] == json.loads(recorded[0])["trade_id"]
    assert tiles.frame(0).replace(b"2025-01-01T00:00", b"2025-06-30T23:30") == recorded[0]


def test_ids_continue_without_gap_or_repetition_from_tile_to_tile(tiles):
    seam = 5000 * tiles.count
    before, after = (json.loads(tiles.frame(seam + n))["trade_id"] for n in (-1, 0))
    assert after == before + 1


@given(moment=st.integers(retime.ORIGIN, retime.ORIGIN + 10**17))
def test_only_the_clock_decides_which_messages_are_due(moment):
    tiles = lay(
        ticker("2025-06-30T23:30:00Z"),
        ticker("2025-06-30T23:30:01Z"),
        ticker("2025-06-30T23:30:01Z"),
        ticker("2025-06-30T23:32:59.999999Z"),
    )
    position = tiles.first_after(moment)
    assert tiles.due(position - 1) <= moment < tiles.due(position)


def test_messages_are_due_at_their_event_time_in_increasing_order(tiles):
    first = tiles.first_after(NOW)
    due = [tiles.due(first + n) for n in range(tiles.count + 10)]
    assert due == sorted(due)
    assert due[0] > NOW
    on_time = sum(micros(json.loads(tiles.frame(first + n))["time"]) == due[n] for n in range(1000))
    assert on_time >= 990  # all but messages that come again


def test_a_late_trade_stays_late():
    tiles = lay(
        ticker("2025-06-30T23:30:10Z"),
        ticker("2025-06-30T23:29:30Z"),
        ticker("2025-06-30T23:30:11Z"),
    )
    late = [tiles.due(n) - micros(json.loads(tiles.frame(n))["time"]) for n in range(3)]
    assert late == [0, 40 * retime.SECOND, 0]


def test_messages_of_a_wire_recording_are_due_at_their_receive_times():
    start = micros("2025-06-30T23:30:10Z")
    lines = [
        Line(b'{"type":"subscriptions"}', start / 1e6),
        Line(ticker("2025-06-30T23:30:10.000000Z"), start / 1e6 + 0.25),
        Line(b"garbage without a receive time", None),
        Line(ticker("2025-06-30T23:30:10.520000Z"), start / 1e6 + 0.5),  # before it was made
    ]
    tiles = retime.tile(lines, LATEST)
    offsets = [tiles.due(n) - retime.ORIGIN for n in range(4)]
    assert offsets == [10_000_000, 10_250_000, 10_250_000, 10_500_000]
    assert tiles.frame(1) == ticker("2025-01-01T00:00:10.000000Z")
    assert tiles.frame(2) == b"garbage without a receive time"


def test_silences_are_shortened_by_whole_minutes_and_no_minutes_merge():
    tiles = lay(
        ticker("2025-06-30T23:30:50Z"),
        ticker("2025-06-30T23:32:10Z"),  # 80 s: one empty minute less
        ticker("2025-07-02T12:00:30Z"),  # a day and a half
        ticker("2025-07-02T12:01:29.9Z"),  # 59.9 s stay
        ticker("2025-07-02T12:02:30Z"),  # 60.1 s, but in neighbouring minutes
    )
    assert times(tiles, 0, 5) == [
        "2025-01-01T00:00:50Z",
        "2025-01-01T00:01:10Z",
        "2025-01-01T00:02:30Z",
        "2025-01-01T00:03:29.9Z",
        "2025-01-01T00:04:30Z",
    ]
    assert tiles.period == 221 * retime.SECOND


@given(gaps=st.lists(st.integers(0, 400_000_000), min_size=1, max_size=30))
def test_minutes_of_the_recording_are_minutes_of_the_first_tile_one_to_one(gaps):
    moment = micros("2025-06-30T23:30:10.5Z")
    frames, minutes = [], []
    for gap in gaps:
        moment += gap
        text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)).strftime(
            "%Y-%m-%dT%H:%M:%S.%fZ"
        )
        frames.append(ticker(text))
        minutes.append(text[:16])
    tiles = lay(*frames)
    moved = [time[:16] for time in times(tiles, 0, len(frames))]
    assert len(set(minutes)) == len(set(moved)) == len(set(zip(minutes, moved, strict=True)))
    due = [tiles.due(7 * tiles.count + n) for n in range(len(frames) + 1)]
    assert all(b - a < 2 * retime.MINUTE for a, b in pairwise(due))


def test_the_identity_of_a_replay_has_the_times_of_its_repetitions():
    lines = recording_of([(90_500_000, 0)])
    tiles = retime.tile(lines, LATEST)
    assert tiles.repetition == {"repeat_from": "2025-01-01T00:00:10Z", "repeat_s": 91}
    assert tiles.due(0) == micros("2025-01-01T00:00:10.5Z")
    assert tiles.due(2) - tiles.due(0) == 91 * retime.SECOND


# --- the seam between two tiles ---------------------------------------------------------------

moments = st.integers(retime.ORIGIN, retime.ORIGIN + 10**15)
silences = st.one_of(st.integers(0, 3_000_000), st.integers(0, 400_000_000))
recordings = st.lists(st.tuples(silences, st.integers(-3_000_000, 3_000_000)), max_size=20)


def recording_of(steps: list[tuple[int, int]], start: int = 10_500_000) -> list[Line]:
    """Return a recording with these microseconds before each message and of each event time."""
    clock, lines = micros("2025-06-30T23:30:00Z") + start, []
    for n, (step, early) in enumerate([(0, 0), *steps]):
        clock += step
        event = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock - early)
        frame = ticker(event.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), 100 + n)
        lines.append(Line(frame, clock / 1e6))
    return lines


@given(steps=recordings, start=st.integers(0, 60_000_000), moment=moments)
def test_no_recording_has_a_pause_between_its_end_and_its_repetition(steps, start, moment):
    tiles = retime.tile(recording_of(steps, start), LATEST)
    first = tiles.first_after(moment) // tiles.count * tiles.count
    due = [tiles.due(first + n) for n in range(2 * tiles.count + 1)]
    gaps = [after - before for before, after in pairwise(due)]
    seams = gaps[tiles.count - 1 :: tiles.count]
    within = [gap for n, gap in enumerate(gaps, 1) if n % tiles.count]
    assert due == sorted(due)
    assert len(seams) == 2
    assert 0 < seams[0] == seams[1] <= max(within, default=0) + retime.SECOND
    assert tiles.period % retime.SECOND == tiles.start % retime.SECOND == 0


@given(steps=recordings, moment=moments)
def test_ids_are_consecutive_and_times_are_those_of_the_recording_across_seams(steps, moment):
    lines = recording_of(steps)
    tiles = retime.tile(lines, LATEST)
    first = tiles.first_after(moment) // tiles.count * tiles.count
    positions = range(first, first + 3 * tiles.count)
    messages = [json.loads(tiles.frame(position)) for position in positions]
    ids = [message["trade_id"] for message in messages]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    # Each message is as early or late as in the recording.
    assert [tiles.due(n) - micros(m["time"]) for n, m in zip(positions, messages, strict=True)] == [
        int((line.received or 0.0) * 1e6) - micros(json.loads(line.frame)["time"]) for line in lines
    ] * 3


@given(steps=recordings, moment=moments, later=st.integers(0, 10**9))
def test_two_processes_send_the_same_message_for_the_same_id(steps, moment, later):
    lines = recording_of(steps)
    one, other = retime.tile(lines, LATEST), retime.tile(lines, LATEST + 7 * retime.SECOND)
    from_one, from_other = one.first_after(moment), other.first_after(moment + later)
    shared = range(from_other, from_other + 50)
    assert from_one <= from_other
    assert [(one.due(n), one.frame(n)) for n in shared] == [
        (other.due(n), other.frame(n)) for n in shared
    ]


def test_a_recording_of_almost_whole_minutes_repeats_after_whole_minutes():
    """Each window of a minute then has the same trades in every tile."""
    minute = [Line(ticker(f"2025-06-30T23:30:{n:02d}Z", 100 + n), None) for n in range(1, 59)]
    assert retime.tile(minute, LATEST).period == 57_000_000 + retime.SECOND
    assert retime.tile(minute[:30] + minute[33:], LATEST).period == retime.MINUTE


BAD = [
    b"garbage",
    b"",
    b"\xff\xfe",
    ticker("2099-01-01T00:00:00Z"),
    ticker("1970-01-01T00:00:00Z"),
    ticker("2025-13-40T00:00:00Z"),
    ticker("yesterday"),
    b'{"type":"ticker","time":"2025-06-30T23:30:05Z"}',
    b'{"type":"ticker","time":"2025-06-30T23:30:05Z","trade_id":"100"}',
    b'{"type":"ticker","time":"2025-06-30T23:30:05Z","trade_id":1.5}',
    ticker("2025-06-30T23:30:05Z", trade_id=2**63 - 1),
    ticker("2025-06-30T23:30:05Z", trade_id=10**40),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_line_without_a_valid_time_and_id_is_sent_unchanged_at_its_place(bad):
    good = [ticker(f"2025-06-30T23:30:0{n}Z", 100 + n) for n in (5, 6, 7)]
    tiles = lay(good[0], bad, good[1], good[2])
    first = tiles.first_after(NOW) // 4 * 4
    assert tiles.frame(first + 1) == bad
    assert tiles.due(first) == tiles.due(first + 1)
    assert tiles.due(first + 2) - tiles.due(first) == retime.SECOND
    ids = [json.loads(tiles.frame(first + n))["trade_id"] for n in (0, 2, 3, 4)]
    assert ids == list(range(ids[0], ids[0] + 4))


def test_garbage_at_the_start_is_due_with_the_first_message():
    tiles = lay(b"garbage", ticker("2025-06-30T23:30:05Z"))
    assert tiles.due(0) == tiles.due(1) == retime.ORIGIN + 5 * retime.SECOND


def test_a_recorded_heartbeat_moves_with_the_trades():
    beat = b'{"type":"heartbeat","sequence":%d,"last_trade_id":%d,"time":"%b"}'
    tiles = lay(
        ticker("2025-06-30T23:30:05Z", 100, 5000), beat % (5000, 100, b"2025-06-30T23:30:06.5Z")
    )
    assert tiles.frame(3) == beat % (5001, 101, b"2025-01-01T00:00:08.5Z")


def test_ids_stay_in_64_bits_until_the_year_2100(tiles):
    far = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * retime.SECOND
    message = json.loads(tiles.frame(tiles.first_after(far)))
    assert message["time"].startswith("2100-01-01T00:00")
    assert message["trade_id"] < message["sequence"] < 2**63


def test_a_recording_without_any_time_cannot_be_retimed():
    with pytest.raises(recording.RecordingError) as raised:
        lay(b"garbage", b"{}")
    printed = f"RECORDING is not usable. {raised.value}"  # as `make demo` does
    assert "Replay it as recorded: RETIME=0 (--no-retime)." in printed[:100]


def test_recorded_due_times_count_from_the_first_message_with_a_time():
    lines = [
        Line(b"garbage", None),
        Line(ticker("2025-06-30T23:30:05Z"), None),
        Line(ticker("2025-06-30T23:30:04Z"), None),
        Line(ticker("2025-07-01T23:30:05.5Z"), None),
    ]
    assert [due for _, due in retime.pace(lines, LATEST)] == [0, 0, 0, 86_400_500_000]
    assert [frame for frame, _ in retime.pace(lines, LATEST)] == [line.frame for line in lines]


def test_a_recording_that_is_dated_in_the_future_is_played_at_its_own_pace():
    """So is one if the clock of this machine is behind. A single wrong time changes nothing."""
    minutes = [f"2099-01-01T00:{minute:02d}:00Z" for minute in range(10)]
    lines = [Line(ticker(time), None) for time in ("2025-12-02T00:00:00Z", *minutes)]
    count, latest = retime.survey(lines, LATEST)
    assert (count, latest > micros(minutes[-1])) == (11, True)
    due = [due for _, due in retime.pace(lines, latest)]
    assert [after - before for before, after in pairwise(due)][1:] == [retime.MINUTE] * 9
    recorded = [Line(ticker("2025-12-02T00:00:00Z"), None)] * 300
    assert retime.survey([*recorded, lines[1]], LATEST) == (301, LATEST)
    wrong = Line(ticker("9998-01-01T00:00:00Z"), None)
    assert retime.survey([*lines[1:], wrong], LATEST)[1] < micros("2099-01-09T00:00:00Z")


def test_only_digits_of_time_trade_id_and_sequence_differ(tiles, recorded):
    first = tiles.first_after(NOW) // tiles.count * tiles.count
    wild = re.compile(rb'("time":"|"trade_id":|"sequence":)[0-9T:-]+')
    for n in range(0, tiles.count, 37):
        assert wild.sub(rb"\1", tiles.frame(first + n)) == wild.sub(rb"\1", recorded[n])
