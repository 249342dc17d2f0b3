"""Publish a WebSocket feed, as tutorials do: `python producer.py FEED_URL SERVERS TOPIC`."""

import json
import sys
from typing import Any

import websocket
from kafka import KafkaProducer

feed_url, servers, topic = sys.argv[1:]

producer = KafkaProducer(
    bootstrap_servers=servers,
    value_serializer=lambda value: json.dumps(value).encode("utf-8"),
)


def on_open(ws: Any) -> None:
    subscribe = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]}
    ws.send(json.dumps(subscribe))


def on_message(_ws: Any, message: str) -> None:
    data = json.loads(message)
    if data.get("type") == "ticker":
        producer.send(topic, data)


def on_error(_ws: Any, error: Any) -> None:
    print(f"error: {error}")


websocket.WebSocketApp(
    feed_url, on_open=on_open, on_message=on_message, on_error=on_error
).run_forever()
