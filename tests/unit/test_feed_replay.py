"""The command line of the replay: an error is one sentence and status 2."""

import argparse
import socket

import pytest

from feed import replay
from feed.arguments import parse_seconds


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["r", "--speed", "10"], "--speed needs --no-retime"),
        (
            ["r", "--retime", "--speed", "max"],
            "--speed needs --no-retime: a re-timed replay runs in real time",
        ),
        (["r", "--speed", "fast"], "'fast' is not valid: choose max, or a number above 0"),
        (["r", "--speed", "0"], "'0' is not valid: choose max, or a number above 0"),
        (["r", "--speed", "nan"], "'nan' is not valid: choose max, or a number above 0"),
        (["r", "--backlog", "-1"], "'-1' is not a number of seconds"),
        (["r", "--port", "99999"], "'99999' is not valid: choose a port from 1 to 65535"),
        (["r", "--other"], "unrecognized arguments: --other. See --help"),
        ([], "required: recording"),
    ],
)
def test_a_bad_argument_is_refused(capsys, arguments, problem):
    with pytest.raises(SystemExit) as end:
        replay.parse_arguments(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_the_default_is_a_re_timed_replay_at_the_recorded_speed():
    options = replay.parse_arguments(["r"])
    assert (options.retime, options.speed, options.backlog, options.hold) == (True, 1, 1800, False)
    assert (options.host, options.port, options.product) == ("127.0.0.1", 8765, "BTC-USD")


def test_without_re_timing_the_replay_may_be_faster():
    assert replay.parse_arguments(["r", "--no-retime", "--speed", "max"]).speed is None
    assert replay.parse_arguments(["r", "--no-retime", "--speed", "2.5"]).speed == 2.5


def test_the_backlog_has_a_limit():
    with pytest.raises(argparse.ArgumentTypeError):
        parse_seconds("1e9")


def test_a_port_in_use_is_reported(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(SystemExit) as end:
            replay.main([str(tmp_path / "r"), "--port", str(port)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"port {port} on 127.0.0.1" in error
    assert error.count("\n") == 1
