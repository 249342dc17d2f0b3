"""The variables of `make demo` and `make run`, and everything that is wrong with them.

`make` runs `python3 -m local.variables demo` first, so that a mistake costs a second and not the
minutes of the first installation. It imports only the standard library. `local.start` checks them
again, together with what needs packages: the settings and the content of the recording.
"""

import argparse
import os
import socket
from pathlib import Path
from typing import NamedTuple

from feed.arguments import parse_seconds, parse_speed
from local.terminal import refuse
from pipeline.data_dir import is_of_system

ROOT = Path(__file__).resolve().parent.parent
#: Exists once the packages are installed.
INSTALLED = ROOT / ".venv" / ".made"
#: Set by users who have a broker of their own.
OWN_BROKER = "KAFKA_BOOTSTRAP_SERVERS"


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


class Replay(NamedTuple):
    """The replay that replaces the exchange.

    Attributes:
        recording: the file to replay.
        retimed: whether its times are shifted to the present.
        speed: as an argument of `feed.replay`.
        backlog: as an argument of `feed.replay`.
        port: where it listens.
    """

    recording: Path
    retimed: bool
    speed: str
    backlog: str
    port: Port


class Broker(NamedTuple):
    """The ports of the broker that the stack starts."""

    port: Port
    controller: Port


class Variables(NamedTuple):
    """The valid variables.

    Attributes:
        data_dir: the directory of all outputs, absolute, without symbolic links.
        page: where the page listens.
        broker: the broker to start. None: the user has one.
        replay: the replay to start. None: the stack reads the exchange.
    """

    data_dir: Path
    page: Port
    broker: Broker | None
    replay: Replay | None

    @property
    def ports(self) -> list[Port]:
        """Return all ports that the stack listens on."""
        return [*(self.broker or ()), *([self.replay.port] if self.replay else []), self.page]


def read(prog: str, arguments: list[str] | None = None) -> Variables:
    """Return the variables from the command line, or exit with a sentence about the first bad one.

    Args:
        prog: the name of the program, for its help.
        arguments: the command line; None: that of the process.
    """
    given = _parser(prog).parse_args(arguments)
    replay: Replay | None = None
    broker: Broker | None = None
    data_dir = usable_folder(given.data_dir)
    if not os.environ.get(OWN_BROKER):
        kafka = parse_port("KAFKA_PORT", "Kafka", given.kafka_port)
        controller = parse_port("CONTROLLER_PORT", "the Kafka controller", given.controller_port)
        broker = Broker(kafka, controller)
    page = parse_port("DASHBOARD_PORT", "the page", given.dashboard_port)
    if given.what == "demo":
        check_replay(given.retime, given.speed, given.backlog)
        replay = Replay(
            usable_file("RECORDING", given.recording),
            given.retime == "1",
            given.speed,
            given.backlog,
            parse_port("FEED_PORT", "the replay", given.feed_port),
        )
    variables = Variables(data_dir, page, broker, replay)
    check_different(variables.ports)
    return variables


# --- directories and files --------------------------------------------------------------------


def absolute_path(variable: str, text: str) -> Path:
    """Return a path, absolute, without `~` and symbolic links; refuse one that cannot be used."""
    if not text.strip():
        refuse(f"{variable} is empty: set it to a path, or leave it out to use the default")
    try:
        path = Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).rstrip(".")
        refuse(f"{variable}={text} is not usable: {reason}. Give the full path.")
    if any(bad in str(path) for bad in ("%", " ;", " #", "\n")):  # supervisor's configuration
        refuse(
            f"{variable}={text} is not usable: choose a path without %, ' ;', ' #' and line breaks"
        )
    return path


def usable_folder(text: str) -> Path:
    """Return the directory of the outputs; refuse a path that cannot be one."""
    path = absolute_path("DATA_DIR", text)
    another = "Set DATA_DIR to another directory."
    if path == ROOT:
        refuse(f"DATA_DIR={text} is the directory of this project. {another}")
    if is_of_system(path):
        refuse(f"DATA_DIR={text} is a system directory. {another}")
    try:
        existing = next(each for each in (path, *path.parents) if each.exists())
    except OSError as error:
        refuse(f"Cannot use DATA_DIR={text}: {error.strerror}. {another}")
    if not existing.is_dir():
        refuse(
            f"Set DATA_DIR to a directory: {existing.name} is a file. DATA_DIR={text}. The file: "
            f"{existing}"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        refuse(
            f"Cannot write to DATA_DIR={text}: no permission. {another} The directory without the "
            f"permission: {existing}"
        )
    return path


def usable_file(variable: str, text: str) -> Path:
    """Return the absolute path of a file; refuse what is missing, empty or no file."""
    path = absolute_path(variable, text)
    another = f"Set {variable} to a recording."
    try:
        if not path.exists():
            refuse(f"{variable}={text} does not exist. {another}")
        if path.is_dir():
            refuse(f"{variable}={text} is a directory and not a file. {another}")
        if not path.is_file():
            refuse(f"{variable}={text} is not a file. {another}")
        if path.stat().st_size == 0:
            refuse(f"{variable}={text} is an empty file. {another}")
        path.open("rb").close()
    except OSError as error:
        refuse(f"Cannot read {variable}={text}: {error.strerror}. {another}")
    return path


# --- the replay -------------------------------------------------------------------------------


def check_replay(retime: str, speed: str, backlog: str) -> None:
    """Refuse an option of the replay that is not valid."""
    if retime not in ("0", "1"):
        refuse(
            f"RETIME={retime} is not valid: RETIME must be 1 (times shifted to the present) "
            "or 0 (as recorded)"
        )
    try:
        recorded_speed = parse_speed(speed) == 1
    except argparse.ArgumentTypeError:
        refuse(f"SPEED={speed} is not valid: SPEED must be a number above 0, or max")
    try:
        parse_seconds(backlog)
    except argparse.ArgumentTypeError:
        refuse(f"BACKLOG={backlog} is not valid: BACKLOG must be seconds, from 0 to 864000")
    if retime == "1" and not recorded_speed:
        refuse(f"SPEED={speed} needs RETIME=0: a re-timed replay runs in real time")


# --- ports ------------------------------------------------------------------------------------


def parse_port(variable: str, service: str, text: str) -> Port:
    """Return the port with this number; refuse what is not a number from 1024 to 65535."""
    if not (text.isascii() and text.isdecimal() and 1024 <= int(text) <= 65535):
        refuse(f"{variable}={text} is not valid: choose a port from 1024 to 65535")
    return Port(variable, service, int(text))


def check_different(ports: list[Port]) -> None:
    """Refuse a port that two services would use."""
    for place, port in enumerate(ports):
        for other in ports[:place]:
            if other.number == port.number:
                refuse(
                    f"{other.variable} and {port.variable} are both {port.number}: "
                    "choose different ports"
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


def refuse_busy(port: Port, holder: str) -> None:
    """Exit with the sentence about a port that another process uses."""
    refuse(
        f"Port {port.number} ({port.service}) is in use by {holder}: "
        f"stop it, or choose another port with {port.variable}="
    )


# --- the command line -------------------------------------------------------------------------


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("what", choices=("demo", "run"), help="demo: a replay; run: the exchange")
    parser.add_argument("--data-dir", required=True, help="data directory")
    parser.add_argument("--recording", default="", help="demo: recording to replay")
    parser.add_argument(
        "--retime", default="1", help="demo: 1 shifts the recording to the present, 0 does not (1)"
    )
    parser.add_argument(
        "--speed",
        default="1",
        help="demo with --retime 0: multiple of the recorded speed, or max (1)",
    )
    parser.add_argument(
        "--backlog",
        default="1800",
        help="demo with --retime 1: the trades of the last BACKLOG seconds arrive at once (1800)",
    )
    parser.add_argument("--kafka-port", default="9092", help="port of the broker (9092)")
    parser.add_argument(
        "--controller-port", default="9093", help="port of the broker's controller (9093)"
    )
    parser.add_argument("--feed-port", default="8765", help="demo: port of the replay (8765)")
    parser.add_argument("--dashboard-port", default="8501", help="port of the page (8501)")
    return parser


def main() -> None:
    """Check all variables.

    Ports are checked only before the installation. Later, `local.start` finds busy ports as
    quickly, ends the processes that a killed stack left, and prints the name of the process.
    """
    variables = read("python3 -m local.variables")
    if not INSTALLED.exists():
        for port in variables.ports:
            if not is_free(port.number):
                refuse_busy(port, "another process")


if __name__ == "__main__":
    main()
