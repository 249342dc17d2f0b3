"""The refused messages that a status file shows: the latest ones, and how many by reason. Bounded.

All of them lie in Kafka, in the rejected topic.
"""

from collections import Counter, deque
from datetime import datetime
from typing import Any

from pipeline.times import iso

#: Messages kept, and characters of each.
LATEST = 10
CHARACTERS = 200
#: Reasons told apart; what comes beyond them is counted together.
REASONS = 20
OTHERS = "others"


class Rejected:
    """What a service refused since its start."""

    def __init__(self) -> None:
        self._latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._reasons: Counter[str] = Counter()

    def note(self, message: str, size: int, reason: str, received: datetime) -> None:
        """Counts a message under the first words of its reason, and keeps its beginning."""
        kind = reason.partition(":")[0][:CHARACTERS]
        if kind not in self._reasons and len(self._reasons) >= REASONS:
            kind = OTHERS
        self._reasons[kind] += 1
        cut = message if len(message) <= CHARACTERS else message[: CHARACTERS - 1] + "…"
        said = {"reason": reason[:CHARACTERS], "received": iso(received), "bytes": size}
        self._latest.append({**said, "message": cut})

    def as_status(self) -> dict[str, Any]:
        """For the status file, the latest message last."""
        return {"reasons": dict(self._reasons.most_common()), "latest": list(self._latest)}
