"""Run supervisor on the stack's configuration and print its important events.

`local/start.py` becomes this process, so it is the child of `make`. Therefore the signals of the
terminal, and those that `make` forwards, reach supervisor. Every program has a process group of
its own and does not receive them.

Only this module extends supervisor's classes, which are not documented in detail:
tests/unit/test_local.py fails when the installed version is not `CHECKED_VERSION`.
"""

import contextlib
import errno
import os
import re
import signal
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from supervisor import events, loggers
from supervisor.datatypes import RestartUnconditionally
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates
from supervisor.supervisord import Supervisor

from local import stack, terminal
from pipeline import processes
from pipeline.errors import EXIT_OPERATIONAL
from pipeline.health import full_disk

#: The version of supervisor with which this module was checked.
CHECKED_VERSION = "4.3.0"
#: Longest wait before a program that keeps failing is started again.
MAX_BACKOFF_SECONDS = 30
#: Seconds to wait after the operating system refused something, such as memory.
REFUSED_SECONDS = 1.0
#: A program logs why it ends at most this many seconds before its end.
REASON_SECONDS = 60.0
#: A log line of a service or of the broker: its time, its level and its text.
_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+Z) ([A-Z]+) +[\w.]+: (.*)")
#: The beginning of a log line. On a full disk, the rest can be missing.
_LOG_TIME = re.compile(r"\d{4}-\d\d-\d\dT")
#: A call in a stack trace of Java.
_CALL = re.compile(r"\s+(?:at |\.\.\. \d)")
#: The line of an exception in the output of Java.
_EXCEPTION = re.compile(r"(?:[a-z]\w*\.)+[\w$]*(?:Exception|Error)(?:: .*)?$")
_ERROR_LEVELS = ("ERROR", "CRITICAL", "FATAL")


def log(text: str) -> None:
    """Print one line with the time in UTC."""
    terminal.say(f"{time.strftime('%H:%M:%S', time.gmtime())} UTC  {text}")


class Log(loggers.Logger):  # type: ignore[misc]
    """A log of supervisor or of a program that loses lines, instead of failing, on a full disk.

    Supervisor prints a traceback for each line that it cannot write. If its own output is on the
    same disk, that fails too and ends supervisor. Then nothing restarts the programs.
    """

    def addHandler(self, hdlr: Any) -> None:  # noqa: N802 - supervisor's name
        """Add a log file, without its traceback for each lost line."""
        hdlr.handleError = lambda: None
        super().addHandler(hdlr)

    def log(self, level: int, msg: Any, **kw: Any) -> None:
        """Write a line, or lose it."""
        try:
            super().log(level, msg, **kw)
        except (OSError, ValueError):  # a rotation failed: its file is full or closed
            for handler in self.handlers:
                handler.closed = handler.stream.closed
                with contextlib.suppress(OSError):
                    handler.reopen()

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):  # the last lines do not fit on a full disk
            super().close()


class Options(ServerOptions):  # type: ignore[misc]
    """Supervisor's options. Its logs survive a full disk, and an ignored SIGHUP stays ignored."""

    #: The wait status of the program that ended last. Supervisor drops it if that was an early end.
    wait_status = 0

    def waitpid(self) -> tuple[int | None, int | None]:
        """Return the pid and the wait status of a program that has ended, and keep the status."""
        pid, status = super().waitpid()
        if pid:
            self.wait_status = status
        return pid, status

    def usage(self, msg: str) -> None:
        """Exit with one sentence, without supervisor's advice about its own options."""
        action = "Set DATA_DIR and TMPDIR to directories on a local disk"
        if "minimum number of" in msg:
            action = "Increase the limit: `ulimit -n` for files, `ulimit -u` for processes"
        elif "already listening" in msg:
            action = "Stop the other supervisor on this DATA_DIR"
        terminal.refuse(f"Cannot start the supervisor. {action}. Cause: {msg}")

    def getLogger(self, *arguments: Any) -> Log:  # noqa: N802 - supervisor's name
        """Return a new log of a program."""
        return Log(*arguments)

    def make_logger(self) -> None:
        """Open supervisor's own log."""
        self.logger = Log(self.loglevel)
        loggers.handle_file(
            self.logger,
            self.logfile,
            "%(asctime)s %(levelname)s %(message)s\n",
            rotating=True,
            maxbytes=self.logfile_maxbytes,
            backups=self.logfile_backups,
        )

    def setsignals(self) -> None:
        """Handle all signals, also those that `local.start` has blocked.

        If SIGHUP is ignored at the start (`nohup make run &`), it stays ignored, and the programs
        inherit that. Otherwise SIGHUP, from a closed terminal, stops the stack.
        """
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        super().setsignals()
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stack.STOP_SIGNALS)


class SignalWakeup(asyncore.file_dispatcher):  # type: ignore[misc]
    """End supervisor's wait for input as soon as a signal arrives.

    Supervisor waits up to one second for input before it checks its programs again. An orderly stop
    has several steps, and each of them would wait that long for a program that has already ended.
    Python writes a byte to a pipe for every signal, SIGCHLD included. Supervisor's own event loop
    reads the pipe.
    """

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        super().__init__(read_end)  # the base class adds it to the event loop
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        os.write(write_end, b"\0")  # the first check of the programs starts them

    def writable(self) -> bool:
        """Return False: nothing is ever written to this end."""
        return False

    def handle_read(self) -> None:
        """Empty the pipe."""
        self.recv(4096)


class Stack(Supervisor):  # type: ignore[misc]
    """Supervisor that prints its events and limits the wait between restarts."""

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(options)
        #: How often each program has failed since it last worked.
        self._failures: Counter[str] = Counter()

    def runforever(self) -> None:
        """Subscribe to the events, then run the event loop."""
        # Here and not earlier: `run`, which calls this method, removes all subscriptions.
        events.subscribe(events.ProcessStateStartingEvent, self._on_starting)
        events.subscribe(events.ProcessStateExitedEvent, self._on_exit)
        events.subscribe(events.ProcessStateBackoffEvent, self._on_early_exit)
        events.subscribe(events.ProcessStateRunningEvent, self._on_running)
        events.subscribe(events.ProcessLogStdoutEvent, self._on_output)
        events.subscribe(events.SupervisorStoppingEvent, self._on_stopping)
        SignalWakeup()
        while True:  # its loop ends with an exception only: ExitNow if it was asked to end
            try:
                super().runforever()
            except (OSError, MemoryError) as error:
                self.options.logger.critical("continuing after an error: %(error)r", error=error)
                time.sleep(REFUSED_SECONDS)

    def _on_starting(self, event: Any) -> None:
        with contextlib.suppress(OSError):  # the start fails with the same error
            Path(event.process.config.stdout_logfile).parent.mkdir(parents=True, exist_ok=True)

    def _on_exit(self, event: Any) -> None:
        process = event.process
        name = process.config.name
        if not ends_when_done(process):
            killed = process.exitstatus == -1
            how = "was killed" if killed else f"ended, status {process.exitstatus}"
            self._log_failure(process, f"{error_of(process) or how}. Restarting")
        elif not event.expected:
            # Supervisor would start it again at once.
            process.backoff = min(self._failures[name], MAX_BACKOFF_SECONDS - 1)
            process.change_state(ProcessStates.BACKOFF)
        elif process.exitstatus == EXIT_OPERATIONAL:
            how = error_of(process) or "failed. Read its log and correct the cause"
            self._log_failure(process, f"{how}. After the correction, start the stack again")
        elif self._failures.pop(name, 0):
            log(f"{name} has succeeded")

    def _on_early_exit(self, event: Any) -> None:
        process, wait_s = event.process, event.process.backoff
        # Supervisor adds a second each time and has no limit of its own.
        process.backoff = min(process.backoff, MAX_BACKOFF_SECONDS - 1)
        killed = process.pid and os.WIFSIGNALED(self.options.wait_status)
        how = f"{'was killed' if killed else 'ended'} soon after its start"
        if ends_when_done(process):
            how = "failed"
        self._log_failure(process, f"{error_of(process) or how}. Next attempt in {wait_s} s")

    def _log_failure(self, process: Any, what: str) -> None:
        self._failures[process.config.name] += 1
        log(f"{process.config.name} {what} (log: {process.config.stdout_logfile})")

    def _on_running(self, event: Any) -> None:
        process = event.process
        if not ends_when_done(process) and self._failures.pop(process.config.name, 0):
            log(f"{process.config.name} was restarted")

    def _on_output(self, event: Any) -> None:
        for line in event.data.decode(errors="replace").splitlines():
            if line.strip():  # the line break can arrive separately
                log(line)

    def _on_stopping(self, _event: Any) -> None:
        log(f"stopping the services{', then Kafka' if 'kafka' in self.process_groups else ''}")
        # A program that was just forked still has supervisor's signal handlers, which ignore the
        # request to stop. After this time it has become the program itself.
        time.sleep(0.3)


def ends_when_done(process: Any) -> bool:
    """Return whether a program ends when its work is done (`local.programs.ONCE`)."""
    return process.config.autorestart is not RestartUnconditionally


def error_of(process: Any) -> str:
    """Return why a program failed, without a full stop; "" if it did not fail or has no reason.

    On a full disk, the last lines of Kafka name other errors, or are not in its log. So the full
    disk comes first.
    """
    log_file = Path(process.config.stdout_logfile)
    if not process.pid:  # the system refused to start it
        reason = process.spawnerr or ""
    elif os.waitstatus_to_exitcode(process.config.options.wait_status) > 0:
        since = max(process.laststart, process.laststop - REASON_SECONDS)
        reason = last_error(log_file, since)
        full = full_disk(log_file.parent)
        if full and not reason.startswith(os.strerror(errno.ENOSPC)):
            reason = f"{full}. Cause: {reason}" if reason else full
    else:
        reason = ""
    return f"failed: {reason.rstrip('.')}" if reason else ""


def last_error(log_file: Path, since: float) -> str:
    """Return the text of the last error in a log; without one, a last line that has no level.

    Java logs an error, and on the next line the exception that caused it.

    A line counts only if it was written since this time (epoch, seconds). On a full disk, the last
    lines can be those of an earlier start.
    """
    try:
        if log_file.stat().st_mtime < since:
            return ""
        text = log_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # A call of a stack trace does not name the error: only the first line does.
    lines = [line for line in text.strip().splitlines() if not _CALL.match(line)]
    for number in range(len(lines) - 1, -1, -1):
        if found := _LOG_LINE.match(lines[number]):
            if datetime.fromisoformat(found[1]).timestamp() < since:
                break
            if found[2] in _ERROR_LEVELS:
                following = "".join(lines[number + 1 : number + 2])
                is_cause = _EXCEPTION.match(following)
                return f"{found[3].rstrip('.')}. Cause: {following}" if is_cause else found[3]
    is_log_line = not lines or _LOG_TIME.match(lines[-1])
    return "" if is_log_line else lines[-1].strip()


def main() -> None:
    """Run the stack until a signal stops it, then end what its programs left."""
    terminal.write_through()
    data_dir = Path(os.environ["DATA_DIR"])
    options = Options()
    options.realize(["-c", str(stack.configuration(data_dir))])
    options.first, options.test = True, False
    with contextlib.suppress(asyncore.ExitNow):
        Stack(options).main()
    # A killed service can leave its own children: a JVM, a batch run.
    processes.end(stack.leftovers(data_dir), wait_seconds=0.3)
    options.close_httpservers()
    options.close_logger()
    log(f"all stopped. The outputs are in {data_dir}. The next start continues with them.")


if __name__ == "__main__":
    main()
