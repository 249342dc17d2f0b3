"""Read a recording of the feed: its frames, byte for byte, with the receive time if known.

A recording has one of two forms, each plain or gzip. The content decides, not the name.

- As the exchange sends it: one message per line. The line is the frame.
- The wire form, which `feed/record.py` writes: one JSON object per line,
  `{"ts": receive time in Unix seconds, "pair": product, "raw": text of the frame}`.

The first line that is a JSON object decides which of the two forms a file has. Every line is a
frame, valid or not. A line of a wire recording that is not such an object is a frame itself, and
an empty line is an empty frame. Only a file that cannot be read at all is an error.
"""

import argparse
import hashlib
import json
import logging
import math
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.errors import OperationalError, exit_on_error
from pipeline.ingest import trade

#: Bytes read from the file at a time.
BLOCK_BYTES = 1 << 18
#: The error of a recording without a trade names this many kinds of frames.
_KINDS_SHOWN = 3
#: Characters of a type or product in it.
_NAME_LENGTH = 20
_GZIP_MAGIC = b"\x1f\x8b"

log = logging.getLogger("feed")


class RecordingError(OperationalError):
    """A recording cannot be read or written. The text is one sentence with its name and why."""


class Line(NamedTuple):
    """One line of a recording.

    Attributes:
        frame: the bytes that came over the WebSocket.
        received: the receive time, Unix seconds; None if the recording does not have it.
    """

    frame: bytes
    received: float | None


class _Wire(msgspec.Struct):
    ts: float
    raw: str


_decode_wire = msgspec.json.Decoder(_Wire).decode


def identity(path: Path, repetition: Mapping[str, object] | None) -> dict[str, object]:
    """Return the identity of a replay of this recording, as in `source.json`.

    Args:
        path: the recording.
        repetition: when a re-timed recording starts again (`feed.retime`). None: the times are not
            shifted.

    Raises:
        RecordingError: the file cannot be read.
    """
    with _open(path) as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "kind": "replay",
        "recording": path.name,
        "fingerprint": fingerprint,
        "retimed": repetition is not None,
        **(repetition or {}),
    }


def check_usable(path: Path, product: str) -> None:
    """Check that a recording has a trade of a product that the pipeline accepts.

    It reads up to the first such trade.

    Raises:
        RecordingError: the file cannot be read, or has no such trade. The text names the
            content of the file and the action.
    """
    received = datetime.now(UTC)
    contents: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for line in read(path):
        try:
            trade.decode(line.frame, product, received)
        except trade.InvalidTradeError as error:
            kind, other = _describe(line.frame, product, str(error))
            contents[kind] += 1
            if other:
                products[other] += 1
        else:
            return
    advice = "Choose a recording of the exchange's ticker messages"
    if products:
        advice = f"Set PRODUCT_ID={products.most_common(1)[0][0]}, or choose another recording"
    found = [f"{kind} ({count:,})" for kind, count in contents.most_common(_KINDS_SHOWN)]
    if len(contents) > _KINDS_SHOWN:
        found.append("…")
    raise RecordingError(
        f"The recording has no usable trade of {product}. {advice}. This recording has only "
        f"{', '.join(found)}: {path}"
    )


def _describe(frame: bytes, product: str, reason: str) -> tuple[str, str | None]:
    """Return what a frame without a usable trade is, and the other product that it is a trade of.

    Args:
        frame: the frame.
        product: the product that is looked for.
        reason: why it is no trade of this product.
    """
    try:
        message = trade.parse(frame)
    except trade.InvalidTradeError:
        return "lines of text", None
    kind, of = message.get("type"), message.get("product_id")
    if not isinstance(kind, str):
        return "JSON without a type", None
    if kind != trade.TICKER:
        return kind[:_NAME_LENGTH], None
    if of == product or not isinstance(of, str):
        return f"ticker with {reason}", None
    other = of[:_NAME_LENGTH]
    return f"ticker of {other}", other if re.fullmatch("[A-Z0-9]+-[A-Z0-9]+", other) else None


def is_synthetic(path: Path) -> bool:
    """Return whether a recording is synthetic, which its name states."""
    return path.name.startswith("synthetic")


def read(path: Path) -> Iterator[Line]:
    """Yield the lines of a recording. The memory does not grow with the length of the file.

    A gzip file without its end (its writer was killed) is read as far as possible, with a warning.

    Raises:
        RecordingError: the file cannot be read, is broken, or has no line.
    """
    wire: bool | None = None
    line = None
    for line in _lines(path):
        if wire is None:
            wire = _is_wire_object(line)
        yield _unwrap(line) if wire else Line(line, None)
    if line is None:
        raise RecordingError(
            f"{path.name} has no message. Choose another recording. The file: {path}"
        )


def is_whole(path: Path) -> bool:
    """Return whether a recording is complete: it does not end within gzip data or a line.

    Raises:
        RecordingError: the file cannot be read or is broken.
    """
    (last,) = deque(_blocks(path), maxlen=1) or (b"\n",)
    return last is not None and last.endswith(b"\n")


def is_wire_line(line: bytes) -> bool:
    """Return whether a line has the wire form: a receive time and a frame."""
    return _unwrap(line).received is not None


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file unchanged, without line breaks; otherwise like `read`."""
    return _lines(path)


def is_gzip(path: Path) -> bool:
    """Return whether the content of a file is gzip."""
    with _open(path) as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _is_wire_object(line: bytes) -> bool | None:
    """Return whether a line has the wire form; None if it is not a JSON object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return "raw" in value and "ts" in value if isinstance(value, dict) else None


def _unwrap(line: bytes) -> Line:
    try:
        wire = _decode_wire(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _unwrap_escaped(line)
    return Line(wire.raw.encode(), wire.ts)


def _unwrap_escaped(line: bytes) -> Line:
    """Parse a wire object whose frame is not UTF-8: `raw` has its bytes as lone surrogates."""
    try:
        value = json.loads(line)
        frame = value["raw"].encode("utf-8", "surrogateescape")
        received = float(value["ts"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Line(line, None)
    return Line(frame, received) if math.isfinite(received) else Line(line, None)


# --- bytes ----------------------------------------------------------------------------------


def _open(path: Path) -> BufferedReader:
    if path.exists() and not path.is_file():
        raise _cannot_read(path, "it is not a file")
    try:
        return path.open("rb")
    except OSError as error:
        raise _cannot_read(path, error.strerror or str(error)) from error


def _cannot_read(path: Path, why: str, cause: Exception | None = None) -> RecordingError:
    detail = f" ({cause})" if cause else ""
    return RecordingError(
        f"Cannot read {path.name}: {why}. Choose another recording. The file: {path}{detail}"
    )


def _lines(path: Path) -> Iterator[bytes]:
    """Yield lines without line breaks. An incomplete line at the end of gzip data is dropped."""
    rest = b""
    cut_off = False
    for block in _blocks(path):
        if block is None:
            cut_off = True
            break
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
    if cut_off:
        log.warning("%s is incomplete (was its writer killed?): reading all whole lines", path)
    elif rest:
        yield rest


def _blocks(path: Path) -> Iterator[bytes | None]:
    """Yield the uncompressed bytes of a file. None at the end means that its end is missing."""
    with _open(path) as file:
        try:
            magic = file.read(len(_GZIP_MAGIC))
            file.seek(0)
            if magic == _GZIP_MAGIC:
                yield from _gunzip(file, path)
            else:
                while block := file.read(BLOCK_BYTES):
                    yield block
        except OSError as error:
            raise _cannot_read(path, error.strerror or str(error)) from error


def _gunzip(file: BufferedReader, path: Path) -> Iterator[bytes | None]:
    # With zlib and not gzip, which would lose the last bytes of an incomplete file.
    decoder = zlib.decompressobj(wbits=31)
    inside = False  # inside a gzip member. A file can have several members.
    while block := file.read(BLOCK_BYTES):
        while block:
            if not inside:
                block = block.lstrip(b"\0")  # padding between members is allowed
                if not block:
                    break
                decoder = zlib.decompressobj(wbits=31)
            try:
                unpacked = decoder.decompress(block)
            except zlib.error as error:
                raise _cannot_read(path, "broken gzip file", error) from error
            inside = not decoder.eof
            block = decoder.unused_data
            if unpacked:
                yield unpacked
    if inside:
        yield None


def main() -> None:
    """Check a recording; exit with status 2 and a sentence if it is not usable."""
    parser = argparse.ArgumentParser(
        prog="python -m feed.recording",
        description="Check that a recording has a usable trade of a product.",
    )
    parser.add_argument("recording", type=Path, help="the recording to check")
    parser.add_argument(
        "--product", default="BTC-USD", help="product that the trade must have (BTC-USD)"
    )
    given = parser.parse_args()
    with exit_on_error():
        check_usable(given.recording, given.product)


if __name__ == "__main__":
    main()
