"""The exchange's REST interface for past trades, served from a recording.

`GET /products/<product>/trades?after=<id>&limit=<n>` returns the newest trades with an id below
`after`, newest first, at most 1000. The headers `cb-before` and `cb-after` hold the newest and the
oldest id of the page. As on the exchange, `side` is the side of the maker, and a trade is served
once the replay has played its message, whether or not a client received it.

A message that is not a valid trade is not served. Of several messages with one trade id, the first
one is served.
"""

import asyncio
import http
import json
import logging
import re
import sqlite3
import threading
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Response

from feed import recording
from feed.retime import SECOND, Tiles
from pipeline import times
from pipeline.ingest import trade

#: Maximum number of trades in a page.
PAGE_TRADES = 1000
#: Seconds over which the requests are counted, and which a client has to wait after too many.
RATE_SECONDS = 1
#: Characters of a request in the log.
PATH_CHARACTERS = 100
_PATH = re.compile(r"/products/([^/]+)/trades")
_ID = re.compile(r"[0-9]{1,19}", re.ASCII)
#: The side of the maker, by the side of the taker.
MAKER = {"buy": "sell", "sell": "buy"}

log = logging.getLogger("feed")

#: A trade id and the trade as the exchange's REST interface serves it.
Served = tuple[int, dict[str, object]]


class PlayedTrades(Protocol):
    """The trades that the replay has played so far."""

    def below(self, after: int | None, limit: int) -> list[Served]:
        """Return the newest played trades with an id below `after` (None: all), newest first."""


class RecordedTrades:
    """The trades of a recording that is played as recorded.

    The first request reads the recording up to the message that is played, and each later one
    continues there. A temporary file holds the trades, because a recording can be long.

    Args:
        lines: the lines of the recording.
        product: the product to serve.
        played: returns how many lines are played.
    """

    def __init__(
        self, lines: Iterator[recording.Line], product: str, played: Callable[[], int]
    ) -> None:
        self._lines = lines
        self._product = product
        self._played = played
        self._read = 0
        self._table = sqlite3.connect("", check_same_thread=False)
        self._table.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, body TEXT NOT NULL)")

    def below(self, after: int | None, limit: int) -> list[Served]:
        self._table.executemany("INSERT OR IGNORE INTO trades VALUES (?, ?)", self._new())
        rows = self._table.execute(
            "SELECT id, body FROM trades WHERE id < ? ORDER BY id DESC LIMIT ?",
            (2**63 - 1 if after is None else min(after, 2**63 - 1), limit),
        )
        return [(trade_id, json.loads(body)) for trade_id, body in rows]

    def _new(self) -> Iterator[tuple[int, str]]:
        end = self._played()
        while self._read < end and (line := next(self._lines, None)) is not None:
            self._read += 1
            for trade_id, body in served(line.frame, self._product):
                yield trade_id, json.dumps(body)


class RetimedTrades:
    """The trades of a re-timed recording: all of them back to the first tile."""

    def __init__(self, tiles: Tiles, product: str, clock: Callable[[], float]) -> None:
        self._tiles = tiles
        self._product = product
        self._clock = clock
        #: The sorted ids in the recording, and the position of each trade in a tile.
        self._ids, self._places = array("q"), array("q")

    def below(self, after: int | None, limit: int) -> list[Served]:
        if not self._ids:
            self._read_tile()
        tiles, ids = self._tiles, self._ids
        due = tiles.first_after(int(self._clock() * SECOND))
        newest_tile = due // tiles.count
        tile, rest = newest_tile + 1, 0
        if after is not None:
            tile, rest = min(
                (tile, rest), divmod(after - tiles.trade_ids.first, len(tiles.trade_ids))
            )
        place = bisect_left(ids, tiles.trade_ids.first + rest)
        page: list[Served] = []
        while len(page) < limit and tile >= 0 and ids:
            if place == 0:
                tile, place = tile - 1, len(ids)
                continue
            place -= 1
            position = tile * tiles.count + self._places[place]
            if position < due:
                page += served(tiles.frame(position), self._product)
        return page

    def _read_tile(self) -> None:
        known: dict[int, int] = {}
        for place in range(self._tiles.count):
            for trade_id, _ in served(self._tiles.frame(place), self._product):
                if trade_id in self._tiles.trade_ids:
                    known.setdefault(trade_id, place)
        self._ids = array("q", sorted(known))
        self._places = array("q", (known[trade_id] for trade_id in self._ids))


def served(frame: bytes, product: str) -> list[Served]:
    """Return the trade in a message as the exchange serves it; nothing if it is not a valid one."""
    try:
        valid = trade.decode(frame, product, times.now())
    except trade.InvalidTradeError:
        return []
    body: dict[str, object] = {
        "time": times.iso(valid.time),
        "trade_id": valid.trade_id,
        "price": valid.price,
        "size": valid.last_size,
        "side": MAKER[valid.side],
    }
    return [(valid.trade_id, body)]


class Rest:
    """Answers the requests for past trades.

    Args:
        trades: the played trades.
        product: the product to serve.
        rate: requests per second; a further one gets the status 429.
        newest: how many of the newest ids are served; None: all.
        failures: how many of the first requests fail, each in the next of `FAILURES`.
    """

    def __init__(
        self,
        trades: PlayedTrades,
        product: str,
        *,
        rate: int,
        newest: int | None,
        failures: int,
    ) -> None:
        self._trades = trades
        self._product = product
        self._rate = rate
        self._newest = newest
        self._failures = failures
        self._requests: deque[float] = deque()
        self._failed = 0
        #: Held in the thread that reads. It goes on when its request is cancelled.
        self._one_at_a_time = threading.Lock()

    async def answer(self, path: str) -> Response | None:
        """Return the answer to a request; None if the path is not that of past trades."""
        url = urlsplit(path)
        match = _PATH.fullmatch(url.path)
        if match is None:
            return None
        response = await self._answer(match[1], url.query)
        log.info("GET %s: status %d", path[:PATH_CHARACTERS], response.status_code)
        return response

    async def _answer(self, product: str, query_string: str) -> Response:
        if self._is_too_fast(time.monotonic()):
            return _error(429, "Public rate limit exceeded", {"Retry-After": str(RATE_SECONDS)})
        if self._failed < self._failures:
            self._failed += 1
            return FAILURES[(self._failed - 1) % len(FAILURES)]()
        if product != self._product:
            return _error(404, "NotFound")
        query = parse_qs(query_string)
        after, limit = (query.get(name, [None])[-1] for name in ("after", "limit"))
        for name, value in (("after", after), ("limit", limit)):
            if value is not None and not (_ID.fullmatch(value) and int(value) > 0):
                return _error(400, f"Invalid {name}")
        page = await asyncio.to_thread(
            self._page,
            None if after is None else int(after),
            min(PAGE_TRADES, int(limit or PAGE_TRADES)),
        )
        cursors = {"cb-before": str(page[0][0]), "cb-after": str(page[-1][0])} if page else {}
        return json_response(200, [body for _, body in page], cursors)

    def _page(self, after: int | None, limit: int) -> list[Served]:
        with self._one_at_a_time:
            page = self._trades.below(after, limit)
            if self._newest is None:
                return page
            newest = self._trades.below(None, 1)
        return [(number, body) for number, body in page if number > newest[0][0] - self._newest]

    def _is_too_fast(self, now: float) -> bool:
        while self._requests and now - self._requests[0] >= RATE_SECONDS:
            self._requests.popleft()
        if len(self._requests) >= self._rate:
            return True
        self._requests.append(now)
        return False


def json_response(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    """Return an HTTP response with a JSON body."""
    return _response(status, json.dumps(value, separators=(",", ":")).encode() + b"\n", headers)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return json_response(status, {"message": message}, headers)


def _response(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    fields = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **(headers or {}),
    }
    return Response(status, http.HTTPStatus(status).phrase, Headers(fields), body)


#: The ways in which a request can fail.
FAILURES: tuple[Callable[[], Response], ...] = (
    lambda: _error(500, "Internal server error"),
    lambda: _error(503, "Service unavailable", {"Retry-After": str(RATE_SECONDS)}),
    lambda: _response(200, b"<html>Please wait</html>\n"),
    lambda: _response(200, b'[{"trade_id": 1, "pri'),
    lambda: _error(429, "Public rate limit exceeded"),
)
