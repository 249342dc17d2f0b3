"""Runs supervisor on the stack's configuration and tells the terminal what matters.

`local/up.py` becomes this process, so it is make's child: the signals that make passes on, and
those of the terminal, reach supervisor. The programs are in process groups of their own.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.datatypes import RestartUnconditionally
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

from local import stack

#: A program that ends again and again soon after its start is tried at least this often.
MOST_BACKOFF_SECONDS = 30
#: Supervisor looks at its programs so often, instead of each second: each step of an orderly end
#: would wait so long.
LOOK_SECONDS = 0.2


def say(text: str) -> None:
    """One line to the terminal; a closed one must not end the stack."""
    try:
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)
    except OSError:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good


class Stack(Supervisor):  # type: ignore[misc]
    """Supervisor, with its events told in plain words and its back-off capped."""

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(options)
        self._ended: set[str] = set()

    def runforever(self) -> None:
        # Here and not before: `run`, which calls this, clears what is subscribed.
        events.subscribe(events.ProcessStateExitedEvent, self._on_exit)
        events.subscribe(events.ProcessStateBackoffEvent, self._on_early_exit)
        events.subscribe(events.ProcessStateRunningEvent, self._on_running)
        events.subscribe(events.ProcessLogStdoutEvent, self._on_output)
        events.subscribe(events.SupervisorStoppingEvent, self._on_stopping)
        poller = self.options.poller
        poll = poller.poll
        poller.poll = lambda _seconds: poll(LOOK_SECONDS)
        super().runforever()

    def _on_exit(self, event: Any) -> None:
        process = event.process
        if event.expected and process.config.autorestart is not RestartUnconditionally:
            return  # it had one thing to do, and has done it
        how = "was killed" if process.exitstatus == -1 else f"ended, status {process.exitstatus}"
        self._tell_end(process, f"{how}; it starts again")

    def _on_early_exit(self, event: Any) -> None:
        process = event.process
        # Supervisor adds a second each time and has no bound of its own.
        process.backoff = min(process.backoff, MOST_BACKOFF_SECONDS - 1)
        self._tell_end(process, f"ended soon after its start; next try in {process.backoff} s")

    def _tell_end(self, process: Any, what: str) -> None:
        self._ended.add(process.config.name)
        say(f"{process.config.name} {what} (its log: {process.config.stdout_logfile})")

    def _on_running(self, event: Any) -> None:
        name = event.process.config.name
        if name in self._ended:
            self._ended.discard(name)
            say(f"{name} runs again")

    def _on_output(self, event: Any) -> None:
        for line in event.data.decode(errors="replace").splitlines():
            if line.strip():  # a line's end may come as an output of its own
                say(line)

    def _on_stopping(self, _event: Any) -> None:
        say("stopping: first the services, then the broker")
        # A program forked just now still has supervisor's own signal handlers: they would swallow
        # the request to end. Soon it is itself.
        time.sleep(0.3)


def main() -> None:
    data_dir = Path(os.environ["DATA_DIR"])
    options = ServerOptions()
    options.realize(["-c", str(stack.configuration(data_dir))])
    options.first, options.test = True, False
    with contextlib.suppress(asyncore.ExitNow):
        Stack(options).main()
    # What a killed service had started itself (a JVM, a batch run) goes with it.
    stack.end(stack.left_over(data_dir), wait_seconds=0.3)
    options.close_httpservers()
    options.close_logger()
    say(f"all stopped; what was made is in {data_dir}, and the next start continues it")


if __name__ == "__main__":
    main()
