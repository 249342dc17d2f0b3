"""What is refused reaches Kafka before the database moves on: its offset decides the next start."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.ingest import loader as consumer
from pipeline.ingest import store


def test_nothing_is_stored_while_what_was_refused_is_not_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: list[object] = []
    monkeypatch.setattr(store, "store", lambda *given: stored.append(given))
    one: Any = object.__new__(consumer.Consumer)
    one._decode = lambda _records: SimpleNamespace(rejected=1)
    one._publisher = SimpleNamespace(flush=lambda: False)  # Kafka is away, and a stop was asked for
    one._service = SimpleNamespace(retrying=lambda *_: lambda do: do())
    one._store([])
    assert stored == []
