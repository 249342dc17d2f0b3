"""The REST interface of the replay: which trades it serves, and how."""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.http11 import Response

from feed import rest, retime
from feed.recording import Line

START = datetime(2025, 6, 30, 12, tzinfo=UTC)
PATH = "/products/BTC-USD/trades"


def ticker(number: int, seconds: float, side: str = "buy", price: str = "90000.5") -> bytes:
    time = (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    message = {"type": "ticker", "product_id": "BTC-USD", "trade_id": number, "price": price}
    return json.dumps(message | {"side": side, "time": time, "last_size": "0.25"}).encode()


#: The id 13 is missing, 14 comes twice, and one message is no trade.
FRAMES = [
    ticker(11, 1),
    ticker(12, 2, "sell"),
    b"no message",
    ticker(15, 3),
    ticker(14, 3.5),
    ticker(14, 4, price="1"),
    ticker(16, 64),
]


def lines() -> Iterator[Line]:
    return (Line(frame, None) for frame in FRAMES)


def ask(server: rest.Rest, query: str = "", path: str = PATH) -> Response:
    response = asyncio.run(server.answer(path + query))
    assert response is not None
    return response


def ids(response: Response) -> list[int]:
    assert response.status_code == 200
    return [row["trade_id"] for row in json.loads(response.body)]


def recorded(played: int = len(FRAMES), **options: Any) -> rest.Rest:
    trades = rest.RecordedTrades(lines(), "BTC-USD", lambda: played)
    return rest.Rest(trades, "BTC-USD", **({"rate": 1000, "newest": None, "failures": 0} | options))


def test_a_request_that_is_cancelled_while_it_reads_the_recording_disturbs_no_other() -> None:
    def slow_lines() -> Iterator[Line]:
        for line in lines():
            time.sleep(0.05)
            yield line

    async def ask_twice(server: rest.Rest) -> Response | None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.answer(PATH), 0.1)
        return await server.answer(PATH)

    trades = rest.RecordedTrades(slow_lines(), "BTC-USD", lambda: len(FRAMES))
    server = rest.Rest(trades, "BTC-USD", rate=1000, newest=None, failures=0)
    response = asyncio.run(ask_twice(server))
    assert response is not None
    assert ids(response) == [16, 15, 14, 12, 11]


def test_trades_are_served_newest_first_with_the_makers_side() -> None:
    response = ask(recorded(), "?limit=2&after=13")
    assert json.loads(response.body) == [
        {
            "time": "2025-06-30T12:00:02Z",
            "trade_id": 12,
            "price": "90000.5",
            "size": "0.25",
            "side": "buy",  # the message has the taker's side
        },
        {
            "time": "2025-06-30T12:00:01Z",
            "trade_id": 11,
            "price": "90000.5",
            "size": "0.25",
            "side": "sell",
        },
    ]
    assert (response.headers["cb-before"], response.headers["cb-after"]) == ("12", "11")


def test_a_page_ends_at_its_limit_and_the_next_one_starts_below_it() -> None:
    server = recorded()
    pages = [ids(ask(server, f"?after={after}&limit=2")) for after in (17, 15, 12, 11)]
    assert pages == [[16, 15], [14, 12], [11], []]
    assert ids(ask(server)) == [16, 15, 14, 12, 11]
    assert ids(ask(server, f"?after={2**63}")) == [16, 15, 14, 12, 11]


def test_of_several_messages_with_one_id_the_first_is_served() -> None:
    (row,) = json.loads(ask(recorded(), "?after=15&limit=1").body)
    assert (row["trade_id"], row["price"]) == (14, "90000.5")


def test_trades_that_are_not_played_yet_are_not_served() -> None:
    played = 0
    trades = rest.RecordedTrades(lines(), "BTC-USD", lambda: played)
    assert trades.below(None, 10) == []
    played = 4
    assert [number for number, _ in trades.below(None, 10)] == [15, 12, 11]
    played = 7
    assert [number for number, _ in trades.below(None, 10)] == [16, 15, 14, 12, 11]


def test_a_re_timed_recording_serves_all_tiles_that_were_due() -> None:
    """Each answer is compared with all messages that were due before it."""
    tiles = retime.tile(lines(), int(START.timestamp() + 86_400) * retime.SECOND)
    now = retime.ORIGIN + 2 * tiles.period + 10 * retime.SECOND
    due: list[int] = []
    for position in range(tiles.first_after(now)):
        for number, _ in rest.served(tiles.frame(position), "BTC-USD"):
            due.append(number)
    expected = sorted(set(due))
    assert len(expected) == 2 * 5 + 4  # the third tile is played up to the second minute
    trades = rest.RetimedTrades(tiles, "BTC-USD", lambda: now / retime.SECOND)
    for after in (None, 1, *range(expected[0] - 1, expected[-1] + 5), 10**15):
        below = expected if after is None else expected[: bisect_left(expected, after)]
        for limit in (1, 3, 1000):
            found = [number for number, _ in trades.below(after, limit)]
            assert found == below[::-1][:limit], (after, limit)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/products/ETH-USD/trades", 404),
        (f"{PATH}?limit=0", 400),
        (f"{PATH}?limit=x", 400),
        (f"{PATH}?after=-1", 400),
        (f"{PATH}?after={10**30}", 400),
    ],
)
def test_a_bad_request_is_refused(path: str, status: int) -> None:
    response = ask(recorded(), path=path)
    assert response.status_code == status
    assert "message" in json.loads(response.body)


@pytest.mark.parametrize("path", ["/", "/health", "/products/BTC-USD/trades/7"])
def test_every_other_path_is_left_to_the_replay(path: str) -> None:
    assert asyncio.run(recorded().answer(path)) is None


def test_too_many_requests_in_a_second_are_refused() -> None:
    server = recorded(rate=3)
    responses = [ask(server) for _ in range(5)]
    assert [one.status_code for one in responses] == [200, 200, 200, 429, 429]
    assert responses[-1].headers["Retry-After"] == "1"


def test_the_first_requests_fail_if_asked_to() -> None:
    server = recorded(failures=6)
    failed = [ask(server) for _ in range(6)]
    assert [one.status_code for one in failed] == [500, 503, 200, 200, 429, 500]
    for broken in failed[2:4]:
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
            json.loads(broken.body)
    assert ids(ask(server, "?limit=1")) == [16]


def test_only_the_newest_ids_are_served_if_asked_to() -> None:
    server = recorded(newest=3)
    assert ids(ask(server)) == [16, 15, 14]
    assert ids(ask(server, "?after=14")) == []
