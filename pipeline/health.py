"""Whether a service does its job: what its status file says, and how old that is.

Apart from `service.py` and without settings: the check runs every few seconds in every container,
and what it imports is most of what it costs.
"""

import sys
from datetime import datetime
from pathlib import Path

from pipeline import outputs, times

#: A status file older than this, in seconds, means that the service hangs or is down.
STALE_SECONDS = 30.0


def health(data: outputs.DataDir, name: str, now: datetime) -> str | None:
    """Why a service is unhealthy, in one sentence; None when it does its job."""
    try:
        status = outputs.read_status(data, name)
        age = (now - datetime.fromisoformat(status["updated"])).total_seconds()
    except (outputs.OutputError, KeyError, TypeError, ValueError):
        return f"{name} has not written a status that can be read"
    if age > STALE_SECONDS:
        return f"{name} has not been heard of for {age:.0f} s"
    if not status.get("healthy"):
        return f"{name} is {status.get('state')}: {status.get('message')}"
    return None


def main() -> None:
    """`python -m pipeline.health NAME DATA_DIR`; status 1 and a sentence if it is unhealthy."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m pipeline.health NAME DATA_DIR, with the name of one service")
    _, name, folder = sys.argv
    sys.exit(health(outputs.DataDir(Path(folder)), name, times.now()))


if __name__ == "__main__":
    main()
