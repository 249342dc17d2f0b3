"""Reads a recording of the feed: its frames, byte for byte, with the receive time if known.

Two forms, each plain or gzip (told by content, not by name):

- as the exchange sends it: one message a line, the line is the frame;
- the wire form, `{"ts": receive time in Unix seconds, "pair": ..., "raw": the frame's text}`,
  which `feed/record.py` writes.

The first line that is a JSON object decides which of the two a file is. Every line is a frame,
valid or not: a line of a wire recording that is no such object is a frame itself, and an empty
line is an empty frame. Only a file that cannot be read at all is an error.
"""

import hashlib
import json
import logging
import math
import zlib
from collections import deque
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import msgspec

#: Bytes read from the file at a time.
BLOCK_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"

log = logging.getLogger("feed")


class RecordingError(Exception):
    """A recording cannot be read; the text is one sentence that says which and why."""


class Line(NamedTuple):
    """One line of a recording.

    Attributes:
        frame: what came over the WebSocket, byte for byte.
        received: when, in Unix seconds; None where the recording does not say.
    """

    frame: bytes
    received: float | None


class _Wire(msgspec.Struct):
    ts: float
    raw: str


_decode_wire = msgspec.json.Decoder(_Wire).decode


def identity(path: Path, *, retimed: bool) -> dict[str, object]:
    """What names a replay of this recording, wherever it is told apart from another source.

    Raises:
        RecordingError: the file cannot be read.
    """
    with _open(path) as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "kind": "replay",
        "recording": path.name,
        "fingerprint": fingerprint,
        "retimed": retimed,
    }


def is_synthetic(path: Path) -> bool:
    """Whether a recording was made up by `feed/sample.py`: its name says so."""
    return path.name.startswith("synthetic")


def read(path: Path) -> Iterator[Line]:
    """The lines of a recording, one after the other; a week of them needs no memory.

    A gzip file that was cut off (its writer was killed) is read up to the cut, with a warning.

    Raises:
        RecordingError: the file cannot be read, is broken, or holds no line.
    """
    wire: bool | None = None
    line = None
    for line in _lines(path):
        if wire is None:
            wire = _is_wire_object(line)
        yield _unwrap(line) if wire else Line(line, None)
    if line is None:
        raise RecordingError(f"{path} holds no message")


def is_whole(path: Path) -> bool:
    """Whether a recording was closed properly: not cut off in gzip data or within a line.

    Raises:
        RecordingError: the file cannot be read or is broken.
    """
    (last,) = deque(_blocks(path), maxlen=1) or (b"\n",)
    return last is not None and last.endswith(b"\n")


def is_wire_line(line: bytes) -> bool:
    """Whether a line has a receive time and a frame: what the wire form is made of."""
    return _unwrap(line).received is not None


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file as they stand there, without their ends; else like `read`."""
    return _lines(path)


def is_gzip(path: Path) -> bool:
    with _open(path) as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _is_wire_object(line: bytes) -> bool | None:
    """Whether a line decides for the wire form; None when it is no JSON object."""
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
    """A wire object whose frame was no UTF-8: such bytes stand in `raw` as lone surrogates."""
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
        raise RecordingError(f"the recording {path} is not a file")
    try:
        return path.open("rb")
    except OSError as error:
        raise RecordingError(
            f"the recording {path} cannot be read: {error.strerror or error}"
        ) from error


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends. What is left of a line at the cut of a gzip file is left out."""
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
        log.warning("%s is cut off (its writer was killed?): read up to the cut", path)
    elif rest:
        yield rest


def _blocks(path: Path) -> Iterator[bytes | None]:
    """The (unpacked) bytes of a file; None at the end says that the file was cut off."""
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
            raise RecordingError(
                f"the recording {path} cannot be read: {error.strerror or error}"
            ) from error


def _gunzip(file: BufferedReader, path: Path) -> Iterator[bytes | None]:
    # The gzip module would lose the last bytes before a cut, so zlib is used directly.
    decoder = zlib.decompressobj(wbits=31)
    inside = False  # of a gzip member (a file may hold several, one after the other)
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
                raise RecordingError(
                    f"the recording {path} is a broken gzip file: {error}"
                ) from error
            inside = not decoder.eof
            block = decoder.unused_data
            if unpacked:
                yield unpacked
    if inside:
        yield None
