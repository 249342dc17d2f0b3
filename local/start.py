"""Start the whole stack on this machine: `python -m local.start demo` (replay) or `run` (live).

`make demo` and `make run` call it with their variables. It checks all of them first. If one
is wrong, it prints one sentence and ends. Otherwise this process becomes the supervisor of all
others (`exec`).
"""

import os
import signal
import socket
import sys
from pathlib import Path

# Ctrl-C before the supervisor runs prints no traceback: the imports alone take a second.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import psutil

from feed import recording, replay, retime
from local import programs, stack, terminal
from local.variables import OWN_BROKER, Port, Replay, Variables, is_free, read, refuse_busy
from pipeline import processes
from pipeline.data_dir import DataDir
from pipeline.environment import inherited
from pipeline.errors import OutputError
from pipeline.settings import NAMES, Settings, load
from pipeline.source import check_window, claim

#: Seconds between the starts of two batch runs in the demo, unless the user sets it.
DEMO_BATCH_SECONDS = 60
#: Seconds to wait for each of the user's brokers.
CONNECT_SECONDS = 2.0


def check_recording(feed: Replay, product: str) -> None:
    """Refuse a recording that cannot be read or replayed, or has no trade of the product."""
    try:
        recording.check_usable(feed.recording, product)
        if feed.retimed:
            retime.check(recording.read(feed.recording), replay.latest_event_time())
    except recording.RecordingError as error:
        terminal.refuse(f"RECORDING is not usable. {error}")


def check_ports(ports: list[Port]) -> None:
    """Refuse ports that another process uses."""
    for port in ports:
        if not is_free(port.number):
            refuse_busy(port, holder(port.number))


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


def environment(variables: Variables, settings: Settings) -> dict[str, str]:
    """Return the variables that every process of the stack gets beside the inherited ones."""
    servers = settings.kafka_bootstrap_servers
    if variables.broker:
        servers = f"127.0.0.1:{variables.broker.port.number}"
    given = {
        "DATA_DIR": str(variables.data_dir),
        OWN_BROKER: servers,
        "PYTHONUNBUFFERED": "1",
    }
    if variables.replay:
        given["FEED_URL"] = f"ws://127.0.0.1:{variables.replay.port.number}"
        given["FEED_REST_URL"] = f"http://127.0.0.1:{variables.replay.port.number}"
        if "batch_interval_seconds" not in settings.model_fields_set:
            given["BATCH_INTERVAL_SECONDS"] = str(DEMO_BATCH_SECONDS)
    return given


def broker_answers(servers: str) -> bool:
    """Return whether one of the brokers, `host:port,host:port`, accepts a connection."""
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            address = host.strip("[]"), int(port)  # an IPv6 address is in brackets
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError):
            continue
        return True
    return False


def end_leftovers(data: DataDir) -> None:
    """End the processes of an earlier stack on this directory whose supervisor was killed."""
    if leftovers := stack.leftovers(data.root):
        terminal.say(
            "Stopping the processes of an earlier stack that was killed. Processes: "
            f"{len(leftovers)}"
        )
        processes.end(leftovers, wait_seconds=5)


def prepare(
    variables: Variables, settings: Settings, feed: dict[str, object], socket_path: Path
) -> None:
    """Create the directories and write supervisor's configuration; refuse other data."""
    data = DataDir(variables.data_dir)
    others = [data.logs, data.broker]
    if not (data.report / "report.md").exists():  # `make report` can precede the first start
        others.append(data.report)
    if not stack.has_run_on(data.root) and (found := next(filter(Path.exists, others), None)):
        terminal.refuse(
            f"DATA_DIR has {found.name} and no source.json, so another program may have filled it. "
            f"Set DATA_DIR to another directory. DATA_DIR={data.root}"
        )
    try:
        claim(data, settings, feed)
        check_window(data, settings.window)
        for folder in (stack.logs(data.root), stack.run_folder(data.root)):
            folder.mkdir(parents=True, exist_ok=True)
        stack.run_folder(data.root).chmod(0o700)
        socket_path.unlink(missing_ok=True)  # a killed supervisor leaves it
        configuration = programs.configuration(variables, socket_path, settings.product_id)
        stack.configuration(data.root).write_text(configuration, encoding="utf-8")
    except OutputError as error:
        terminal.refuse(str(error))
    except OSError as error:
        terminal.refuse(
            f"Cannot write to DATA_DIR={data.root}: {error.strerror or error}. Correct this, or "
            "set DATA_DIR to another directory."
        )


def main() -> None:
    """Check everything, then become the supervisor."""
    variables = read("python -m local.start")
    terminal.write_through()
    settings = load()
    data = DataDir(variables.data_dir)
    if variables.replay:
        check_recording(variables.replay, settings.product_id)
    stack.lock(data.root, f"make {'demo' if variables.replay else 'run'}")
    end_leftovers(data)
    check_ports(variables.ports)
    socket_path = stack.socket_path(data.root)
    prepare(variables, settings, source_of(variables, settings), socket_path)
    lines = introduction(variables, settings)
    signal.pthread_sigmask(signal.SIG_BLOCK, stack.STOP_SIGNALS)
    for line in lines:
        terminal.say(line)
    os.chdir(stack.ROOT)
    command = [sys.executable, "-m", stack.SUPERVISE]
    given = environment(variables, settings)
    os.execve(sys.executable, command, inherited(*NAMES) | given)  # noqa: S606 - it becomes the supervisor


def source_of(variables: Variables, settings: Settings) -> dict[str, object]:
    """Return the identity of the feed, as in `source.json`."""
    if feed := variables.replay:
        repetition = replay.read_tiles(feed.recording).repetition if feed.retimed else None
        return recording.identity(feed.recording, repetition)
    return {"kind": "live", "url": settings.feed_url}


def introduction(variables: Variables, settings: Settings) -> list[str]:
    """Return the lines about what runs, with which broker and where its outputs are."""
    lines = [f"LIVE from {settings.feed_url}"]
    if feed := variables.replay:
        lines = [describe(feed)]
    servers = settings.kafka_bootstrap_servers
    if not variables.broker:
        lines.append(f"Kafka: {servers} ({OWN_BROKER} is set, so the stack starts no broker)")
        if not broker_answers(servers):
            lines.append(f"No broker answers on {servers} yet. The services wait for it.")
    folder = variables.data_dir
    return [*lines, f"Outputs: {folder}. Logs: {stack.logs(folder)}. Ctrl-C stops everything."]


def describe(feed: Replay) -> str:
    """Return one line about what is replayed and how."""
    kind = "SYNTHETIC, " if recording.is_synthetic(feed.recording) else ""
    how = "re-timed to the present" if feed.retimed else f"as recorded, speed {feed.speed}"
    return f"REPLAY of {feed.recording.name} ({kind}{how})"


if __name__ == "__main__":
    main()
