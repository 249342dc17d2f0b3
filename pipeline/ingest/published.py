"""The newest published trades, to find repeated and conflicting messages. Pure."""

from typing import Literal

from pipeline.ingest.trade import Trade

#: How many of the newest published trades are remembered.
REMEMBERED_TRADES = 200_000

Outcome = Literal["published", "repeated", "conflicting"]


class PublishedTrades:
    """Remembers the id and a digest of the content of each published trade, oldest first."""

    def __init__(self, capacity: int = REMEMBERED_TRADES) -> None:
        self._capacity = capacity
        self._digests: dict[int, int] = {}

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
        return "repeated" if known == _digest(trade) else "conflicting"

    def add(self, trade: Trade) -> None:
        """Remember a published trade, and forget the oldest one if there are too many."""
        self._digests[trade.trade_id] = _digest(trade)
        if len(self._digests) > self._capacity:
            del self._digests[next(iter(self._digests))]


def _digest(trade: Trade) -> int:
    """Return a digest of the fields that the consumer compares."""
    return hash((trade.time, trade.side, float(trade.price), float(trade.last_size)))
