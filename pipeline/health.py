"""The health check of a service: its status file is new and its state is healthy.

A service is healthy while its main loop keeps turning. The status file has the time of the newest
heartbeat on the wall clock and on the monotonic clock, which does not change when the wall clock is
set.

This module imports little, because the check runs every few seconds in every container and imports
are most of its cost.
"""

import errno
import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from pipeline import outputs, times
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError, sentence

#: Seconds. If its status file is older, a service hangs or is down.
STALE_SECONDS = 30.0
#: Bytes. With less free space, a disk counts as full. The free space of a full disk changes a
#: little, because the services still create and delete files.
LEAST_FREE_BYTES = 1 << 20
#: With fewer free inodes, a disk counts as full for the same reason.
LEAST_FREE_INODES = 16
#: What to do about a service without a heartbeat.
READ_THE_LOG = "Check that it runs, and read its log"


@cache
def _clock() -> str | None:
    """Return the identity of the monotonic clock of this process; None if it is unknown.

    All processes and containers on one boot of a machine share the clock, except in a time
    namespace of their own. macOS does not have the two files that identify the clock.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/time')}"  # noqa: PTH115 - no path
    except OSError:
        return None


def heartbeat() -> dict[str, Any]:
    """Return the current time on the monotonic clock, in the format of a status file."""
    # Not rounded: a value that is rounded up lies in the future for half a millisecond.
    return {"clock": _clock(), "monotonic_s": time.monotonic()}


def on_this_clock(status: Mapping[str, Any], now: datetime) -> Mapping[str, Any]:
    """Return a status with `updated` converted to the current setting of the wall clock.

    If this process has the same monotonic clock, the age of the heartbeat is exact, even if the
    wall clock was set since then. Otherwise the status stays as it is.

    Args:
        status: the content of a status file.
        now: the current time on the wall clock.
    """
    beat = status.get("heartbeat")
    if not isinstance(beat, Mapping) or _clock() is None or beat.get("clock") != _clock():
        return status
    at = beat.get("monotonic_s")
    if not isinstance(at, int | float) or not 0 <= (age := time.monotonic() - at) < 1e9:
        return status
    return {**status, "updated": (now - timedelta(seconds=age)).isoformat()}


def full_disk(folder: Path) -> str | None:
    """Return the sentence of the services about a full disk; None if the disk has free space.

    On a full disk, a service cannot write its status file, so only its log has the reason.

    Args:
        folder: the data directory, or a directory on the same disk.
    """
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    free_blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail  # some are only for root
    is_full = free_blocks * disk.f_frsize < LEAST_FREE_BYTES and disk.f_blocks > 0
    if is_full:
        return sentence(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    if disk.f_files > 0 and disk.f_favail < LEAST_FREE_INODES:
        return "No inodes left on device: delete files on the disk of DATA_DIR"
    return None


def no_status_text(text: str, action: str, full: str | None) -> str:
    """Return the text about a service that writes no status, with what to do.

    Args:
        text: what is missing, such as `no heartbeat from producer for 31 s`.
        action: what to do; empty if nothing is wrong.
        full: the sentence about the full disk (`full_disk`). It replaces the action.
    """
    if full:
        return f"{full} ({text})"
    return f"{text}. {action}" if action else text


def unhealthy_text(name: str, state: object, message: object) -> str:
    """Return the state and the message of an unhealthy service on one line.

    The page and the health check of a container show the same text.
    """
    return f"{name} ({state}): {message}"


def health(data: DataDir, name: str, now: datetime) -> str | None:
    """Return why a service is unhealthy, in one sentence; None if it is healthy."""
    try:
        status = on_this_clock(outputs.read_status(data, name), now)
        age = (now - datetime.fromisoformat(status["updated"])).total_seconds()
    except (OutputError, KeyError, TypeError, ValueError):
        text, action = f"{name} has no readable status file", "Check that the service runs"
        return no_status_text(text, action, full_disk(data.root))
    if age > STALE_SECONDS:
        text, action = f"no heartbeat from {name} for {age:.0f} s", READ_THE_LOG
        return no_status_text(text, action, full_disk(data.root))
    if age < -STALE_SECONDS:
        return (
            f"{name} hangs, or the clock was set back: its newest heartbeat is {-age:.0f} s in the "
            "future. Check the clock of this machine, and the log of the service"
        )
    if not status.get("healthy"):
        return unhealthy_text(name, status.get("state"), status.get("message"))
    return None


def main() -> None:
    """Run `python -m pipeline.health NAME DATA_DIR`: exit status 1 and a sentence if unhealthy."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m pipeline.health NAME DATA_DIR (NAME is the name of a service)")
    _, name, folder = sys.argv
    sys.exit(health(DataDir(Path(folder)), name, times.now()))


if __name__ == "__main__":
    main()
