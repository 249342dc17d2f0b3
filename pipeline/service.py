"""What every service shares: its start and end, logging, signals, counters, status, retries."""

import contextlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import tenacity

from pipeline import data_dir, machine, outputs, source, text_files, times
from pipeline.data_dir import DataDir
from pipeline.errors import (
    EXIT_FAULT,
    EXIT_OPERATIONAL,
    Family,
    OperationalError,
    RestartError,
    family_of,
    is_temporary,
    sentence,
)
from pipeline.health import heartbeat
from pipeline.logs import log_to_stdout
from pipeline.processes import MIB, age, tree_cost
from pipeline.settings import Settings, changed, invalid, load

#: Seconds between two writes of the status file.
STATUS_SECONDS = 1.0
#: Maximum number of warnings about single messages between two log lines of the counters.
MESSAGE_WARNINGS = 60
#: Seconds between two measurements of the process tree.
COST_SECONDS = 10.0
#: The services whose work runs in executors on a Spark cluster.
SPARK_SERVICES = ("spark_processor", "batch_scheduler")
#: Bytes. A longer per-minute record loses its older half (a month fits).
MINUTES_BYTES = 4_000_000
#: Seconds. A wait for another service is an error only after this: all services start together.
PATIENCE_SECONDS = 60.0
#: Maximum seconds before a retry.
LONGEST_DELAY_SECONDS = 30.0
#: Seconds. After a run of at least this length, the backoff starts again at its shortest delay.
STEADY_SECONDS = 60.0
#: Characters of an error in the log and in the status file.
LOG_CHARACTERS = 1500
STATUS_CHARACTERS = 500


class AlreadyRunsError(OperationalError):
    """Another process of the service uses the data directory."""


def backoff(first: float = 0.5) -> Iterator[float]:
    """Yield the seconds to wait before each retry: exponential, capped, with random jitter."""
    limit = first
    while True:
        yield random.uniform(first / 2, limit)  # noqa: S311 - not a secret
        limit = min(LONGEST_DELAY_SECONDS, limit * 2)


def set_in_thread(event: threading.Event) -> None:
    """Set an event from a signal handler, which runs in the main thread.

    If the signal interrupted `event.wait`, the main thread holds the lock of the event. So another
    thread sets it.
    """
    threading.Thread(target=event.set, daemon=True).start()


def _require_writable(folder: Path) -> None:
    """Create the data directory; end the process with one line if no output may be written to it.

    An error that can pass without a change of the setting, such as a full disk, does not end it.
    """
    if data_dir.is_of_system(folder):
        reason = "must be a directory of your own, not a system directory"
        print(invalid("data_dir", str(folder), reason), file=sys.stderr)
        sys.exit(EXIT_OPERATIONAL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\n")
    except OSError as error:
        if not is_temporary(error):
            reason = f"must be writable for this user: {error.strerror}"
            print(invalid("data_dir", str(folder), reason), file=sys.stderr)
            sys.exit(EXIT_OPERATIONAL)


class Service:
    """One running service: settings, log, stop request, counters and status file.

    The main loop calls `tick()` at least every two seconds. If the loop hangs, the status file
    gets old and the health check fails.

    Attributes:
        stop: set when the service is asked to stop.
        counters: totals since the start.
        details: further fields of the status file.
        began: when the process or, after an error, the newest attempt began; monotonic seconds.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.data = DataDir(settings.data_dir)
        self.log = logging.getLogger(name)
        self.stop = threading.Event()
        self.counters: Counter[str] = Counter()
        self.details: dict[str, Any] = {}
        self.began = time.monotonic() - age()
        self._state = "starting"
        self._healthy = False
        self._message = "starting"
        self._last_error: dict[str, str] | None = None
        self._started = times.now()
        self._settings = settings.model_dump(mode="json")
        self._machine = machine.describe()
        #: The status of the start before this one; {}: unknown.
        self.before = outputs.status_or_empty(self.data, name)
        self._starts = 1 + self._starts_before()
        self._peak_mib = self._minute_peak_mib = 0.0
        self._cost: dict[str, float] = {}
        #: Whether this service's processes do all of its work. On a cluster, executors do most.
        self.whole_cost = not (settings.on_cluster and name in SPARK_SERVICES)
        self._next_status = self._next_cost = 0.0
        self._next_counters = time.monotonic() + outputs.RECORD_SECONDS
        self._logged_counters: dict[str, int] = {}
        self._message_warnings = 0
        #: Monotonic time, CPU seconds and counters at the newest row of the per-minute record.
        self._last_minute: tuple[float, float, dict[str, int]] = (time.monotonic(), 0.0, {})

    @classmethod
    def start(cls, name: str) -> "Service":
        """Read the settings, set up the log and the signal handlers, log the settings."""
        settings = load()
        _require_writable(settings.data_dir)
        log_to_stdout(settings.log_level)
        # The services log the errors of these libraries themselves, once.
        for noisy in ("kafka", "py4j"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        service = cls(name, settings)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, service._on_signal)
        own = changed(settings)
        service.log.info("starting; settings that differ from their defaults: %d", len(own))
        for setting in own:
            service.log.info("setting %s", setting)
        # `run` raises the error again.
        with contextlib.suppress(OperationalError, OSError), only_one(service.data, name):
            # Before the first status, which replaces the settings that an older version recorded.
            source.claim(service.data, settings)
            service.tick(at_once=True)
        return service

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.stop.is_set():
            os._exit(128 + signum)
        set_in_thread(self.stop)

    def _starts_before(self) -> int:
        try:
            return int(self.before.get("starts", 0))
        except (TypeError, ValueError):
            return 0

    # --- run and end ----------------------------------------------------------------------

    def run(self, body: "Body") -> int:
        """Call the body until the service is asked to stop, and return the exit status.

        Whatever the body registers in its ExitStack is closed before the next call and before the
        end. The reaction to an exception is the policy of `pipeline.errors`.
        """
        delays = backoff()
        while True:
            began = time.monotonic()
            error = self._attempt(body)
            if self.stop.is_set() or error is None:
                return self._end_on_request(error)
            if not is_temporary(error):
                return self._fail(error)
            if time.monotonic() - began > STEADY_SECONDS:
                delays = backoff()
            delay = next(delays)
            text = f"{sentence(error).rstrip('.')}. The service tries again in {delay:.1f} s"
            self.error(text)
            self.report("retrying", text, healthy=False)
            self.sleep(delay)
            if self.stop.is_set():
                return self._end_on_request(None)
            self.began = time.monotonic()

    def _attempt(self, body: "Body") -> Exception | None:
        """Call the body, close its resources and return its error, or else the error of closing."""
        error: Exception | None = None
        try:
            with ExitStack() as resources:
                try:
                    resources.enter_context(only_one(self.data, self.name))
                    source.claim(self.data, self.settings)
                    body(self, resources)
                except Exception as raised:  # noqa: BLE001 - `family_of` decides what happens
                    error = raised
        except Exception as raised:
            self.log.debug("an error while closing", exc_info=raised)
            error = error or raised
        return error

    def _end_on_request(self, error: Exception | None) -> int:
        if error is not None:  # its resources were stopped together with it
            self.log.debug("an error while stopping", exc_info=error)
        self.close()
        return 0

    def _fail(self, error: Exception) -> int:
        operational = family_of(error) is Family.OPERATIONAL
        text = sentence(error) if operational else f"{type(error).__name__}: {sentence(error)}"
        self.log.debug("the traceback of the next error", exc_info=error)
        self.error(text)
        if not isinstance(error, AlreadyRunsError):  # the status is that of the other process
            self.close("failed", text[:STATUS_CHARACTERS])
        return EXIT_OPERATIONAL if operational else EXIT_FAULT

    def close(
        self, state: str = outputs.SERVICE_STOPPED, message: str = "stopped on request"
    ) -> None:
        """Log the counters and write the last status."""
        self.log_counters()
        self.report(state, message, healthy=False)
        self.tick(at_once=True)

    # --- status and log -------------------------------------------------------------------

    def report(self, state: str, message: str, *, healthy: bool) -> None:
        """Set the state. A change of state or health is logged and written at once.

        Args:
            state: one or two words for a table, such as `running` or `waiting for Kafka`.
            message: one plain sentence.
            healthy: whether the service can do its job.
        """
        is_new = (state, healthy) != (self._state, self._healthy)
        self._state, self._message, self._healthy = state, message, healthy
        if is_new:
            text = message if message.startswith(state) else f"{state}: {message}"
            expected = healthy or state == outputs.SERVICE_STOPPED
            self.log.log(logging.INFO if expected else logging.WARNING, "%s", text)
            self.tick(at_once=True)

    def error(self, text: str) -> None:
        """Log an error and keep it in the status file as the last one."""
        self.log.error(text[:LOG_CHARACTERS])
        self._last_error = {"time": times.iso(times.now()), "text": text[:STATUS_CHARACTERS]}

    def warn_about_message(self, text: str) -> None:
        """Log a warning about one message. A feed can send thousands of invalid ones per second.

        At most MESSAGE_WARNINGS a minute are logged. The counter `unlogged_warnings` counts the
        others, and the next line with the totals shows it.
        """
        if self._message_warnings < MESSAGE_WARNINGS:
            self._message_warnings += 1
            self.log.warning("%s", text)
        else:
            self.counters["unlogged_warnings"] += 1

    def tick(self, *, at_once: bool = False) -> None:
        """Do what is due: measure the cost, log the counters, write the status file."""
        now = time.monotonic()
        if now >= self._next_cost:
            self._next_cost = now + COST_SECONDS
            self._measure_cost()
        if now >= self._next_counters:
            self._next_counters = now + outputs.RECORD_SECONDS
            self.log_counters()
        if at_once or now >= self._next_status:
            self._next_status = now + STATUS_SECONDS
            self._write_status()

    def log_counters(self) -> None:
        """Log each counter with its increase, and append a row to the per-minute record."""
        increase = self._increase_since(self._logged_counters)
        self._logged_counters = dict(self.counters)
        self._message_warnings = 0
        text = ", ".join(
            f"{name} {count} (+{increase[name]})" for name, count in sorted(self.counters.items())
        )
        self.log.info("totals (increase since the last line): %s", text or "nothing yet")
        self._append_minute()

    def _increase_since(self, before: Mapping[str, int]) -> dict[str, int]:
        return {name: count - before.get(name, 0) for name, count in self.counters.items()}

    def _append_minute(self) -> None:
        """Append a row for the time since the newest row. If this fails, the next row covers it."""
        now, before = time.monotonic(), self._last_minute
        self._measure_cost()
        row = {
            "at": times.now(),
            "seconds": round(now - before[0], 2),
            "cpu_s": round(self._cost["cpu_s"] - before[1], 2) if self.whole_cost else None,
            "rss_mib": round(self._minute_peak_mib, 1) if self.whole_cost else None,
            "counters": json.dumps(self._increase_since(before[2])),
        }
        path = self.data.minutes_of(self.name)
        try:
            text_files.append_csv(path, outputs.MINUTE_COLUMNS, row, MINUTES_BYTES)
        except OSError as error:  # a full disk must not stop the service
            self.log.warning("cannot write %s. %s", path.name, sentence(error))
            return
        self._last_minute = (now, self._cost["cpu_s"], dict(self.counters))
        self._minute_peak_mib = 0.0

    def _measure_cost(self) -> None:
        cpu_s, rss = tree_cost(os.getpid())
        cpu_s = max(cpu_s, self._cost.get("cpu_s", 0.0))  # the time of an unreaped child is lost
        self._peak_mib = max(self._peak_mib, rss / MIB)
        self._minute_peak_mib = max(self._minute_peak_mib, rss / MIB)
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
            "heartbeat": heartbeat(),
            "counters": dict(self.counters),
            "cost": self._cost,
            "last_error": self._last_error,
            "settings": self._settings,
            "machine": self._machine,
            **self.details,
        }
        try:
            outputs.write_status(self.data, self.name, status)
        except OSError as error:  # a full disk must not stop the service
            path = self.data.status_of(self.name)
            self.log.warning("cannot write %s. %s", path.name, sentence(error))

    # --- waiting --------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Wait and tick until the time is over or the service is asked to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.stop.wait(min(left, 1.0)):
            self.tick()

    def retrying(self, waiting_for: str) -> tenacity.Retrying:
        """Return a caller that repeats a function after each temporary error, with backoff.

        It raises the error when the service is asked to stop. It raises a `RestartError` and any
        other error at once.

        Args:
            waiting_for: what has to work again, for the status: `waiting for Kafka`.
        """

        def report(attempt: tenacity.RetryCallState) -> None:
            error = attempt.outcome.exception() if attempt.outcome else None
            text = "no answer" if error is None else sentence(error)
            if (attempt.seconds_since_start or 0) > PATIENCE_SECONDS:
                self.error(f"waiting for {waiting_for}: {text}")
            self.report(f"waiting for {waiting_for}", text, healthy=False)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: is_temporary(error) and not isinstance(error, RestartError)
            ),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=3, jitter=0.5),
            stop=tenacity.stop_when_event_set(self.stop),
            sleep=self.sleep,
            before_sleep=report,
            reraise=True,
        )


#: The work of a service. It returns when `service.stop` is set. It registers everything that has
#: to be closed in the ExitStack.
Body = Callable[[Service, ExitStack], None]


@contextmanager
def only_one(data: DataDir, name: str) -> Iterator[None]:
    """Hold the lock of the one service of this name on this data directory.

    Raises:
        AlreadyRunsError: another process holds it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(source.lock(data, name, wait=False))
        except BlockingIOError:
            raise AlreadyRunsError(
                f"another {name} uses this DATA_DIR. Stop it, or set another DATA_DIR. "
                f"DATA_DIR={data.root}"
            ) from None
        yield


def run(name: str, body: Body) -> NoReturn:
    """Run a service to its end and exit the process: the one entry of every service."""
    sys.exit(Service.start(name).run(body))
