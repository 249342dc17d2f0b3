"""The proxy of the fault lab does what each behaviour says, between a real replay and a client."""

import json
from collections.abc import Iterator

import pytest
from websocket import WebSocket, WebSocketException, WebSocketTimeoutException, create_connection

from faults import lab, servers
from faults.stack import Feed
from feed.sample import SAMPLE
from local.ports import free_ports

SUBSCRIBE = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker", "heartbeat"]}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    lab.prepare(SAMPLE, folder / "r.jsonl", 1800)
    port, feed_port = free_ports(2)
    feed = Feed(folder / "r.jsonl", 20.0, feed_port, folder / "feed.log")
    try:
        with servers.Proxy(port, feed_port) as running:
            yield running
    finally:
        feed.stop()


@pytest.fixture(autouse=True)
def correct_again(proxy: servers.Proxy) -> Iterator[None]:
    yield
    proxy.behave()


def connect(proxy: servers.Proxy) -> WebSocket:
    client = create_connection(f"ws://127.0.0.1:{proxy.port}", timeout=2)
    client.send(json.dumps(SUBSCRIBE))
    return client


def received(client: WebSocket, count: int) -> list[dict[str, object]]:
    return [json.loads(client.recv()) for _ in range(count)]


def end_of(proxy: servers.Proxy, client: WebSocket | None) -> str:
    """Read until nothing arrives any more and return why."""
    try:
        client = client or connect(proxy)
        client.settimeout(0.8)
        while client.recv():
            pass
    except WebSocketTimeoutException:
        return "timeout"
    except (WebSocketException, OSError):
        pass
    return "closed"


def test_it_forwards_everything_but_the_description_of_the_replay(proxy: servers.Proxy) -> None:
    client = connect(proxy)
    messages = received(client, 30)
    client.shutdown()
    assert {m["type"] for m in messages} == {"subscriptions", "heartbeat", "ticker"}
    assert not any("replay" in m for m in messages)


@pytest.mark.parametrize(
    ("behaviour", "types"),
    [
        (servers.Only(lambda frame: not frame.is_ticker), {"subscriptions", "heartbeat"}),
        (servers.Only(lambda frame: not frame.is_heartbeat), {"subscriptions", "ticker"}),
    ],
)
def test_it_discards_one_kind_of_message(
    proxy: servers.Proxy, behaviour: servers.Behaviour, types: set[str]
) -> None:
    proxy.behave(behaviour)
    client = connect(proxy)
    assert {m["type"] for m in received(client, 3)} == types
    client.shutdown()


@pytest.mark.parametrize(
    "behaviour",
    [
        servers.Close(after=3, code=1001, times=1),
        servers.Close(after=3, code=None, times=1),
        servers.HalfFrame(0),
        servers.Answer(servers.http_answer("503 Service Unavailable", "<html>")),
    ],
)
def test_it_ends_the_connection(proxy: servers.Proxy, behaviour: servers.Behaviour) -> None:
    proxy.behave(behaviour)
    assert end_of(proxy, None) == "closed"


@pytest.mark.parametrize("behaviour", [servers.Silence(), servers.Trickle(1.0)])
def test_no_message_arrives_until_the_behaviour_changes(
    proxy: servers.Proxy, behaviour: servers.Behaviour
) -> None:
    client = connect(proxy)
    received(client, 5)
    proxy.behave(behaviour)
    assert end_of(proxy, client) == "timeout"
    proxy.behave()
    client.shutdown()
    assert len(received(connect(proxy), 5)) == 5


def test_it_sets_back_the_time_of_some_trades_and_keeps_what_it_sent(proxy: servers.Proxy) -> None:
    late = servers.Late(2, lambda: 100.0)
    proxy.behave(late)
    client = connect(proxy)
    sent = {m["trade_id"]: m for m in received(client, 30) if m["type"] == "ticker"}
    client.shutdown()
    rewritten = {i: json.loads(text) for i, text in late.rewritten.items() if i in sent}
    assert len(rewritten) >= len(sent) // 3
    assert all(sent[i] == message for i, message in rewritten.items())


def test_messages_of_the_lab_arrive_between_those_of_the_feed(proxy: servers.Proxy) -> None:
    client = connect(proxy)
    received(client, 3)
    assert proxy.send([b"one", b"two"]) == 2
    found = [client.recv() for _ in range(20)]
    client.shutdown()
    assert [m for m in found if m in {"one", "two"}] == ["one", "two"]


def test_a_refusing_proxy_accepts_connections_again(proxy: servers.Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.listen()
    assert received(connect(proxy), 3)
