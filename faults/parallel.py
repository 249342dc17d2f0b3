"""Run several stacks at the same time, each in a process of its own."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from faults.verdict import Row

#: Seconds in which an interrupted process ends its stack.
END_SECONDS = 90.0

Work = Callable[[], list[Row]]


def run(stacks: Mapping[str, Work], jobs: int) -> Generator[tuple[str, list[Row] | None]]:
    """Yield the rows of each stack as soon as it ends; None if its process ended without any.

    Args:
        stacks: by the name of the stack, the function that runs it and returns its rows.
        jobs: stacks that run at the same time.
    """
    waiting = list(stacks.items())
    running: dict[Connection, tuple[str, ForkProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, work = waiting.pop(0)
                receiver, process = _start(work)
                running[receiver] = name, process
            for receiver in running.keys() & set(wait(list(running))):
                rows: list[Row] | None = None
                with contextlib.suppress(EOFError):
                    rows = receiver.recv()
                name, process = running.pop(receiver)
                process.join()
                yield name, rows
    finally:  # processes still run only after an interruption
        for _, process in running.values():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
        for _, process in running.values():
            process.join(END_SECONDS)


def _start(work: Work) -> tuple[Connection, ForkProcess]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # The method `spawn` would have to pickle the faults, but lambdas cannot be pickled.
    process = multiprocessing.get_context("fork").Process(target=_work, args=(work, sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    return receiver, process


def _work(work: Work, sender: Connection) -> None:
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()  # Ctrl-C reaches only the parent, which passes it on once
    with contextlib.suppress(KeyboardInterrupt):
        sender.send(work())
