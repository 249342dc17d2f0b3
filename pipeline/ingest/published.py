"""The newest published trades, to find repeated and conflicting messages. Pure."""

from collections import deque
from typing import Literal

from pipeline.ingest.trade import Trade

#: How many of the newest published trades are remembered.
REMEMBERED_TRADES = 200_000

Outcome = Literal["published", "repeated", "conflicting"]


class PublishedTrades:
    """Remembers the id and a digest of the content of each published trade, oldest first."""

    def __init__(self) -> None:
        self._digests: dict[int, int] = {}
        #: The ids, oldest first. The first key of a dictionary is slow to find after deletions.
        self._ids: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._digests)

    def outcome(self, trade: Trade) -> Outcome:
        """Return what a received trade is counted as.

        A trade with the id of a published one and other content is `conflicting`. Only the newest
        content of an id is remembered.
        """
        known = self._digests.get(trade.trade_id)
        if known is None:
            return "published"
        return "repeated" if known == hash(trade.content) else "conflicting"

    def add(self, trade: Trade) -> None:
        """Remember a published trade, and forget the oldest one if there are too many."""
        if trade.trade_id not in self._digests:
            self._ids.append(trade.trade_id)
        self._digests[trade.trade_id] = hash(trade.content)
        if len(self._ids) > REMEMBERED_TRADES:
            del self._digests[self._ids.popleft()]
