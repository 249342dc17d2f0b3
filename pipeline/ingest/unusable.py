"""Detect that the feed sends no usable trade: every message is rejected for the same reason."""

import re
from datetime import datetime, timedelta
from typing import Any

#: For how long this must last. A few invalid messages in a row do not make a feed unusable.
UNUSABLE_AFTER = timedelta(seconds=10)
_PRODUCT = re.compile(r"product_id: '(.+)' is not (.+)")


class SameRejections:
    """Counts the messages that were rejected for the same reason, one after the other."""

    def __init__(self) -> None:
        self._reason = ""
        self._messages = 0
        self._since: datetime | None = None
        self._until: datetime | None = None

    def on_rejected(self, reason: str, received: datetime) -> None:
        """Count a rejected message."""
        if reason != self._reason:
            self._reason, self._messages, self._since = reason, 0, received
        self._messages += 1
        self._until = received

    def on_trade(self) -> None:
        """Record that a message was a valid trade."""
        self._reason, self._messages = "", 0
        self._since = self._until = None

    def as_status(self) -> dict[str, Any] | None:
        """Return the field `unusable` of the status file; None if trades are usable."""
        if self._since is None or self._until is None:
            return None
        if self._until - self._since < UNUSABLE_AFTER:
            return None
        text = description(self._reason, self._messages)
        return {"since": self._since, "messages": self._messages, "text": text}


def description(reason: str, messages: int) -> str:
    """Return why no message is usable, and what to do."""
    if of := _PRODUCT.fullmatch(reason):
        return (
            f"No usable trade: {messages:,} messages are for {of[1]}, PRODUCT_ID is {of[2]}. "
            "Correct PRODUCT_ID or FEED_URL"
        )
    return f"No usable trade: {messages:,} messages are rejected, reason: {reason}. Check FEED_URL"
