"""Starts the whole stack on this machine: `python -m local.up demo` (a replay) or `run` (live).

`make demo` and `make run` call it with their variables. All is checked first, a user's mistake
gets one sentence; then this process becomes the supervisor of all others (`exec`).
"""

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

from feed import recording, replay
from feed import retime as retiming
from local import programs, stack
from pipeline.outputs import DataDir, OutputError, claim_source
from pipeline.settings import load

#: Seconds between the starts of two batch runs in the demo, unless the user has set it.
DEMO_BATCH_SECONDS = 60


class Port(NamedTuple):
    """A port that the stack needs: make's variable, who listens there, the number."""

    variable: str
    service: str
    number: int


def plain_path(variable: str, path: Path) -> Path:
    """The path, absolute; refused where supervisor's configuration cannot hold it."""
    if any(bad in str(path.absolute()) for bad in ("%", " ;", " #", "\n")):
        stack.refuse(
            f"{variable}={path} will not do: choose a path without %, ' ;', ' #' and line ends"
        )
    return path.absolute()


def port_of(variable: str, service: str, text: str) -> Port:
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        stack.refuse(f"{variable}={text} is no port: give a number from 1024 to 65535")
    return Port(variable, service, int(text))


def check_replay(path: Path, retime: str, speed: str, backlog: str) -> None:
    if retime not in ("0", "1"):
        stack.refuse(f"RETIME={retime} is neither 1 (re-timed to now) nor 0 (as recorded)")
    try:
        as_recorded = replay.parse_speed(speed) == 1
    except argparse.ArgumentTypeError:
        stack.refuse(f"SPEED={speed} is no speed: give 1, another number above 0, or max")
    try:
        replay.parse_seconds(backlog)
    except argparse.ArgumentTypeError:
        stack.refuse(f"BACKLOG={backlog} is no number of seconds from 0 to ten days")
    if retime == "1" and not as_recorded:
        stack.refuse(
            f"SPEED={speed} goes with RETIME=0 only: a re-timed replay keeps the pace of the clock"
        )
    try:
        next(recording.read(path))
        if retime == "1":
            retiming.check(recording.read(path), replay.latest_event_time())
    except recording.RecordingError as error:
        stack.refuse(f"RECORDING={path} will not do: {error}")


def check_ports(ports: list[Port]) -> None:
    for place, port in enumerate(ports):
        for other in ports[:place]:
            if other.number == port.number:
                stack.refuse(
                    f"{other.variable} and {port.variable} are both {port.number}: "
                    "give each a port of its own"
                )
        if not is_free(port.number):
            stack.refuse(
                f"port {port.number}, which {port.service} needs, is taken by "
                f"{holder(port.number)}: end that, or choose another port with {port.variable}="
            )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Without this, connections of a run just ended would count (TIME_WAIT).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
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
    """What every process of the stack gets beside what it inherits."""
    own = {
        "DATA_DIR": str(data.root),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.number}",
        "PYTHONUNBUFFERED": "1",
    }
    if feed:
        own["FEED_URL"] = f"ws://127.0.0.1:{feed.port}"
        own["BATCH_INTERVAL_SECONDS"] = batch_interval or str(DEMO_BATCH_SECONDS)
    return own


def end_left_over(data: DataDir) -> None:
    """Ends what a stack on this folder left behind when its supervisor was killed."""
    if rest := stack.left_over(data.root):
        print(f"ending {len(rest)} processes that a killed stack has left behind")
        stack.end(rest, wait_seconds=5)


def prepare(data: DataDir, source: dict[str, object], configuration: str) -> None:
    """Makes the folder ready; it is refused when another feed has filled it."""
    try:
        claim_source(data, source)
        for folder in (stack.logs(data.root), stack.run_folder(data.root)):
            folder.mkdir(parents=True, exist_ok=True)
        stack.run_folder(data.root).chmod(0o700)
        stack.socket_path(data.root).unlink(missing_ok=True)  # of a killed one: nobody answers
        stack.configuration(data.root).write_text(configuration, encoding="utf-8")
    except OutputError as error:
        stack.refuse(str(error))
    except OSError as error:
        stack.refuse(f"DATA_DIR={data.root} cannot be written: {error.strerror or error}")


def main() -> None:
    arguments = _arguments()
    settings = load()
    data = DataDir(plain_path("DATA_DIR", arguments.data_dir))
    kafka = port_of("KAFKA_PORT", "the Kafka broker", arguments.kafka_port)
    controller = port_of("CONTROLLER_PORT", "the broker's node", arguments.controller_port)
    page = port_of("DASHBOARD_PORT", "the page", arguments.dashboard_port)
    ports = [kafka, controller, page]
    feed: programs.Feed | None = None
    source: dict[str, object] = {"kind": "live", "url": settings.feed_url}
    what = f"LIVE from {settings.feed_url}"
    if arguments.what == "demo":
        port = port_of("FEED_PORT", "the replay", arguments.feed_port)
        ports.append(port)
        path = plain_path("RECORDING", arguments.recording)
        check_replay(path, arguments.retime, arguments.speed, arguments.backlog)
        retimed = arguments.retime == "1"
        source = recording.identity(path, retimed=retimed)
        feed = programs.Feed(path, retimed, arguments.speed, arguments.backlog, port.number)
        what = in_words(feed)
    if stack.is_running(data.root):
        stack.refuse(
            f"a stack runs already on DATA_DIR={data.root}: stop it, or choose another DATA_DIR"
        )
    end_left_over(data)
    check_ports(ports)
    configuration = programs.configuration(
        data,
        kafka_port=kafka.number,
        controller_port=controller.number,
        dashboard_port=page.number,
        feed=feed,
        product=settings.product_id,
    )
    prepare(data, source, configuration)
    print(f"{what}\noutputs in {data.root}, logs in {stack.logs(data.root)}; Ctrl-C ends all")
    sys.stdout.flush()
    interval = os.environ.get("BATCH_INTERVAL_SECONDS")
    own = environment(data, kafka, feed, batch_interval=interval)
    os.chdir(stack.ROOT)
    command = [sys.executable, "-m", "local.supervise"]
    os.execve(sys.executable, command, os.environ | own)  # noqa: S606 - it becomes the supervisor


def in_words(feed: programs.Feed) -> str:
    kind = "SYNTHETIC, " if recording.is_synthetic(feed.recording) else ""
    how = "re-timed to now" if feed.retimed else f"as recorded, speed {feed.speed}"
    return f"REPLAY of {feed.recording.name} ({kind}{how})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.up", description=__doc__)
    parser.add_argument("what", choices=("demo", "run"), help="a replay, or the live exchange")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of all outputs")
    parser.add_argument("--recording", type=Path, help="demo: what to replay")
    parser.add_argument("--retime", default="1", help="demo: 1 or 0")
    parser.add_argument("--speed", default="1", help="demo: 1, N or max")
    parser.add_argument("--backlog", default="1800", help="demo: seconds that come at once")
    for name, port in (("kafka", 9092), ("controller", 9093), ("feed", 8765), ("dashboard", 8501)):
        parser.add_argument(f"--{name}-port", default=str(port))
    return parser.parse_args()


if __name__ == "__main__":
    main()
