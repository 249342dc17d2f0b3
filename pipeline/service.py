"""How a service lives: logging, signals, backoff, counters, status and health."""

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import psutil
import tenacity

from pipeline import machine, outputs, times
from pipeline.settings import Settings, load

#: Seconds between two writings of the status file.
STATUS_SECONDS = 1.0
#: Seconds between two lines of counters in the log, and two looks at the process tree.
COUNTERS_SECONDS = 60.0
COST_SECONDS = 10.0
#: Columns of the record of minutes; it is halved when it is longer than this, in bytes (a month).
MINUTE_COLUMNS = ("at", "seconds", "cpu_s", "rss_mib", "counters")
MINUTES_BYTES = 4_000_000
#: What is awaited may take so long, in seconds, before it is an error: all start at once.
PATIENCE_SECONDS = 20.0

MIB = 1024 * 1024


def backoff(first: float = 0.5, cap: float = 30.0) -> Iterator[float]:
    """Seconds to wait before each new try: exponential, capped, with full jitter above a floor."""
    limit = first
    while True:
        yield random.uniform(first / 2, limit)  # noqa: S311 - jitter is no secret
        limit = min(cap, limit * 2)


class Service:
    """One running service: its log, its wish to stop, its counters, its status file.

    The main loop calls `tick()` often (every second or two); a loop that hangs lets the status
    file grow old, which is what the health check looks at.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.data = outputs.DataDir(settings.data_dir)
        self.log = logging.getLogger(name)
        self.stop = threading.Event()
        self.counters: Counter[str] = Counter()
        self.details: dict[str, Any] = {}
        self._state = "starting"
        self._healthy = False
        self._message = "starting"
        self._last_error: dict[str, str] | None = None
        self._started = times.now()
        self._settings = settings.model_dump(mode="json")
        self._machine = machine.describe()
        self._starts = 1 + self._starts_before()
        self._peak_mib = self._minutes_peak_mib = 0.0
        self._cost: dict[str, float] = {}
        self._next_status = self._next_cost = 0.0
        self._next_counters = time.monotonic() + COUNTERS_SECONDS
        self._counted: dict[str, int] = {}
        #: (monotonic time, CPU seconds) at the last row of the record of minutes.
        self._noted = (time.monotonic(), 0.0)

    @classmethod
    def start(cls, name: str) -> "Service":
        """Reads the settings, sets up log and signals, says what runs."""
        settings = load()
        logging.Formatter.converter = time.gmtime
        logging.basicConfig(
            level=settings.log_level,
            format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
            datefmt="%Y-%m-%dT%H:%M:%S",
            stream=sys.stdout,
            force=True,
        )
        # What fails there reaches us as an exception or a state, and is said once, by us.
        for noisy in ("kafka", "py4j"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        service = cls(name, settings)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, service._on_signal)
        service.log.info("starting with %s", settings.model_dump_json())
        service.tick(at_once=True)
        return service

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.stop.is_set():
            os._exit(128 + signum)
        self.stop.set()

    def _starts_before(self) -> int:
        try:
            return int(outputs.read_status(self.data, self.name).get("starts", 0))
        except (outputs.OutputError, TypeError, ValueError):
            return 0

    # --- what it says of itself ---------------------------------------------------------

    def report(self, state: str, message: str, *, healthy: bool) -> None:
        """Sets the state; a change is logged and written at once.

        Args:
            state: one word or two for a table, such as `running` or `waiting for Kafka`.
            message: one plain sentence.
            healthy: whether the service can do its job.
        """
        changed = (state, healthy) != (self._state, self._healthy)
        self._state, self._message, self._healthy = state, message, healthy
        if changed:
            self.log.log(logging.INFO if healthy else logging.WARNING, "%s: %s", state, message)
            self.tick(at_once=True)

    def error(self, text: str) -> None:
        """Logs an error and keeps it as the last one in the status."""
        self.log.error(text)
        self._last_error = {"time": times.iso(times.now()), "text": text[:500]}

    def tick(self, *, at_once: bool = False) -> None:
        """Writes what is due: the status file, the counters' line."""
        now = time.monotonic()
        if now >= self._next_cost:
            self._next_cost = now + COST_SECONDS
            self._look_at_cost()
        if now >= self._next_counters:
            self._next_counters = now + COUNTERS_SECONDS
            self.log_counters()
        if at_once or now >= self._next_status:
            self._next_status = now + STATUS_SECONDS
            self._write_status()

    def log_counters(self) -> None:
        """A line in the log, and a row in the record of minutes, of what is new."""
        fresh = {name: n - self._counted.get(name, 0) for name, n in self.counters.items()}
        self._counted = dict(self.counters)
        text = ", ".join(
            f"{name} {n} (+{fresh[name]})" for name, n in sorted(self.counters.items())
        )
        self.log.info("counters since the start (and new): %s", text or "nothing yet")
        self._note_minute(fresh)

    def _note_minute(self, fresh: dict[str, int]) -> None:
        now, before = time.monotonic(), self._noted
        self._look_at_cost()
        self._noted = (now, self._cost["cpu_s"])
        row = {
            "at": times.now(),
            "seconds": round(now - before[0], 2),
            "cpu_s": round(self._cost["cpu_s"] - before[1], 2),
            "rss_mib": round(self._minutes_peak_mib, 1),
            "counters": json.dumps(fresh),
        }
        self._minutes_peak_mib = 0.0
        try:
            path = self.data.minutes_of(self.name)
            outputs.append_csv(path, MINUTE_COLUMNS, row, MINUTES_BYTES)
        except OSError as error:  # a full disk must not stop the work that still can go on
            self.log.warning("the record of minutes cannot be written: %s", error)

    def close(self, state: str = "stopped", message: str = "stopped as asked") -> None:
        self.log_counters()
        self.report(state, message, healthy=False)
        self.tick(at_once=True)

    def _look_at_cost(self) -> None:
        cpu_s, rss = tree_cost(os.getpid())
        cpu_s = max(cpu_s, self._cost.get("cpu_s", 0.0))  # what ended unawaited is not forgotten
        self._peak_mib = max(self._peak_mib, rss / MIB)
        self._minutes_peak_mib = max(self._minutes_peak_mib, rss / MIB)
        self._cost = {
            "cpu_s": round(cpu_s, 2),
            "rss_mib": round(rss / MIB, 1),
            "peak_mib": round(self._peak_mib, 1),
        }

    def _write_status(self) -> None:
        status = {
            "service": self.name,
            "state": self._state,
            "healthy": self._healthy,
            "message": self._message,
            "pid": os.getpid(),
            "starts": self._starts,
            "started": self._started,
            "updated": times.now(),
            "counters": dict(self.counters),
            "cost": self._cost,
            "last_error": self._last_error,
            "settings": self._settings,
            "machine": self._machine,
            **self.details,
        }
        try:
            outputs.write_status(self.data, self.name, status)
        except OSError as error:  # a full disk must not stop the work that still can go on
            self.log.warning("the status file cannot be written: %s", error)

    # --- how it waits -------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Waits, ticking, until the time is over or the service is asked to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.stop.wait(min(left, 1.0)):
            self.tick()

    def retrying(self, waiting_for: str, *errors: type[Exception]) -> tenacity.Retrying:
        """Retries on these errors, with backoff, until it works or the service must stop."""

        def say(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if (state.seconds_since_start or 0) > PATIENCE_SECONDS:
                self.error(f"waiting for {waiting_for}: {error}")
            self.report(f"waiting for {waiting_for}", str(error), healthy=False)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(errors),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=3, jitter=0.5),
            stop=tenacity.stop_when_event_set(self.stop),
            sleep=self.sleep,
            before_sleep=say,
            reraise=True,
        )


#: A process younger than this, in seconds, with its parent's command line is its fork.
FORK_SECONDS = 2.0


def tree_cost(pid: int) -> tuple[float, int]:
    """CPU seconds (ended children included) and resident bytes of a process and all below it.

    Pages that processes share are counted in each: the sum is an upper bound. But a fork that is
    about to become another program, as a JVM makes one to run a command, does not count twice.
    """
    cpu_s, rss = 0.0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, 0
    for process in processes:
        try:
            with process.oneshot():
                cpu_s += sum(process.cpu_times()[:4])
                if process is root or not _is_fork(process):
                    rss += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return cpu_s, rss


def _is_fork(process: psutil.Process) -> bool:
    if time.time() - process.create_time() >= FORK_SECONDS:
        return False
    parent = process.parent()
    return parent is not None and process.cmdline() == parent.cmdline()
