"""Record the exchange's feed with receive times: `python -m feed.record FILE`.

It writes the wire form that `feed/recording.py` describes, with gzip if the name ends in `.gz`. It
writes every message with its bytes unchanged, except subscription answers and heartbeats, because
a replay makes its own. A killed recorder loses at most one second, and its file stays readable.
"""

import argparse
import json
import logging
import math
import re
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

from feed import recording
from feed.arguments import parse_seconds
from pipeline.addresses import websocket_address
from pipeline.errors import exit_on_error
from pipeline.ingest.exchange_connection import (
    SLOW_RETRY_SECONDS,
    Connection,
    FeedError,
    FeedWatchdog,
    messages,
)
from pipeline.logs import log_to_stdout
from pipeline.service import backoff, set_in_thread
from pipeline.settings import Settings

EXCHANGE = Settings().feed_url
#: Seconds between two flushes of the file.
FLUSH_SECONDS = 0.5
#: Seconds without a frame before the recorder reconnects. A heartbeat is due every second.
SILENCE_SECONDS = 15.0
#: Bytes of a message that are recorded. The exchange's longest one has about 600.
MAX_FRAME_BYTES = 16 * 1024 * 1024
#: The types of messages that a replay makes itself.
CONTROL = ("subscriptions", "heartbeat")
#: Seconds between two lines of progress in the log.
PROGRESS_SECONDS = 60.0

log = logging.getLogger("feed")


class Writer:
    """Write lines to a file that stays readable even if the process is killed.

    Raises:
        recording.RecordingError: from every method, if the file cannot be written.
    """

    def __init__(self, path: Path, mode: str, *, packed: bool) -> None:
        self._path = path
        with self._translate_errors():
            self._file = path.open(mode)
        self._packer = zlib.compressobj(wbits=31) if packed else None
        self._flushed = time.monotonic()
        self._dirty = False

    def write(self, line: bytes) -> None:
        """Append a line."""
        data = line + b"\n"
        with self._translate_errors():
            self._file.write(self._packer.compress(data) if self._packer else data)
        self._dirty = True

    def flush(self) -> None:
        """Make the written lines readable, if the last flush is long enough ago."""
        if not self._dirty or time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        with self._translate_errors():
            if self._packer:
                self._file.write(self._packer.flush(zlib.Z_SYNC_FLUSH))
            self._file.flush()
        self._flushed, self._dirty = time.monotonic(), False

    def close(self) -> None:
        """Write the end of the file and close it."""
        with self._translate_errors(), self._file:
            if self._packer:
                self._file.write(self._packer.flush())

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise recording.RecordingError(
                f"Cannot write {self._path.name}: {error.strerror or error}. Free disk space, or "
                f"choose another directory. The file: {self._path}"
            ) from error


def open_writer(path: Path, *, append: bool) -> Writer:
    """Open a new recording, or an existing one to append to.

    Args:
        path: the file.
        append: whether the file may exist.

    Raises:
        recording.RecordingError: the file exists and `append` is False, it is not a recording in
            the wire form, or it cannot be written.
    """
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return Writer(path, "wb", packed=path.suffix == ".gz")
    if not append:
        raise recording.RecordingError(
            f"{path.name} already exists: choose another name, or append to it with --append. "
            f"The file: {path}"
        )
    packed = recording.is_gzip(path)
    first = next(recording.raw_lines(path), None)
    if first is not None and not recording.is_wire_line(first):
        raise recording.RecordingError(
            f"Cannot append to {path.name}: it has no receive times. Choose another name. The "
            f"file: {path}"
        )
    if not recording.is_whole(path):
        _repair(path, packed=packed)
    return Writer(path, "ab", packed=packed)


def _repair(path: Path, *, packed: bool) -> None:
    """Remove the incomplete line that a killed recorder left at the end of its file."""
    repaired = path.with_name(f".{path.name}.repaired")
    writer = Writer(repaired, "wb", packed=packed)
    for line in recording.raw_lines(path):
        # In a plain file the incomplete line is still there. All other lines are wire lines.
        if packed or recording.is_wire_line(line):
            writer.write(line)
    writer.close()
    repaired.replace(path)


def wire_line(frame: bytes, received: float, product: str) -> bytes:
    """Return a line of the wire form. Bytes that are not UTF-8 become lone surrogates."""
    text = frame.decode("utf-8", "surrogateescape")
    wire = {"ts": received, "pair": product, "raw": text}
    return json.dumps(wire, separators=(",", ":")).encode()


def kind_of(frame: bytes) -> object:
    """Return the type of a message; None if it has none."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    return message.get("type") if isinstance(message, dict) else None


def reason_for_nothing(problem: str) -> str:
    """Return why nothing was recorded, with what to check."""
    has_action = re.search(r"\. (Check|Set) ", problem)
    return problem if has_action else f"check --url and --product. Cause: {problem}"


class Recorder:
    """Connect, record and reconnect until a stop is requested."""

    def __init__(self, url: str, product: str, writer: Writer, stop: Event) -> None:
        self._url = url
        self._product = product
        self._writer = writer
        self._stop = stop
        self._logged = time.monotonic()
        self.recorded = 0
        #: Why the newest connection failed; empty if none failed.
        self.problem = ""
        #: The newest error message of the server; empty if there was none.
        self.error = ""

    def run(self, until: float) -> None:
        """Record until a time of the monotonic clock, or until a stop is requested."""
        waits = backoff()
        while not self._over(until):
            received = False
            wait_s = 0.0
            try:
                for frame in self._frames(until):
                    received = True
                    self._record(frame)
            except FeedError as error:
                if self._over(until):
                    break
                if received:
                    waits = backoff()
                self.problem = str(error)
                wait_s = SLOW_RETRY_SECONDS if error.lasting else next(waits)
                log.warning("%s. Next attempt in %.1f s", self.problem, wait_s)
            self._writer.flush()
            self._stop.wait(min(wait_s, max(0.0, until - time.monotonic())))
        self._writer.flush()

    def _over(self, until: float) -> bool:
        return self._stop.is_set() or time.monotonic() >= until

    def _frames(self, until: float) -> Iterator[bytes]:
        """Yield the frames of one connection until the end of the recording.

        Raises:
            FeedError: the connection failed, or there was no message for too long.
        """

        def go_on() -> bool:
            self._writer.flush()
            return not self._over(until)

        connection = Connection(self._url, self._product, MAX_FRAME_BYTES, go_on, setting="--url")
        watchdog = FeedWatchdog(heartbeat_timeout=SILENCE_SECONDS, trade_timeout=math.inf)
        with closing(connection):
            log.info("connected to %s", self._url)
            for message in messages(connection, watchdog, log):
                if message is not None:
                    watchdog.last_heartbeat = time.monotonic()  # any message shows that it works
                    yield message.data
                if not go_on():
                    return

    def _record(self, frame: bytes) -> None:
        kind = kind_of(frame)
        if kind == "error":
            self.error = f"the server sent an error: {frame[:500].decode(errors='replace')}"
            log.warning(self.error)
        if kind not in CONTROL:
            self._writer.write(wire_line(frame, time.time(), self._product))
            self.recorded += kind != "error"
        if time.monotonic() - self._logged >= PROGRESS_SECONDS:
            self._logged = time.monotonic()
            log.info("%d messages recorded", self.recorded)


def parse_url(text: str) -> str:
    """Return the address of a WebSocket server.

    Raises:
        ArgumentTypeError: the text is no such address.
    """
    try:
        return websocket_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def stop_at_signals(stop: Event) -> None:
    """Request a stop at the first SIGTERM or SIGINT."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: set_in_thread(stop))


def main(arguments: list[str] | None = None) -> None:
    """Record until a signal, the end of `--seconds` or an error of the file."""
    parser = argparse.ArgumentParser(
        prog="python -m feed.record",
        description="Records the exchange's feed into a file that feed.replay can replay.",
    )
    parser.add_argument("file", type=Path, help="output file, with gzip if the name ends in .gz")
    parser.add_argument(
        "--url", type=parse_url, default=EXCHANGE, help=f"feed to record ({EXCHANGE})"
    )
    parser.add_argument("--product", default="BTC-USD", help="product to record (BTC-USD)")
    parser.add_argument(
        "--seconds",
        type=parse_seconds,
        default=math.inf,
        help="stop after this time, at most ten days (default: never)",
    )
    parser.add_argument("--append", action="store_true", help="append to an existing recording")
    options = parser.parse_args(arguments)
    log_to_stdout("INFO")
    stop = Event()
    stop_at_signals(stop)
    is_new = not options.file.exists() or not options.file.stat().st_size
    with exit_on_error():
        writer = open_writer(options.file, append=options.append)
        recorder = Recorder(options.url, options.product, writer, stop)
        recorder.run(time.monotonic() + options.seconds)
        writer.close()
    if not recorder.recorded:
        if is_new:
            options.file.unlink()
        silence = f"{options.url} sent no message of {options.product}"
        reason = reason_for_nothing(recorder.error or recorder.problem or silence)
        sys.stderr.write(f"Nothing was recorded: {reason}\n")
        sys.exit(1)
    log.info("%d messages in %s", recorder.recorded, options.file)


if __name__ == "__main__":
    main()
