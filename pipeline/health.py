"""The health check of a service: its status file is new and its state is healthy.

A service is healthy while its main loop keeps turning. This module imports little, because the
check runs every few seconds in every container and imports are most of its cost.
"""

import sys
from datetime import datetime
from pathlib import Path

from pipeline import outputs, times

#: Seconds. If its status file is older, a service hangs or is down.
STALE_SECONDS = 30.0


def health(data: outputs.DataDir, name: str, now: datetime) -> str | None:
    """Return why a service is unhealthy, in one sentence; None if it is healthy."""
    try:
        status = outputs.read_status(data, name)
        age = (now - datetime.fromisoformat(status["updated"])).total_seconds()
    except (outputs.OutputError, KeyError, TypeError, ValueError):
        return f"{name} has no readable status file"
    if age > STALE_SECONDS:
        return f"no heartbeat from {name} for {age:.0f} s"
    if not status.get("healthy"):
        return f"{name} is {status.get('state')}: {status.get('message')}"
    return None


def main() -> None:
    """Run `python -m pipeline.health NAME DATA_DIR`: exit status 1 and a sentence if unhealthy."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m pipeline.health NAME DATA_DIR (NAME is the name of a service)")
    _, name, folder = sys.argv
    sys.exit(health(outputs.DataDir(Path(folder)), name, times.now()))


if __name__ == "__main__":
    main()
