"""Send rejected messages to the dead-letter topic `raw_prices_rejected`, with the reason.

The status file shows the latest rejected messages and how many there are for each reason. The trade
ids of rejected messages are kept in a file of the service: they explain a gap.
"""

import json
from collections import Counter, deque
from datetime import datetime
from typing import Any

from pipeline import text_files
from pipeline.errors import sentence
from pipeline.ingest import trade
from pipeline.ingest.kafka import Sender
from pipeline.service import Service
from pipeline.times import iso

#: Bytes of a rejected message that go to Kafka.
KEPT_BYTES = 4096
#: Bytes. A longer file of rejected ids loses its older half.
IDS_BYTES = 1_000_000
#: How many rejected messages the status file shows, and how many characters of each.
LATEST = 10
CHARACTERS = 200
#: How many reasons are counted separately; all further reasons are counted as one.
REASONS = 20
OTHERS = "others"


class RejectedSummary:
    """The latest rejected messages and the number by reason, of bounded size."""

    def __init__(self) -> None:
        self._latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._reasons: Counter[str] = Counter()

    def add(self, message: str, size: int, reason: str, received: datetime) -> None:
        """Count a message under the kind of its reason, and keep the beginning of both."""
        kind = trade.kind_of(reason)[:CHARACTERS]
        if kind not in self._reasons and len(self._reasons) >= REASONS:
            kind = OTHERS
        self._reasons[kind] += 1
        shown = message if len(message) <= CHARACTERS else message[: CHARACTERS - 1] + "…"
        self._latest.append(
            {
                "reason": reason[:CHARACTERS],
                "received": iso(received),
                "bytes": size,
                "message": shown,
            }
        )

    def as_status(self) -> dict[str, Any]:
        """Return the field `rejected` of a status file; the newest message is the last one."""
        return {"reasons": dict(self._reasons.most_common()), "latest": list(self._latest)}


class DeadLetters:
    """Sends the messages that a service rejects to the dead-letter topic."""

    def __init__(self, service: Service, sender: Sender) -> None:
        self._service = service
        self._sender = sender
        self._summary = RejectedSummary()
        service.details["rejected"] = self._summary.as_status()

    def reject(
        self, raw: bytes, size: int, reason: str, received: datetime, *, send: bool = True
    ) -> None:
        """Send a rejected message to the dead-letter topic and show it in the status.

        Args:
            raw: the message, or its beginning.
            size: the size of the whole message in bytes.
            reason: why it is rejected.
            received: when it was received.
            send: False if the dead-letter topic already has it.
        """
        message = raw[:KEPT_BYTES].decode(errors="backslashreplace")
        self._summary.add(message, size, reason, received)
        self._service.details["rejected"] = self._summary.as_status()
        trade_id = trade.id_in(raw, self._service.settings.product_id)
        if trade_id is not None:
            self._keep_id(trade_id, reason, received)
        if not send:
            return
        record = {"reason": reason, "received": iso(received), "bytes": size, "message": message}
        topic = self._service.settings.rejected_topic
        self._sender.send(topic, json.dumps(record).encode(), received)

    def flush(self) -> bool:
        """Wait for the acknowledgement of all rejected messages; see `Sender.flush`."""
        return self._sender.flush()

    def _keep_id(self, trade_id: int, reason: str, received: datetime) -> None:
        path = self._service.data.rejected_by(self._service.name)
        row = {"trade_id": trade_id, "received": received, "reason": reason}
        try:
            text_files.append_csv(path, tuple(row), row, IDS_BYTES)
        except OSError as error:  # a full disk must not stop valid messages
            self._service.log.warning("cannot write %s. %s", path.name, sentence(error))
