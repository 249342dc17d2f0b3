"""The faults: what each does, how often, and what the pipeline promises."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil

from faults import messages, servers
from faults.lab import CLOCK, SMALL_DISK, Fault, Lab
from faults.servers import Behaviour
from faults.stack import TOPICS, fake_time

#: Every process of the stack that a fault can kill or pause, and what it is.
TARGETS = {
    "producer": "the producer",
    "consumer": "the consumer",
    "spark_processor": "the stream's Python process",
    "stream_jvm": "the stream's Java process",
    "batch_scheduler": "the batch scheduler",
    "batch_run": "a batch run",
    "kafka": "the Kafka broker",
    "dashboard": "the page",
}
#: Targets that take longer than a few seconds to come back.
SLOW = ("spark_processor", "stream_jvm", "kafka", "batch_run")
#: Targets that nothing else waits for: they are paused once, all others twice.
HARMLESS = ("batch_scheduler", "batch_run", "dashboard")
#: Injections of each fault that kills one process.
KILLS = 20
#: The faults of `--quick`.
QUICK = ("kill-producer", "kill-consumer", "kill-kafka", "server-drop", "malformed-kinds")
EXACT = "no trade lost or doubled, every result right"
#: Trades recovered after a fault of the connection can reach the stream after the watermark.
RECOVERED = f"missing trades are recovered; {EXACT}"


def catalogue() -> list[Fault]:
    """Return every fault, in the order of the table."""
    return [
        *kills(),
        *pauses(),
        *server_faults(),
        *message_faults(),
        *storage_faults(),
        *broker_faults(),
        *clock_faults(),
    ]


# --- processes ----------------------------------------------------------------------------------


def kills() -> list[Fault]:
    """Return the faults that kill processes at a random moment."""
    single = [
        Fault(
            name=f"kill-{target}",
            claim=f"SIGKILL of {what}: {EXACT}",
            inject=partial(_kill, targets=(target,)),
            times=KILLS,
            seconds=13 if target in SLOW else 4,
            mixed=True,
            late_is_expected=target == "producer",
        )
        for target, what in TARGETS.items()
    ]
    several = [
        Fault(
            name=f"kill-{name}",
            claim=f"SIGKILL of {count} random processes at once: {EXACT}",
            inject=partial(_kill_some, count=count),
            times=4,
            seconds=20,
            late_is_expected=True,
        )
        for name, count in (("two", 2), ("three", 3))
    ]
    everything = Fault(
        name="kill-stack",
        claim=f"SIGKILL of every process and a new start: {EXACT}",
        inject=_kill_stack,
        times=3,
        seconds=30,
        late_is_expected=True,
    )
    return [*single, *several, everything]


def _kill(lab: Lab, targets: tuple[str, ...]) -> None:
    lab.kill(*targets)


def _kill_some(lab: Lab, count: int) -> None:
    choice = [target for target in TARGETS if target != "batch_run"]
    lab.kill(*lab.random.sample(choice, count))


def _kill_stack(lab: Lab) -> None:
    lab.stack.kill_all()
    lab.sleep(0, 5)
    lab.stack.start()


def pauses() -> list[Fault]:
    """Return the faults that suspend a process for 5 to 40 seconds."""
    return [
        Fault(
            name=f"pause-{target}",
            claim=f"SIGSTOP of {what} for 5 to 40 s: {EXACT}",
            inject=partial(_pause, target=target),
            times=1 if target in HARMLESS else 2,
            seconds=28,
            late_is_expected=target == "producer",
        )
        for target, what in TARGETS.items()
    ]


def _pause(lab: Lab, target: str) -> None:
    pid = lab.stack.signal(target, signal.SIGSTOP)
    try:
        lab.sleep(5, 40)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# --- the server of the feed ---------------------------------------------------------------------

ERROR_PAGE = servers.http_answer("503 Service Unavailable", "<html><h1>Maintenance</h1></html>")
#: The beginning of a handshake answer, sent slowly.
SLOW_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nX-Padding: " + b"x" * 10_000
#: A message of two million bytes that is no trade.
OVERSIZED = b"[" + b"1," * 1_000_000 + b"1]"


def server_faults() -> list[Fault]:
    """Return the faults of the WebSocket server and of the connection to it."""
    part = servers.header(servers.CONTINUATION, 1, final=False) + b"x"
    first = servers.header(servers.TEXT, 1, final=False) + b"x"
    ping = servers.header(servers.PING, 0)
    huge = servers.header(servers.TEXT, 1 << 62)
    behaviours: dict[str, tuple[str, Callable[[], Behaviour], float]] = {
        "half-frame": ("half a frame, then a drop", lambda: servers.HalfFrame(0), 3),
        "stuck-frame": ("half a frame, then nothing", lambda: servers.HalfFrame(20), 20),
        "trickle": ("one byte each 0.5 s", lambda: servers.Trickle(0.5), 20),
        "pings-only": ("a ping each 0.2 s", lambda: servers.Endless(ping, 0.2), 20),
        "endless-message": (
            "continuation frames without end",
            lambda: servers.Endless(part, 0.02, first),
            20,
        ),
        "huge-length": ("a frame of 2^62 bytes", lambda: servers.Instead(huge), 20),
        "silence": ("nothing", servers.Silence, 20),
        "heartbeats-only": ("no trades", lambda: servers.Only(lambda f: not f.is_ticker), 25),
        "trades-only": ("no heartbeats", lambda: servers.Only(lambda f: not f.is_heartbeat), 20),
        "error-page": ("HTTP 503", lambda: servers.Answer(ERROR_PAGE), 15),
        "slow-handshake": (
            "a handshake at one byte each 0.5 s",
            lambda: servers.Answer(SLOW_ANSWER, 0.5),
            20,
        ),
    }
    sends = [
        Fault(
            name=f"server-{name}",
            claim=f"the server sends {what}: {RECOVERED}",
            inject=partial(_behave, make=make, seconds=seconds),
            seconds=seconds + 10,
            late_is_expected=True,
        )
        for name, (what, make, seconds) in behaviours.items()
    ]
    closes = [
        Fault(
            name=f"server-{name}",
            claim=f"the server {what}: {RECOVERED}",
            inject=partial(_close, after=after, code=code, times=times),
            seconds=seconds,
            late_is_expected=True,
        )
        for name, what, after, code, times, seconds in (
            ("close", "closes 5 connections", 20, 1001, 5, 15),
            ("drop", "drops 5 connections", 20, None, 5, 15),
            ("200-reconnects", "closes 200 connections after 5 frames", 5, 1000, 200, 150),
        )
    ]
    refused = Fault(
        name="server-refused",
        claim=f"the server refuses connections for 15 s: {RECOVERED}",
        inject=_refuse,
        seconds=25,
        late_is_expected=True,
    )
    oversized = Fault(
        name="server-oversized",
        claim=f"a message of 2 MB is rejected: {EXACT}",
        inject=_oversized,
        seconds=10,
    )
    return [*sends, *closes, refused, oversized]


def _behave(lab: Lab, make: Callable[[], Behaviour], seconds: float) -> None:
    lab.stack.proxy.behave(make())
    try:
        time.sleep(seconds)
    finally:
        lab.stack.proxy.behave()


def _close(lab: Lab, after: int, code: int | None, times: int) -> None:
    behaviour = servers.Close(after, code, times)
    lab.stack.proxy.behave(behaviour)
    try:
        lab.wait_for(lambda: behaviour.left == 0, 300, f"{times} closed connections")
    finally:
        lab.stack.proxy.behave()


def _refuse(lab: Lab) -> None:
    lab.stack.proxy.refuse()
    try:
        time.sleep(15)
    finally:
        lab.stack.proxy.listen()


def _oversized(lab: Lab) -> None:
    lab.send([OVERSIZED])


# --- messages -----------------------------------------------------------------------------------

#: Generated malformed messages.
GENERATED = 200_000


def message_faults() -> list[Fault]:
    """Return the faults of single messages."""
    return [
        Fault(
            name="malformed-kinds",
            claim=f"each malformed message has one dead letter; {EXACT}",
            inject=lambda lab: lab.send(messages.kinds()),
            times=3,
            seconds=8,
        ),
        Fault(
            name="malformed-generated",
            claim=f"{GENERATED:,} malformed messages have one dead letter each; {EXACT}",
            inject=lambda lab: lab.send(list(messages.generated(lab.random, GENERATED))),
            seconds=60,
        ),
        Fault(
            name="late-within-watermark",
            claim=f"each seventh trade is up to 50 s late: {EXACT}",
            inject=partial(_late, low=0.0, high=50.0),
            seconds=25,
        ),
        Fault(
            name="late-beyond-watermark",
            claim="each seventh trade is 150 to 600 s late: the batch counts it, the stream does "
            "not",
            inject=partial(_late, low=150.0, high=600.0),
            seconds=25,
            late_is_expected=True,
        ),
    ]


def _late(lab: Lab, low: float, high: float) -> None:
    behaviour = servers.Late(7, lambda: lab.random.uniform(low, high))
    lab.stack.proxy.behave(behaviour)
    try:
        time.sleep(20)
    finally:
        lab.stack.proxy.behave()
        lab.rewritten |= behaviour.rewritten


# --- storage ------------------------------------------------------------------------------------


def storage_faults() -> list[Fault]:
    """Return the faults of the database, the files and the disk."""
    damaged = [
        Fault(
            name=f"damaged-{name}",
            claim=f"{what}, while the stream is stopped: {EXACT}",
            inject=partial(_damage, damage=damage),
            seconds=25,
        )
        for name, (what, damage) in DAMAGES.items()
    ]
    return [
        Fault(
            name="database-locked",
            claim=f"another program locks the database for 10 to 20 s: {EXACT}",
            inject=_lock_database,
            times=2,
            seconds=20,
        ),
        *damaged,
        Fault(
            name="read-only-folder",
            claim=f"the folders of the results are read-only for 15 s: {EXACT}",
            inject=_read_only,
            seconds=35,
            missing=partial(_cannot_mount, "read-only folders"),
        ),
        Fault(
            name="disk-full",
            claim=f"the disk is full for 15 to 25 s: {EXACT}",
            inject=_fill_disk,
            times=2,
            seconds=50,
            stack=SMALL_DISK,
            late_is_expected=True,
            missing=partial(_cannot_mount, "a small file system"),
        ),
    ]


def _lock_database(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.stack.data.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("BEGIN IMMEDIATE")
        lab.sleep(10, 20)
        connection.execute("ROLLBACK")


def _damage(lab: Lab, damage: Callable[[Lab], object]) -> None:
    lab.stack.stop_program("spark_processor")
    try:
        damage(lab)
    finally:
        lab.stack.start_program("spark_processor")


def _newest_csv(lab: Lab) -> Path:
    return max(lab.stack.data.stream_csv.glob("*.csv"))


def _add_garbage(lab: Lab) -> None:
    with _newest_csv(lab).open("ab") as file:
        file.write(b"\x00\xff,garbage,\n")


def _cut_last_row(lab: Lab) -> None:
    path = _newest_csv(lab)
    path.write_bytes(path.read_bytes()[:-40])


def _empty_csv(lab: Lab) -> None:
    _newest_csv(lab).write_bytes(b"")


def _open_windows(lab: Lab) -> Path:
    return next(lab.stack.data.checkpoints.glob("*/open_windows.json"))


def _newest_of(lab: Lab, log: str) -> Path:
    files = lab.stack.data.checkpoints.glob(f"*/query/{log}/*")
    return max((path for path in files if path.name.isdecimal()), key=lambda path: int(path.name))


def _delete_state(lab: Lab) -> None:
    for path in lab.stack.data.checkpoints.glob("*/query/state/**/*.delta"):
        path.unlink()


#: Damages to the files of the stream: the name, what is damaged, how.
DAMAGES: dict[str, tuple[str, Callable[[Lab], object]]] = {
    "csv-garbage": ("garbage is added to the newest stream_csv file", _add_garbage),
    "csv-cut": ("the last row of the newest stream_csv file is cut", _cut_last_row),
    "csv-empty": ("the newest stream_csv file is emptied", _empty_csv),
    "state-missing": ("open_windows.json is deleted", lambda lab: _open_windows(lab).unlink()),
    "state-empty": (
        "open_windows.json is {}",
        lambda lab: _open_windows(lab).write_text("{}", encoding="utf-8"),
    ),
    "state-shape": (
        "open_windows.json has another shape",
        lambda lab: _open_windows(lab).write_text(json.dumps({"open": 3}), encoding="utf-8"),
    ),
    "offsets": (
        "the newest file in the checkpoint's offsets is emptied",
        lambda lab: _newest_of(lab, "offsets").write_bytes(b""),
    ),
    "commits": (
        "the newest file in the checkpoint's commits is emptied",
        lambda lab: _newest_of(lab, "commits").write_bytes(b""),
    ),
    "spark-state": ("the checkpoint's state is deleted", _delete_state),
}


def _cannot_mount(what: str) -> str | None:
    """Return why this process cannot mount file systems; None if it can."""
    if os.geteuid() != 0:
        return f"{what} need root"
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(probe, capture_output=True, check=False)
    except OSError as error:
        return f"{what} need mount: {error}"
    return f"{what} need mount, which is not allowed here" if done.returncode else None


@contextlib.contextmanager
def _mounted_read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _read_only(lab: Lab) -> None:
    data = lab.stack.data
    with contextlib.ExitStack() as mounts:
        for folder in (data.stream_csv, data.batch_output, data.status):
            mounts.enter_context(_mounted_read_only(folder))
        time.sleep(15)


def _fill_disk(lab: Lab) -> None:
    ballast = lab.stack.data.root / "ballast"
    end = time.monotonic() + lab.random.uniform(15, 25)
    try:
        with ballast.open("ab", buffering=0) as file:
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    while free := psutil.disk_usage(str(lab.stack.data.root)).free:
                        file.write(b"\0" * min(free, 1 << 20))
                time.sleep(0.1)
    finally:
        ballast.unlink()


# --- the clock ----------------------------------------------------------------------------------


def clock_faults() -> list[Fault]:
    """Return the faults of the machine's clock."""
    return [
        Fault(
            name=f"clock-{name}",
            claim=f"the clock of the machine {what} for 25 s: {RECOVERED}",
            inject=partial(_set_clock, offsets=offsets),
            seconds=45,
            stack=CLOCK,
            late_is_expected=True,
            missing=lambda: None if fake_time() else "libfaketime is not installed",
        )
        for name, what, offsets in (
            ("ahead", "is 200 s ahead", (200,)),
            ("behind", "is 200 s behind", (-200,)),
            ("stepped", "jumps five times", (30, -30, 400, -400, 3)),
        )
    ]


def _set_clock(lab: Lab, offsets: tuple[int, ...]) -> None:
    try:
        for offset in offsets:
            lab.stack.set_clock(offset)
            time.sleep(25 / len(offsets))
    finally:
        lab.stack.set_clock(0)


# --- the broker ---------------------------------------------------------------------------------

#: Seconds without a broker.
BROKER_AWAY_SECONDS = 120


def broker_faults() -> list[Fault]:
    """Return the faults of Kafka beside its kill."""
    return [
        Fault(
            name="topics-missing",
            claim=f"the topics do not exist when the services start: {EXACT}",
            inject=_start_without_topics,
            seconds=60,
            stack="no-topics",
            starts_stack=True,
        ),
        Fault(
            name="retention",
            claim="Kafka deletes records that the stream has not read: only windows with a deleted "
            "record differ",
            inject=_delete_records,
            seconds=60,
            stack="retention",
            late_is_expected=True,
        ),
        Fault(
            name="broker-away",
            claim=f"no broker for {BROKER_AWAY_SECONDS} s: {EXACT}",
            inject=_stop_broker,
            seconds=BROKER_AWAY_SECONDS + 30,
            late_is_expected=True,
        ),
    ]


def _start_without_topics(lab: Lab) -> None:
    stack, readers = lab.stack, ("producer", "consumer", "spark_processor")
    stack.proxy.refuse()
    stack.start()
    lab.wait_for(lambda: set(TOPICS) <= stack.topics(), 90, "the topics")
    for program in readers:
        stack.stop_program(program)
    stack.delete_topics(*TOPICS)
    for program in readers:
        stack.start_program(program)
    time.sleep(15)
    stack.start_program("topics")
    stack.proxy.listen()


def _delete_records(lab: Lab) -> None:
    """Delete what the stream has not read, and follow the remedy if the stream asks for it."""
    stack = lab.stack
    stack.stop_program("spark_processor")
    lab.sleep(5, 10)
    lab.deleted += stack.delete_records()
    stack.start_program("spark_processor")
    time.sleep(25)
    if any("checkpoints" in problem for problem in stack.problems()):
        stack.stop_program("spark_processor")
        shutil.rmtree(stack.data.checkpoints)
        stack.start_program("spark_processor")


def _stop_broker(lab: Lab) -> None:
    lab.stack.stop_program("kafka")
    try:
        time.sleep(BROKER_AWAY_SECONDS)
    finally:
        lab.stack.start_program("kafka")
