"""Reading recordings: every line is a frame, valid or not."""

import gzip
import hashlib
import json
import logging
from pathlib import Path

import pytest

from feed import recording

TICKER = b'{"type":"ticker","trade_id":7,"time":"2025-06-30T23:30:01.250000Z"}'
GARBAGE = [b"", b"not json", b"\xff\xfe\x00", b'{"type":', b"[1,2]", "käse".encode()]


def frames(path: Path) -> list[bytes]:
    return [line.frame for line in recording.read(path)]


def wire(ts: object, raw: str) -> bytes:
    return json.dumps({"ts": ts, "pair": "BTC-USD", "raw": raw}).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["r.jsonl", "r.gz"])
def test_every_line_of_a_plain_recording_is_a_frame_with_its_bytes(tmp_path, pack, name):
    path = tmp_path / name
    lines = [TICKER, *GARBAGE, TICKER]
    path.write_bytes(pack(b"\n".join(lines) + b"\n"))
    assert list(recording.read(path)) == [(line, None) for line in lines]


def test_the_last_line_needs_no_line_break_and_a_carriage_return_belongs_to_it(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"a\r\n\r\nb")
    assert frames(path) == [b"a", b"", b"b"]


def test_lines_longer_than_a_block_stay_whole(tmp_path):
    path = tmp_path / "r.jsonl"
    long = b"x" * (2 * recording.BLOCK_BYTES + 5)
    path.write_bytes(TICKER + b"\n" + long + b"\n" + TICKER + b"\n")
    assert frames(path) == [TICKER, long, TICKER]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_wire_recording_gives_frames_and_receive_times(tmp_path, pack):
    path = tmp_path / "r"
    path.write_bytes(pack(b"\n".join([wire(1762932011.6, "é\n"), wire(1762932012, "{}")])))
    expected = [("é\n".encode(), 1762932011.6), (b"{}", 1762932012.0)]
    assert list(recording.read(path)) == expected


def test_lines_of_a_wire_recording_that_are_not_wire_objects_are_frames(tmp_path):
    odd = [
        b"garbage before the first object",
        b'{"ts":"soon","raw":"x"}',
        b'{"ts":1,"raw":2}',
        b'{"raw":"x"}',
        b'{"ts":NaN,"raw":"x"}',
        rb'{"ts":1,"raw":"\ud800"}',
        b'{"ts":1,"raw":"\xff"}',
    ]
    path = tmp_path / "r"
    path.write_bytes(b"\n".join([odd[0], wire(5.0, "frame"), *odd[1:]]) + b"\n")
    lines = list(recording.read(path))
    assert lines == [(odd[0], None), (b"frame", 5.0), *((line, None) for line in odd[1:])]


def test_a_wire_object_in_a_plain_recording_is_a_frame(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(TICKER + b"\n" + wire(5.0, "frame") + b"\n")
    assert frames(path) == [TICKER, wire(5.0, "frame")]


def test_the_wire_form_keeps_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(wire(5.0, b"a\xff\x80b".decode("utf-8", "surrogateescape")))
    assert list(recording.read(path)) == [(b"a\xff\x80b", 5.0)]


def test_several_gzip_members_are_one_recording(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\nd\n") + b"\0" * 100)
    assert frames(path) == [b"a", b"bc", b"d"]


def test_an_incomplete_gzip_file_is_read_to_its_last_whole_line_with_a_warning(tmp_path, caplog):
    lines = [hashlib.sha256(bytes([n])).hexdigest().encode() for n in range(200)]
    packed = gzip.compress(b"\n".join(lines) + b"\n")
    path = tmp_path / "r"
    path.write_bytes(packed[: len(packed) // 2])
    with caplog.at_level(logging.WARNING, "feed"):
        found = frames(path)
    assert 50 < len(found) < 150
    assert found == lines[: len(found)]
    assert "is incomplete" in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "Cannot read .*: No such file"),
        (b"", "has no message"),
        (gzip.compress(b"", mtime=0), "has no message"),
        (gzip.compress(b"a\n" * 1000, mtime=0)[:12], "has no message"),
        (b"\x1f\x8bnonsense that is not gzip", "broken gzip"),
        (gzip.compress(b"a\n", mtime=0) + b"trailing", "broken gzip"),
        (gzip.compress(b"a\n", mtime=0)[:-8] + b"12345678", "broken gzip"),
    ],
)
def test_only_an_unreadable_file_is_an_error_in_one_sentence(tmp_path, content, problem):
    path = tmp_path / "r"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(recording.RecordingError, match=problem) as error:
        frames(path)
    assert str(path) in str(error.value)


def test_a_folder_is_not_a_recording(tmp_path):
    with pytest.raises(recording.RecordingError, match="it is not a file"):
        frames(tmp_path)
    with pytest.raises(recording.RecordingError, match="it is not a file"):
        recording.identity(tmp_path, None)


def test_the_identity_depends_on_file_name_content_and_mode(tmp_path):
    path = tmp_path / "synthetic_x.jsonl"
    path.write_bytes(b"content")
    as_recorded = {
        "kind": "replay",
        "recording": "synthetic_x.jsonl",
        "fingerprint": hashlib.sha256(b"content").hexdigest()[:16],
        "retimed": False,
    }
    assert recording.identity(path, None) == as_recorded
    repetition = {"repeat_from": "2025-01-01T00:00:10Z", "repeat_s": 31}
    retimed = as_recorded | {"retimed": True} | repetition
    assert recording.identity(path, repetition) == retimed
    assert recording.is_synthetic(path)
    assert not recording.is_synthetic(tmp_path / "coinbase_synthetic.gz")


def test_a_complete_recording_is_recognised(tmp_path):
    path = tmp_path / "r"
    for content, whole in [
        (b"a\nb\n", True),
        (b"a\nb", False),
        (gzip.compress(b"a\n", mtime=0), True),
        (gzip.compress(b"a\n", mtime=0)[:-3], False),
    ]:
        path.write_bytes(content)
        assert recording.is_whole(path) is whole


# --- a recording without a usable trade -----------------------------------------------------

USABLE = (
    b'{"type":"ticker","product_id":"%s","trade_id":7,"price":"86321.55","side":"buy",'
    b'"time":"2025-12-02T04:59:59.000001Z","last_size":"0.25"}'
)
BTC, ETH = USABLE % b"BTC-USD", USABLE % b"ETH-USD"
HEARTBEAT = b'{"type":"heartbeat","product_id":"BTC-USD"}'


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_recording_with_one_trade_among_other_lines_is_usable(tmp_path, pack):
    path = tmp_path / "r"
    path.write_bytes(pack(b"\n".join([*GARBAGE, HEARTBEAT, ETH, BTC])))
    recording.check_usable(path, "BTC-USD")
    recording.check_usable(path, "ETH-USD")


@pytest.mark.parametrize(
    ("lines", "found", "advice"),
    [
        ([ETH] * 5 + [HEARTBEAT], "ticker of ETH-USD (5), heartbeat (1)", "Set PRODUCT_ID=ETH-USD"),
        ([wire(1.0, ETH.decode())], "ticker of ETH-USD (1)", "Set PRODUCT_ID=ETH-USD"),
        ([b"# Title", b"", b"Text."], "lines of text (3)", "Choose a recording of the exchange"),
        ([b'{"p":"1","q":"2"}'] * 2, "JSON without a type (2)", "Choose a recording"),
        ([BTC.replace(b"price", b"p")], "ticker with price: missing (1)", "Choose a recording"),
        ([ETH.replace(b"ETH-USD", b"$(x) y")], "ticker of $(x) y (1)", "Choose a recording"),
        (
            [b'{"type":"a"}', b'{"type":"b"}', b'{"type":"c"}', b'{"type":"d"}'],
            "a (1), b (1), c (1), …",
            "Choose a recording",
        ),
    ],
)
def test_a_recording_without_a_usable_trade_is_refused_with_what_it_has(
    tmp_path, lines, found, advice
):
    path = tmp_path / "r"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(recording.RecordingError) as refusal:
        recording.check_usable(path, "BTC-USD")
    said = str(refusal.value)
    assert said.startswith(f"The recording has no usable trade of BTC-USD. {advice}")
    assert f". This recording has only {found}: " in said
    assert said.endswith(str(path))


def test_a_recording_that_is_cut_off_before_its_first_trade_is_refused(tmp_path):
    path = tmp_path / "r.gz"
    path.write_bytes(gzip.compress(b"\n".join([BTC] * 9))[:30])
    with pytest.raises(recording.RecordingError, match=r"r\.gz has no message\. Choose"):
        recording.check_usable(path, "BTC-USD")
