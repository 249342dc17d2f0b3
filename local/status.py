"""Show the state of each process of a running stack: `python -m local.status --data-dir DIR`."""

import argparse
import configparser
import socket
import xmlrpc.client
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from supervisor.childutils import getRPCInterface
from supervisor.states import ProcessStates

from local import stack
from local.terminal import refuse, say, write_through
from local.variables import absolute_path
from pipeline.health import full_disk

#: Seconds to wait for an answer of the supervisor.
ANSWER_SECONDS = 10.0
#: What supervisor reports about a program that started and ended. Otherwise it did not start.
_ENDED = ("Exited too quickly", "Bad exit code")


def main() -> None:
    """Print what supervisor reports."""
    parser = argparse.ArgumentParser(prog="python -m local.status", description=__doc__)
    parser.add_argument("--data-dir", required=True, help="data directory")
    data_dir = absolute_path("DATA_DIR", parser.parse_args().data_dir)
    write_through()  # `make status | head` closes the pipe
    if not stack.is_running(data_dir):
        if left := stack.leftovers(data_dir):
            pids = " ".join(str(process.pid) for process in left)
            refuse(
                "The supervisor was killed. Some of its processes still run. The next "
                f"`make demo` or `make run` ends them. Their pids: {pids}. DATA_DIR={data_dir}"
            )
        refuse(
            "No stack runs on DATA_DIR: start one with `make demo` or `make run`. "
            f"DATA_DIR={data_dir}"
        )
    say(f"DATA_DIR={data_dir} ({stack.holder(data_dir)})")
    if full := full_disk(data_dir):
        say(full)
    for process in processes(data_dir):
        say(row(process))


def processes(data_dir: Path) -> list[dict[str, Any]]:
    """Return what supervisor reports about each process, or exit with one sentence."""
    configuration = configparser.RawConfigParser()
    configuration.read(stack.configuration(data_dir), encoding="utf-8")
    socket.setdefaulttimeout(ANSWER_SECONDS)
    try:
        address = configuration["supervisorctl"]["serverurl"].replace("%%", "%")
        server = getRPCInterface({"SUPERVISOR_SERVER_URL": address}).supervisor
        found: list[dict[str, Any]] = server.getAllProcessInfo()
    except (KeyError, OSError, HTTPException, xmlrpc.client.Error) as error:
        refuse(
            "The supervisor does not answer. It may be starting or stopping: try again in a few "
            f"seconds ({type(error).__name__}: {error})"
        )
    return found


def row(process: Mapping[str, Any]) -> str:
    """Return a line with the name, the state and the times of a process."""
    match process["state"]:
        case ProcessStates.RUNNING:
            text = f"pid {process['pid']}, since {_time(process['start'])}"
        case ProcessStates.BACKOFF | ProcessStates.FATAL:
            text = process["spawnerr"]
            if not text or text.startswith(_ENDED):
                text = f"fails after its start. Read {process['logfile']}"
        case ProcessStates.EXITED | ProcessStates.STOPPED if process["start"]:
            text = f"ended {_time(process['stop'])}, exit status {process['exitstatus']}"
        case _:
            text = ""
    return f"{process['name']:<18}{process['statename']:<10}{text}".rstrip()


def _time(epoch_seconds: int) -> str:
    return f"{datetime.fromtimestamp(epoch_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


if __name__ == "__main__":
    main()
