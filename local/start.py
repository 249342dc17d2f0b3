"""Start the whole stack on this machine: `python -m local.start demo` (replay) or `run` (live).

`make demo` and `make run` call it with their variables. It checks all of them first. If one
is wrong, it prints one sentence and ends. Otherwise this process becomes the supervisor of all
others (`exec`).
"""

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

from feed import recording, replay
from feed.retime import check as check_retimable
from local import programs, stack
from pipeline import processes
from pipeline.outputs import DataDir, OutputError
from pipeline.settings import Settings, load
from pipeline.source import check_window, claim

#: Seconds between the starts of two batch runs in the demo, unless the user sets it.
DEMO_BATCH_SECONDS = 60


class Port(NamedTuple):
    """A port that the stack needs.

    Attributes:
        variable: the variable of `make` that sets it.
        service: the service that listens on it.
        number: the port number.
    """

    variable: str
    service: str
    number: int


def supervisor_path(variable: str, path: Path) -> Path:
    """Return the absolute path; refuse one that supervisor's configuration cannot contain."""
    if any(bad in str(path.absolute()) for bad in ("%", " ;", " #", "\n")):
        stack.refuse(
            f"{variable}={path} is not usable: choose a path without %, ' ;', ' #' and line breaks"
        )
    return path.absolute()


def parse_port(variable: str, service: str, text: str) -> Port:
    """Return the port with this number; refuse what is not a number from 1024 to 65535."""
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        stack.refuse(f"{variable}={text} is not a port: choose a number from 1024 to 65535")
    return Port(variable, service, int(text))


def check_replay(path: Path, retime: str, speed: str, backlog: str) -> None:
    """Refuse a replay that cannot start: a wrong option, or a recording that cannot be read."""
    if retime not in ("0", "1"):
        stack.refuse(
            f"RETIME={retime} is not valid: RETIME must be 1 (times shifted to the present) "
            "or 0 (as recorded)"
        )
    try:
        recorded_speed = replay.parse_speed(speed) == 1
    except argparse.ArgumentTypeError:
        stack.refuse(f"SPEED={speed} is not valid: SPEED must be a number above 0, or max")
    try:
        replay.parse_seconds(backlog)
    except argparse.ArgumentTypeError:
        stack.refuse(f"BACKLOG={backlog} is not valid: BACKLOG must be seconds, from 0 to 864000")
    if retime == "1" and not recorded_speed:
        stack.refuse(f"SPEED={speed} needs RETIME=0: a re-timed replay runs in real time")
    try:
        next(recording.read(path))
        if retime == "1":
            check_retimable(recording.read(path), replay.latest_event_time())
    except recording.RecordingError as error:
        stack.refuse(f"RECORDING is not usable. {error}")


def check_ports(ports: list[Port]) -> None:
    """Refuse ports that are used twice or that another process uses."""
    for place, port in enumerate(ports):
        for other in ports[:place]:
            if other.number == port.number:
                stack.refuse(
                    f"{other.variable} and {port.variable} are both {port.number}: "
                    "choose different ports"
                )
        if not is_free(port.number):
            stack.refuse(
                f"Port {port.number} ({port.service}) is in use by {holder(port.number)}: "
                f"stop it, or choose another port with {port.variable}="
            )


def is_free(port: int) -> bool:
    """Return whether a process can listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        # Without this, closed connections of the previous run count as use (TIME_WAIT).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Return the name and pid of the process that listens on a port, if this user may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and tuple(connection.laddr)[1:2] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "another process"


def environment(
    data: DataDir, kafka: Port, feed: programs.Feed | None, *, batch_interval: str | None
) -> dict[str, str]:
    """Return the variables that every process of the stack gets beside the inherited ones."""
    variables = {
        "DATA_DIR": str(data.root),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.number}",
        "PYTHONUNBUFFERED": "1",
    }
    if feed:
        variables["FEED_URL"] = f"ws://127.0.0.1:{feed.port}"
        variables["BATCH_INTERVAL_SECONDS"] = batch_interval or str(DEMO_BATCH_SECONDS)
    return variables


def end_leftovers(data: DataDir) -> None:
    """End the processes of an earlier stack on this folder whose supervisor was killed."""
    if leftovers := stack.leftovers(data.root):
        print(f"Stopping {len(leftovers)} processes of an earlier stack that was killed")
        processes.end(leftovers, wait_seconds=5)


def prepare(data: DataDir, settings: Settings, feed: dict[str, object], configuration: str) -> None:
    """Create the folders and write supervisor's configuration; refuse a folder with other data."""
    try:
        claim(data, settings, feed)
        check_window(data, settings.window)
        for folder in (stack.logs(data.root), stack.run_folder(data.root)):
            folder.mkdir(parents=True, exist_ok=True)
        stack.run_folder(data.root).chmod(0o700)
        stack.socket_path(data.root).unlink(missing_ok=True)  # a killed supervisor leaves it
        stack.configuration(data.root).write_text(configuration, encoding="utf-8")
    except OutputError as error:
        stack.refuse(str(error))
    except OSError as error:
        stack.refuse(f"Cannot write to DATA_DIR={data.root}: {error.strerror or error}")


def main() -> None:
    """Check everything, then become the supervisor."""
    arguments = _arguments()
    settings = load()
    data = DataDir(supervisor_path("DATA_DIR", arguments.data_dir))
    kafka = parse_port("KAFKA_PORT", "Kafka", arguments.kafka_port)
    controller = parse_port("CONTROLLER_PORT", "the Kafka controller", arguments.controller_port)
    page = parse_port("DASHBOARD_PORT", "the page", arguments.dashboard_port)
    ports = [kafka, controller, page]
    feed: programs.Feed | None = None
    source: dict[str, object] = {"kind": "live", "url": settings.feed_url}
    what = f"LIVE from {settings.feed_url}"
    if arguments.what == "demo":
        port = parse_port("FEED_PORT", "the replay", arguments.feed_port)
        ports.append(port)
        path = supervisor_path("RECORDING", arguments.recording)
        check_replay(path, arguments.retime, arguments.speed, arguments.backlog)
        retimed = arguments.retime == "1"
        source = recording.identity(path, retimed=retimed)
        feed = programs.Feed(path, retimed, arguments.speed, arguments.backlog, port.number)
        what = describe(feed)
    if stack.is_running(data.root):
        stack.refuse(
            f"A stack already runs on DATA_DIR={data.root}: stop it, or choose another DATA_DIR"
        )
    end_leftovers(data)
    check_ports(ports)
    configuration = programs.configuration(
        data,
        kafka_port=kafka.number,
        controller_port=controller.number,
        dashboard_port=page.number,
        feed=feed,
        product=settings.product_id,
    )
    prepare(data, settings, source, configuration)
    print(what)
    print(f"Outputs: {data.root}. Logs: {stack.logs(data.root)}. Ctrl-C stops everything.")
    sys.stdout.flush()
    interval = os.environ.get("BATCH_INTERVAL_SECONDS")
    variables = environment(data, kafka, feed, batch_interval=interval)
    os.chdir(stack.ROOT)
    command = [sys.executable, "-m", "local.supervise"]
    os.execve(sys.executable, command, os.environ | variables)  # noqa: S606 - it becomes the supervisor


def describe(feed: programs.Feed) -> str:
    """Return one line about what is replayed and how."""
    kind = "SYNTHETIC, " if recording.is_synthetic(feed.recording) else ""
    how = "re-timed to the present" if feed.retimed else f"as recorded, speed {feed.speed}"
    return f"REPLAY of {feed.recording.name} ({kind}{how})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.start", description=__doc__)
    parser.add_argument("what", choices=("demo", "run"), help="replay, or live from the exchange")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of all outputs")
    parser.add_argument("--recording", type=Path, help="demo: recording to replay")
    parser.add_argument("--retime", default="1", help="demo: 1 or 0 (default 1)")
    parser.add_argument("--speed", default="1", help="demo: 1, N or max (default 1)")
    parser.add_argument(
        "--backlog", default="1800", help="demo: seconds of trades that arrive at once (1800)"
    )
    parser.add_argument("--kafka-port", default="9092", help="port of the broker (9092)")
    parser.add_argument(
        "--controller-port", default="9093", help="port of the broker's controller (9093)"
    )
    parser.add_argument("--feed-port", default="8765", help="demo: port of the replay (8765)")
    parser.add_argument("--dashboard-port", default="8501", help="port of the page (8501)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
