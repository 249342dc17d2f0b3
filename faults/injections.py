"""The functions that inject the faults. Each returns when the fault is over."""

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
from datetime import datetime
from pathlib import Path

import psutil

from faults import servers
from faults.lab import RECOVERY_SECONDS, Lab
from faults.stack import TOPICS, LabError

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

#: A message of two million bytes that is not a trade.
OVERSIZED = b"[" + b"1," * 1_000_000 + b"1]"

#: Seconds without a server: five minutes of event time.
AWAY_SECONDS = 50
#: Seconds without a broker.
BROKER_AWAY_SECONDS = 120
#: Seconds with a wrong clock: long enough for a batch run to begin and end.
CLOCK_SECONDS = 20


def kill(lab: Lab, targets: tuple[str, ...]) -> None:
    """Send SIGKILL to these targets."""
    lab.kill(*targets)


def kill_some(lab: Lab, count: int) -> None:
    """Send SIGKILL to random targets, all at about the same time."""
    choice = [target for target in TARGETS if target != "batch_run"]
    lab.kill(*lab.random.sample(choice, count))


def kill_stack(lab: Lab) -> None:
    """Send SIGKILL to every process of the stack, and start it again after 0 to 5 s."""
    lab.stack.kill_all()
    lab.sleep(0, 5)
    lab.stack.start()


def pause(lab: Lab, target: str) -> None:
    """Suspend a target for 5 to 40 s."""
    pid = lab.stack.signal(target, signal.SIGSTOP)
    try:
        lab.sleep(5, 40)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _behaving(lab: Lab, behaviour: servers.Behaviour) -> Iterator[None]:
    """Change the behaviour of the server during the block."""
    lab.stack.proxy.behave(behaviour)
    try:
        yield
    finally:
        lab.stack.proxy.behave()


def behave(lab: Lab, make: servers.MakeBehaviour, seconds: float) -> None:
    """Change the behaviour of the server for some seconds."""
    with _behaving(lab, make()):
        time.sleep(seconds)


def close(lab: Lab, after: int, code: int | None, times: int) -> None:
    """Close connections after some frames; without a code, drop them: see `servers.Close`."""
    behaviour = servers.Close(after, code, times)
    with _behaving(lab, behaviour):
        lab.wait_for(lambda: behaviour.left == 0, 300, f"{times} closed connections")


def refuse(lab: Lab) -> None:
    """Refuse connections for AWAY_SECONDS."""
    lab.stack.proxy.refuse()
    try:
        time.sleep(AWAY_SECONDS)
    finally:
        lab.stack.proxy.listen()


def oversized(lab: Lab) -> None:
    """Send a message of two million bytes."""
    lab.send([OVERSIZED])


def late(lab: Lab, low: float, high: float) -> None:
    """Set back the event time of every seventh trade for 20 s, by `low` to `high` seconds."""
    behaviour = servers.Late(7, lambda: lab.random.uniform(low, high))
    try:
        with _behaving(lab, behaviour):
            time.sleep(20)
    finally:
        lab.rewritten |= behaviour.rewritten


def lock_database(lab: Lab) -> None:
    """Hold the lock of a writer on the database for 10 to 20 s."""
    with closing(sqlite3.connect(lab.stack.data.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("BEGIN IMMEDIATE")
        lab.sleep(10, 20)
        connection.execute("ROLLBACK")


def damage(lab: Lab, damage: Callable[[Lab], object]) -> None:
    """Damage files of the stream while it is stopped: see DAMAGES."""
    _wait_for_a_final_window(lab)
    lab.stack.stop_program("spark_processor")
    try:
        damage(lab)
    finally:
        lab.stack.start_program("spark_processor")


def _wait_for_a_final_window(lab: Lab) -> None:
    files = lab.stack.data.stream_csv
    lab.wait_for(lambda: any(files.glob("*.csv")), 120, "the first final window")


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


#: Files of the stream that are deleted while it runs: the name, what is deleted, its path.
DELETIONS: dict[str, tuple[str, Callable[[Lab], Path]]] = {
    "day": ("the newest stream_csv file", _newest_csv),
    "windows": ("stream_csv/", lambda lab: lab.stack.data.stream_csv),
    "checkpoints": ("checkpoints/", lambda lab: lab.stack.data.checkpoints),
}


def delete(lab: Lab, path_of: Callable[[Lab], Path]) -> None:
    """Delete files of the running stream (see DELETIONS), and wait until it reports it."""
    _wait_for_a_final_window(lab)
    began, path = time.time(), path_of(lab)
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def is_reported() -> bool:
        error = lab.stack.status("spark_processor").get("last_error")
        if not error or "was deleted while the stream ran" not in error["text"]:
            return False
        return datetime.fromisoformat(error["time"]).timestamp() >= began

    lab.wait_for(is_reported, 20, "the stream's report of the deletion")


def cannot_mount(what: str) -> str | None:
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


def read_only(lab: Lab) -> None:
    """Make the directories of the results read-only for 15 s."""
    data = lab.stack.data
    with contextlib.ExitStack() as mounts:
        for folder in (data.stream_csv, data.batch_output, data.status):
            mounts.enter_context(_mounted_read_only(folder))
        time.sleep(15)


def fill_disk(lab: Lab) -> None:
    """Keep the disk full for 15 to 25 s."""
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


def shift_clock(lab: Lab, service: str, shifts: tuple[int, ...]) -> None:
    """Shift the clock of a service by these numbers of seconds, one after the other.

    Raises:
        LabError: this stack has no clocks that can be shifted.
    """
    if lab.clocks is None:
        raise LabError("the clocks of this stack cannot be shifted")
    try:
        for shift in shifts:
            lab.clocks.shift(service, shift)
            time.sleep(CLOCK_SECONDS / len(shifts))
    finally:
        lab.clocks.shift(service, 0)


def start_without_topics(lab: Lab) -> None:
    """Start the services 15 s before their topics exist."""
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


def delete_records(lab: Lab) -> None:
    """Delete what the stream has not read. If the stream stops, do what its message requires."""
    stack = lab.stack
    stack.stop_program("spark_processor")
    read = stack.streamed_up_to()
    lab.sleep(5, 10)
    lab.deleted += stack.delete_records()
    stack.start_program("spark_processor")

    def asks() -> bool:  # the service reports the action for a moment, then supervisor restarts it
        return any("`checkpoints`" in problem for problem in stack.problems())

    def answered() -> str | None:
        return "asks" if asks() else "reads" if stack.streamed_up_to() > read else None

    if lab.wait_for(answered, RECOVERY_SECONDS, "the stream after the deletion") == "asks":
        stack.stop_program("spark_processor")
        shutil.rmtree(stack.data.checkpoints)
        stack.start_program("spark_processor")


def stop_broker(lab: Lab) -> None:
    """Stop the broker for BROKER_AWAY_SECONDS."""
    lab.stack.stop_program("kafka")
    try:
        time.sleep(BROKER_AWAY_SECONDS)
    finally:
        lab.stack.start_program("kafka")
