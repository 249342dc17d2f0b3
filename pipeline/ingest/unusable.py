"""Detect a feed without a usable trade: every message is rejected for the same kind of reason.

The text of a reason often quotes a value that differs from message to message; its kind does not.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pipeline.ingest.trade import AFTER_RECEIPT, kind_of

#: For how long this must last. A few invalid messages in a row do not make a feed unusable.
UNUSABLE_AFTER = timedelta(seconds=10)
#: Maximum number of products in the text.
NAMED = 3
_PRODUCT = re.compile(r"product_id: '(.+)' is not (.+)")


class SameRejections:
    """Counts the messages that were rejected for the same kind of reason, one after the other."""

    def __init__(self) -> None:
        self._kind: str | None = None
        #: The first different reasons, and the newest one.
        self._reasons: list[str] = []
        self._newest = ""
        self._messages = 0
        self._since: datetime | None = None
        #: The time of the newest rejection on the current connection. None: there was none.
        self._until: datetime | None = None

    def on_connect(self) -> None:
        """Record that a new connection began.

        Only a rejection on this connection shows that the feed is unusable.
        """
        self._until = None

    def on_rejected(self, reason: str, received: datetime) -> None:
        """Count a rejected message."""
        kind = kind_of(reason)
        if kind != self._kind:
            self._kind, self._reasons, self._messages, self._since = kind, [], 0, received
        if reason not in self._reasons and len(self._reasons) <= NAMED:
            self._reasons.append(reason)
        self._newest = reason
        self._messages += 1
        self._until = received

    def on_trade(self) -> None:
        """Record that a message was a valid trade."""
        self._kind = self._since = self._until = None

    def as_status(self) -> dict[str, Any] | None:
        """Return the field `unusable` of the status file; None if trades are usable."""
        if self._since is None or self._until is None:
            return None
        if self._until - self._since < UNUSABLE_AFTER:
            return None
        text = description(self._reasons, self._newest, self._messages)
        return {"since": self._since, "messages": self._messages, "text": text}


def description(reasons: Sequence[str], newest: str, messages: int) -> str:
    """Return why no message is usable, and what to do.

    Args:
        reasons: The first different reasons, up to one more than NAMED.
        newest: The reason of the newest message.
        messages: The number of rejected messages.
    """
    products = [of for reason in reasons if (of := _PRODUCT.fullmatch(reason))]
    if products and len(products) == len(reasons):
        names = sorted(of[1] for of in products)
        if len(names) > NAMED:
            names[NAMED:] = ["other products"]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        return (
            f"No usable trade: {messages:,} messages are for {listed}, but PRODUCT_ID is "
            f"{products[0][2]}. Correct PRODUCT_ID or FEED_URL"
        )
    by_clock = newest.endswith(AFTER_RECEIPT)
    checked = "the clock of this machine and FEED_URL" if by_clock else "FEED_URL"
    label = "Reason" if len(reasons) == 1 else "Newest reason"
    return (
        f"No usable trade: {messages:,} messages were rejected. Check {checked}. {label}: {newest}"
    )
