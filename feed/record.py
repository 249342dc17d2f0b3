"""`python -m feed.record FILE`: records the exchange's feed, with receive times.

Writes the wire form that `feed/recording.py` describes, gzip if the name ends in `.gz`. All that
comes is written, bytes unchanged, but for subscription answers and heartbeats: a replay makes its
own. A killed recorder loses at most a second; what it wrote can be read.
"""

import argparse
import json
import logging
import random
import select
import signal
import ssl
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import websocket

from feed import recording

EXCHANGE = "wss://ws-feed.exchange.coinbase.com"
#: The file is flushed this often, seconds.
FLUSH_SECONDS = 0.5
#: A connection without any frame (heartbeats come each second) for so long is given up, seconds.
SILENCE_SECONDS = 15.0
CONNECT_SECONDS = 10.0
#: Seconds between two lines of progress in the log.
PROGRESS_SECONDS = 60.0
#: Seconds between two looks at the wish to stop.
_LOOK_SECONDS = 0.25

log = logging.getLogger("feed")


class Writer:
    """Writes lines to a file that can be read whenever the process ends.

    Raises:
        recording.RecordingError: from every method, when the file cannot be written.
    """

    def __init__(self, path: Path, mode: str, *, packed: bool) -> None:
        self._path = path
        with self._plainly():
            self._file = path.open(mode)
        self._packer = zlib.compressobj(wbits=31) if packed else None
        self._flushed = time.monotonic()
        self._dirty = False

    def write(self, line: bytes) -> None:
        data = line + b"\n"
        with self._plainly():
            self._file.write(self._packer.compress(data) if self._packer else data)
        self._dirty = True

    def flush(self) -> None:
        """Makes what was written readable, if that is due."""
        if not self._dirty or time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        with self._plainly():
            if self._packer:
                self._file.write(self._packer.flush(zlib.Z_SYNC_FLUSH))
            self._file.flush()
        self._flushed, self._dirty = time.monotonic(), False

    def close(self) -> None:
        with self._plainly(), self._file:
            if self._packer:
                self._file.write(self._packer.flush())

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise recording.RecordingError(
                f"{self._path} cannot be written: {error.strerror or error}"
            ) from error


def open_writer(path: Path, *, append: bool) -> Writer:
    """Makes a recording, or goes on with one.

    Raises:
        recording.RecordingError: the file exists and is not to be appended to, is no recording
            in the wire form, or cannot be written.
    """
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return Writer(path, "wb", packed=path.suffix == ".gz")
    if not append:
        raise recording.RecordingError(
            f"{path} exists already: choose another name, or go on with it by --append"
        )
    packed = recording.is_gzip(path)
    first = next(recording.raw_lines(path), None)
    if first is not None and not recording.is_wire_line(first):
        raise recording.RecordingError(
            f"{path} is not a recording with receive times: it cannot be appended to"
        )
    if not recording.is_whole(path):
        _mend(path, packed=packed)
    return Writer(path, "ab", packed=packed)


def _mend(path: Path, *, packed: bool) -> None:
    """Drops what a killed recorder left half-written at the end of its file."""
    mended = path.with_name(f".{path.name}.mended")
    writer = Writer(mended, "wb", packed=packed)
    for line in recording.raw_lines(path):
        # In a plain file the half line still stands there; a recorder writes no other such line.
        if packed or recording.is_wire_line(line):
            writer.write(line)
    writer.close()
    mended.replace(path)


def wire_line(frame: bytes, received: float, product: str) -> bytes:
    """A line of the wire form; bytes that are no UTF-8 are kept, as lone surrogates."""
    text = frame.decode("utf-8", "surrogateescape")
    wire = {"ts": received, "pair": product, "raw": text}
    return json.dumps(wire, separators=(",", ":")).encode()


def is_control(frame: bytes) -> bool:
    """Whether a frame is one that a replay makes itself."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") in {"subscriptions", "heartbeat"}


class Recorder:
    """Connects, records, connects again until it is told to stop."""

    def __init__(self, url: str, product: str, writer: Writer, stop: Event) -> None:
        self._url = url
        self._product = product
        self._writer = writer
        self._stop = stop
        self._logged = time.monotonic()
        self.recorded = 0

    def run(self, until: float) -> None:
        """Records until a moment of the monotonic clock, or until it is told to stop."""
        waits = backoff()
        while not self._over(until):
            heard = False
            try:
                for frame in self._frames(until):
                    heard = True
                    self._record(frame)
                if not self._over(until):
                    log.warning("nothing came for %g s: connecting again", SILENCE_SECONDS)
            except (OSError, websocket.WebSocketException) as error:
                log.warning("no connection to %s: %s", self._url, error)
            if heard:
                waits = backoff()
            if not self._over(until):
                self._stop.wait(min(next(waits), max(0.0, until - time.monotonic())))
            self._writer.flush()

    def _over(self, until: float) -> bool:
        return self._stop.is_set() or time.monotonic() >= until

    def _frames(self, until: float) -> Iterator[bytes]:
        """The frames of one connection; ends after a long silence, or when time is over."""
        connection = websocket.create_connection(
            self._url, timeout=CONNECT_SECONDS, skip_utf8_validation=True
        )
        try:
            request = {
                "type": "subscribe",
                "product_ids": [self._product],
                "channels": ["ticker", "heartbeat"],
            }
            connection.send(json.dumps(request))
            log.info("connected to %s", self._url)
            last = time.monotonic()
            while not self._over(until) and time.monotonic() - last < SILENCE_SECONDS:
                if _readable(connection.sock):
                    last = time.monotonic()
                    opcode, frame = connection.recv_data()
                    if opcode == websocket.ABNF.OPCODE_CLOSE:
                        raise websocket.WebSocketConnectionClosedException(
                            f"closed by the feed ({frame[2:].decode(errors='replace')})"
                        )
                    yield frame
                self._writer.flush()
        finally:
            connection.close(timeout=1)

    def _record(self, frame: bytes) -> None:
        if b'"error"' in frame:
            log.warning("from the feed: %s", frame[:500].decode(errors="replace"))
        if not is_control(frame):
            self._writer.write(wire_line(frame, time.time(), self._product))
            self.recorded += 1
        if time.monotonic() - self._logged >= PROGRESS_SECONDS:
            self._logged = time.monotonic()
            log.info("%d messages recorded", self.recorded)


def _readable(connection: ssl.SSLSocket | None) -> bool:
    """Whether something can be read now or within a moment."""
    if connection is None:
        return True  # reading says what is wrong
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    return bool(select.select([connection], [], [], _LOOK_SECONDS)[0])


def backoff() -> Iterator[float]:
    """Seconds to wait before each new try: exponential, with jitter, at most 30."""
    limit = 0.5
    while True:
        yield random.uniform(limit / 2, limit)  # noqa: S311 - jitter is no secret
        limit = min(30.0, limit * 2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m feed.record",
        description="Records the exchange's feed into a file that feed.replay can replay.",
    )
    parser.add_argument("file", type=Path, help="where to; gzip if the name ends in .gz")
    parser.add_argument("--url", default=EXCHANGE, help=f"feed to record (default {EXCHANGE})")
    parser.add_argument("--product", default="BTC-USD")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--append", action="store_true", help="go on with a recording")
    options = parser.parse_args(arguments)
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stdout,
    )
    stop = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    try:
        writer = open_writer(options.file, append=options.append)
    except recording.RecordingError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    recorder = Recorder(options.url, options.product, writer, stop)
    try:
        recorder.run(time.monotonic() + options.seconds)
        writer.close()
    except recording.RecordingError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    log.info("%d messages in %s", recorder.recorded, options.file)


if __name__ == "__main__":
    main()
