"""Past trades from the exchange's REST interface: one page of them."""

import http.client
import json
import math
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pipeline.errors import TemporaryError, sentence
from pipeline.ingest.connect_failure import connect_failure, status_failure
from pipeline.ingest.proxy import proxy_for, through
from pipeline.ingest.request_deadline import RequestDeadline

#: Trades in a page: the maximum that the exchange allows.
PAGE_TRADES = 1000
#: Seconds for a whole request, and for each step of it: to connect, to read.
REQUEST_SECONDS = 20.0
STEP_SECONDS = 10.0
#: Bytes of the longest answer. A page has about 120 bytes for each trade.
ANSWER_BYTES = 1_000_000
#: Seconds. The longest wait before the next request, even if the server asks for more.
LONGEST_WAIT_SECONDS = 3600.0
#: The side of the taker, by the side of the maker, which the exchange gives.
TAKER = {"buy": "sell", "sell": "buy"}


class RestError(TemporaryError):
    """A request failed.

    Attributes:
        retry_after: seconds that the server asks to wait; None if it did not.
        lasting: whether a retry only helps after a change of the settings or of the server.
    """

    def __init__(
        self, text: str, retry_after: float | None = None, *, lasting: bool = False
    ) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        self.lasting = lasting


@dataclass(frozen=True)
class PastTrade:
    """A trade that the exchange served: its id, and a `ticker` message with its content."""

    trade_id: int
    message: bytes


def rest_url(feed_url: str) -> str:
    """Return the address of the REST interface that belongs to a WebSocket address.

    The exchange has `api.` in the place of `ws-feed.`; a replay serves both on one port.
    """
    url = urlsplit(feed_url)
    scheme = "https" if url.scheme == "wss" else "http"
    place = url.netloc.rpartition("@")[2]
    if place.startswith("ws-feed"):
        place = "api" + place.removeprefix("ws-feed")
    return f"{scheme}://{place}"


def fetch_trades(base: str, product: str, after: int) -> list[PastTrade]:
    """Return the newest trades with an id below `after`, newest first, at most one page.

    Raises:
        RestError: the request failed, or the answer is not such a page.
    """
    path = f"/products/{product}/trades?after={after}&limit={PAGE_TRADES}"
    try:
        return parse_page(_get(base.rstrip("/"), path), product, after, base)
    except RestError:
        raise
    except Exception as error:
        # An answer can have any content, so no failure of a request may end the producer.
        raise _failed(sentence(error), f"Address: {base}") from error


def parse_page(body: bytes, product: str, after: int, base: str) -> list[PastTrade]:
    """Return the trades in an answer, newest first.

    Raises:
        RestError: the answer is not a list of trades, or none of them has an id below `after`.
    """
    try:
        rows = msgspec.json.decode(body, type=list[dict[str, Any]])
        trades = {row["trade_id"]: row for row in rows}
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError):
        raise RestError(
            "no past trades: the answer is not a list of trades. Check FEED_REST_URL. "
            f"Address: {base}. The answer begins with {body[:60]!r}"
        ) from None
    wrong = [number for number in trades if type(number) is not int or number < 1]
    below = [] if wrong else sorted((n for n in trades if n < after), reverse=True)
    if trades and not below:
        shown = (wrong or list(trades))[0]
        raise RestError(
            f"no past trades: wrong trade ids. Check FEED_REST_URL. Address: {base}. The answer "
            f"has {shown!r}, although ids below {after} were requested"
        )
    return [PastTrade(number, _ticker(product, trades[number])) for number in below]


def _ticker(product: str, row: Mapping[str, Any]) -> bytes:
    """Return a trade as a `ticker` message. The rules for messages decide whether it is valid."""
    names = {"trade_id": "trade_id", "price": "price", "size": "last_size", "time": "time"}
    message = {"type": "ticker", "product_id": product}
    message |= {name: row[given] for given, name in names.items() if given in row}
    if isinstance(side := row.get("side"), str):
        message["side"] = TAKER.get(side, side)
    return json.dumps(message).encode()


# --- HTTP -----------------------------------------------------------------------------------


def _get(base: str, path: str) -> bytes:
    """Return the body of an answer.

    Raises:
        RestError: no answer within `REQUEST_SECONDS`, or an answer with another status than 200.
    """
    address = f"Address: {base}"
    proxy = None
    headers = {"User-Agent": "stream-vs-batch", "Accept": "application/json"}
    with RequestDeadline(REQUEST_SECONDS) as deadline:
        try:
            parts = urlsplit(base)
            proxy = proxy_for(parts.hostname or "", secure=parts.scheme == "https")
            address += through(proxy)
            request = urllib.request.Request(base + path, headers=headers)  # noqa: S310 - http(s)
            opener = deadline.opener(through_proxy=proxy is not None)
            with opener.open(request, timeout=STEP_SECONDS) as answer:
                body: bytes = answer.read(ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise _refusal(error, address) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.expired:
                raise _too_late(address) from None
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            cause = reason if isinstance(reason, Exception) else ValueError(reason)
            if proxy is not None and _is_of_proxy(cause):
                why = proxy.failure(sentence(cause))
                raise RestError(f"no past trades: {why}. Address: {base}") from None
            why, lasting = connect_failure(cause, "FEED_REST_URL")
            raise _failed(why, address, lasting=lasting) from None
    if deadline.expired:
        raise _too_late(address)
    if len(body) > ANSWER_BYTES:
        raise RestError(
            f"no past trades: the answer is too long. Check FEED_REST_URL. The maximum is "
            f"{ANSWER_BYTES:,} bytes. {address}"
        )
    return body


def _is_of_proxy(cause: Exception) -> bool:
    """Return whether a request through a proxy failed at the proxy, not behind it."""
    # The first answer is that of the proxy.
    if isinstance(cause, ConnectionRefusedError | socket.gaierror | http.client.BadStatusLine):
        return True
    return str(cause).startswith("Tunnel connection failed")  # the text of `http.client`


def _failed(
    why: str, address: str, retry_after: float | None = None, *, lasting: bool = False
) -> RestError:
    then = "" if lasting else ". The producer tries again"
    return RestError(f"no past trades: {why}{then}. {address}", retry_after, lasting=lasting)


def _too_late(address: str) -> RestError:
    return _failed(f"no complete answer within {REQUEST_SECONDS:g} s", address)


def _refusal(error: urllib.error.HTTPError, address: str) -> RestError:
    why, lasting = status_failure(error.code, f"{error.code} {error.reason}", "FEED_REST_URL")
    retry_after = seconds_to_wait(error.headers.get("Retry-After"), datetime.now(UTC))
    error.close()
    return _failed(why, address, retry_after, lasting=lasting)


def seconds_to_wait(retry_after: str | None, now: datetime) -> float | None:
    """Return the seconds in a header `Retry-After`: a number of seconds or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return min(max(0.0, seconds), LONGEST_WAIT_SECONDS) if math.isfinite(seconds) else None
