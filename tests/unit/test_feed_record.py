"""The files of the recorder: their content survives however the recorder ends."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from feed import record, recording
from tests.conftest import ROOT

FRAMES = [b'{"type":"ticker"}', b"not json", "é\n".encode(), b"\xff\x00", b""]


def write(
    path: Path, frames: list[bytes], *, append: bool = False, flush: bool = False
) -> record.Writer:
    writer = record.open_writer(path, append=append)
    for frame in frames:
        writer.write(record.wire_line(frame, 1762932011.25, "BTC-USD"))
    if flush:
        writer._flushed = 0.0  # as if it were long ago
        writer.flush()
    return writer


def read(path: Path) -> list[recording.Line]:
    return list(recording.read(path))


LINES = [recording.Line(frame, 1762932011.25) for frame in FRAMES]


@pytest.mark.parametrize("name", ["r.ndjson", "r.ndjson.gz"])
def test_a_recording_is_read_back_byte_for_byte(tmp_path, name):
    path = tmp_path / name
    write(path, FRAMES).close()
    assert read(path) == LINES
    assert recording.is_gzip(path) is name.endswith(".gz")


def test_a_line_is_an_object_of_receive_time_pair_and_raw_text():
    line = record.wire_line(b'{"a":"b"}', 1.5, "BTC-USD")
    assert json.loads(line) == {"ts": 1.5, "pair": "BTC-USD", "raw": '{"a":"b"}'}


@pytest.mark.parametrize("name", ["r.ndjson", "r.ndjson.gz"])
def test_flushed_lines_can_be_read_without_the_end_of_the_file(tmp_path, name):
    path = tmp_path / name
    writer = write(path, FRAMES, flush=True)
    assert read(path) == LINES
    writer.close()


@pytest.mark.parametrize("name", ["r.ndjson", "r.ndjson.gz"])
def test_appending_continues_after_the_last_whole_line(tmp_path, name):
    path = tmp_path / name
    write(path, FRAMES * 20, flush=True)
    cut = path.read_bytes()
    path.write_bytes(cut[:-7])
    before = [line for line in read(path) if line.received is not None]
    assert len(FRAMES) * 20 - 5 <= len(before) < len(FRAMES) * 20
    write(path, FRAMES, append=True).close()
    assert read(path) == [*before, *LINES]
    write(path, FRAMES, append=True).close()
    assert read(path) == [*before, *LINES, *LINES]
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_existing_file_is_not_changed_without_append(tmp_path):
    path = tmp_path / "r"
    write(path, FRAMES).close()
    content = path.read_bytes()
    with pytest.raises(recording.RecordingError, match=r"already exists: .*--append"):
        record.open_writer(path, append=False)
    assert path.read_bytes() == content


def test_another_kind_of_file_is_not_appended_to(tmp_path):
    path = tmp_path / "r.gz"
    path.write_bytes(gzip.compress(b'{"type":"ticker"}\n'))
    with pytest.raises(recording.RecordingError, match="Cannot append to"):
        record.open_writer(path, append=True)
    with pytest.raises(recording.RecordingError, match="not a file"):
        record.open_writer(tmp_path, append=True)


def test_an_empty_file_is_a_new_one(tmp_path):
    path = tmp_path / "r.gz"
    path.touch()
    write(path, FRAMES).close()
    assert read(path) == LINES


def test_a_missing_folder_is_reported_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        record.main([str(tmp_path / "no" / "r.gz"), "--seconds", "0"])
    assert end.value.code == 2
    assert ": No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "nonsense", "http://h", "ws://h:port", "ws://", "ws://u:p@h"])
def test_an_invalid_address_is_refused_before_the_file_is_made(tmp_path, capsys, url):
    with pytest.raises(SystemExit) as end:
        record.main([str(tmp_path / "r"), "--url", url])
    assert end.value.code == 2
    assert "argument --url: must " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_connection_that_fails_is_reported_with_the_options_of_the_recorder(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    made = tmp_path / "made.jsonl"
    url = f"ws://127.0.0.1:{port}"
    command = [sys.executable, "-m", "feed.record", str(made), "--url", url, "--seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    todo = "Nothing was recorded: Connection refused. Check --url, and that its server runs. "
    assert done.stderr == f"{todo}Cannot connect to {url}\n"
    assert "FEED_URL" not in done.stderr + done.stdout
    assert not made.exists()


def reason_for_nothing(play: Callable[[ServerConnection], None], path: Path, capsys: Any) -> str:
    """Return the error text of a recorder whose server runs `play`. SERVER replaces its address."""
    with serve(play, "127.0.0.1", 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(SystemExit) as end:
            record.main([str(path), "--url", url, "--product", "FOO-USD", "--seconds", "0.4"])
        server.shutdown()
    assert end.value.code == 1
    assert not path.exists()
    return str(capsys.readouterr().err).replace(url, "SERVER")


CHECK = "Nothing was recorded: check --url and --product. Cause:"


def test_a_refused_product_is_reported_with_what_to_check(tmp_path, capsys):
    refusal = '{"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not valid"}'
    text = f"{CHECK} the server sent an error: {refusal}\n"

    def refuse(server: ServerConnection) -> None:
        server.recv()
        server.send(refusal)

    def refuse_and_stay(server: ServerConnection) -> None:
        refuse(server)
        server.recv()  # until the recorder ends

    assert reason_for_nothing(refuse, tmp_path / "r", capsys) == text
    assert reason_for_nothing(refuse_and_stay, tmp_path / "r", capsys) == text


def test_a_server_that_sends_nothing_is_reported_with_what_to_check(tmp_path, capsys):
    def close(server: ServerConnection) -> None:
        server.close(1008, "no.")

    def stay(server: ServerConnection) -> None:
        server.recv()
        server.recv()  # until the recorder ends

    text = f"{CHECK} the server closed the connection. Code 1008 no. Feed: SERVER\n"
    assert reason_for_nothing(close, tmp_path / "r", capsys) == text
    text = f"{CHECK} SERVER sent no message of FOO-USD\n"
    assert reason_for_nothing(stay, tmp_path / "r", capsys) == text


def test_subscription_answers_and_heartbeats_are_not_recorded():
    assert record.kind_of(b'{"type":"heartbeat"}') in record.CONTROL
    assert record.kind_of(b'{"type":"subscriptions","channels":[]}') in record.CONTROL
    for frame in (b'{"type":"ticker"}', b'{"type":"error"}', b'{"type":[]}', b"[]", b"\xff", b"{"):
        assert record.kind_of(frame) not in record.CONTROL


@pytest.mark.parametrize("seconds", ["-5", "nan", "soon"])
def test_a_length_that_is_no_number_of_seconds_is_refused(tmp_path, seconds, capsys):
    with pytest.raises(SystemExit) as end:
        record.main([str(tmp_path / "r"), "--seconds", seconds])
    assert end.value.code == 2
    assert "is not a number of seconds" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_signal_in_the_middle_of_a_wait_for_the_stop_does_not_hang():
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    stop = Event()
    record.stop_at_signals(stop)
    try:
        with vars(stop)["_cond"]:  # the main thread holds it in parts of `stop.wait`
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
