"""A feed on disk, as it came: blocks of events, each block whole in itself. Pure; whoever has a file brings it.

    block  = head body
    head   = "TPFD" version 3 × 0     4s B 3x
             length                   I        of the body, in bytes
             events                   I        how many there are in it
             body check               I        CRC-32 of the body
             head check               I        CRC-32 of all of the head before it
    body   = zlib of MessagePack [event, …]
    event  = [kind, field, …]

All numbers of the head are little-endian. An event is one of the structs below, its fields in their order,
its kind their tag; times are nanoseconds of Unix time. What came in (frames, answers, what the clock said) and what was
made of it (ticks, gaps) stand in the one order in which they happened, so that who gives an adapter the same things in
the same order has to get the same ticks.

A file is only ever appended to, and each recorder that opens it begins with a `Begun`. It is cut off wherever the
machine stopped: every block before the cut can be read, and every one that was appended behind it. What a feed sends is
not recorded, as that may be a key; URLs are, as they say what an answer is of.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from broker.core.ticks import Channel

MAGIC = b"TPFD"
VERSION = 1
#: Of a body, packed or not: what is larger was not written by a recorder.
MAX_BODY_BYTES = 128 << 20

_HEAD = struct.Struct("<4sB3xIII")
_CHECK = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CHECK.size
#: Of zlib: the fastest; see `broker.core.recording`.
_LEVEL = 1
_CHUNK = 256 << 10


class Begun(Struct, array_like=True, tag=0, gc=False):
    """A recorder opened the file.

    Attributes:
        at: when.
        feed, kind, venue: of which feed this is; its name, its type, its venue.
        options: its keys as they were in force, but for secrets.
        by: what wrote it, e.g. ``tapecast/0.1``.
    """

    at: int
    feed: str
    kind: str
    venue: str
    options: dict[str, Any]
    by: str


class Started(Struct, array_like=True, tag=1, gc=False):
    """A life of the feed began: it knows nothing yet."""

    at: int


class Opened(Struct, array_like=True, tag=2, gc=False):
    """A WebSocket was connected; ``conn`` is its number, from 1 in each recorder."""

    at: int
    conn: int
    url: str


class Received(Struct, array_like=True, tag=3, gc=False):
    """A frame came; that of text is here in UTF-8."""

    at: int
    conn: int
    frame: bytes
    is_text: bool

    @property
    def message(self) -> str | bytes:
        """The frame as the feed got it."""
        return self.frame.decode("utf-8", "replace") if self.is_text else self.frame


class Broke(Struct, array_like=True, tag=4, gc=False):
    """A WebSocket was found closed; why is for people."""

    at: int
    conn: int
    reason: str


class Answered(Struct, array_like=True, tag=5, gc=False):
    """An HTTP GET brought a body."""

    at: int
    url: str
    body: bytes


class Failed(Struct, array_like=True, tag=6, gc=False):
    """A connection, or a GET, did not come about."""

    at: int
    url: str
    reason: str


class Clocked(Struct, array_like=True, tag=7, gc=False):
    """The feed asked for the time, and this was the answer."""

    at: int


class Published(Struct, array_like=True, tag=8, gc=False):
    """The feed published a tick, here as MessagePack (`broker.core.encoding.pack_tick`), its ``seq`` 0."""

    tick: bytes


class Missing(Struct, array_like=True, tag=9, gc=False):
    """The feed said that ticks of a topic were missed."""

    ch: Channel
    sym: str


class Rewound(Struct, array_like=True, tag=10, gc=False):
    """The feed said that event time begins anew."""


class Ended(Struct, array_like=True, tag=11, gc=False):
    """The feed's life ended: by itself, by a failure, or because it was made to end."""

    at: int
    how: Literal["returned", "failed", "cancelled"]
    reason: str


class Lost(Struct, array_like=True, tag=12, gc=False):
    """So many events are not in the recording: the disk was full, or too slow."""

    at: int
    events: int


Event: TypeAlias = (
    Begun
    | Started
    | Opened
    | Received
    | Broke
    | Answered
    | Failed
    | Clocked
    | Published
    | Missing
    | Rewound
    | Ended
    | Lost
)

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Event]).decode


class Hole(Struct, frozen=True):
    """Bytes that are in no whole block.

    Attributes:
        at: where they begin, in bytes.
        length: how many they are, up to the next whole block or the end.
        reason: what is wrong with the first of them, for people.
    """

    at: int
    length: int
    reason: str


def encode_block(events: Sequence[Event]) -> bytes:
    """Return a block as it lies on disk."""
    body = zlib.compress(_pack(events), _LEVEL)
    head = _HEAD.pack(MAGIC, VERSION, len(body), len(events), zlib.crc32(body))
    return b"".join((head, _CHECK.pack(zlib.crc32(head)), body))


def read_blocks(read: Callable[[int], bytes]) -> Iterator[list[Event] | Hole]:
    """Yield the events of each whole block of a file, and a `Hole` for what stands between them.

    Args:
        read: returns at most so many bytes, none only at the end of the file.
    """
    window = _Window(read)
    hole_at, reason = 0, ""
    while window.fill(1):
        try:
            events = _take_block(window)
        except _NoBlockError as exc:
            if not reason:
                hole_at, reason = window.done, str(exc)
            window.skip_to(MAGIC)
            continue
        if reason:
            yield Hole(hole_at, events.at - hole_at, reason)
            reason = ""
        yield events.events
    if reason:
        yield Hole(hole_at, window.done - hole_at, reason)


class _NoBlockError(Exception):
    """No whole block begins here."""


class _Block(Struct):
    at: int
    events: list[Event]


class _Window:
    """The part of a file that is being looked at.

    Attributes:
        done: bytes of the file before it.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.done = 0
        self._read = read
        self._bytes = bytearray()

    def fill(self, length: int) -> bool:
        """Have so many bytes at hand; tells whether there are."""
        while len(self._bytes) < length:
            chunk = self._read(_CHUNK)
            if not chunk:
                return False
            self._bytes += chunk
        return True

    def at(self, start: int, length: int) -> bytes:
        return bytes(self._bytes[start : start + length])

    def skip(self, length: int) -> None:
        del self._bytes[:length]
        self.done += length

    def skip_to(self, mark: bytes) -> None:
        """Skip at least one byte, and then all before the next ``mark``, or what may be the beginning of one."""
        start = 1
        while True:
            found = self._bytes.find(mark, start)
            if found >= 0:
                self.skip(found)
                return
            self.skip(max(start, len(self._bytes) - len(mark) + 1))
            start = 0
            if not self.fill(len(self._bytes) + 1):
                self.skip(len(self._bytes))
                return


def _take_block(window: _Window) -> _Block:
    """Return the block that begins here, and move behind it.

    Raises:
        _NoBlockError: there is none; nothing has moved.
    """
    if not window.fill(HEAD_BYTES):
        raise _NoBlockError("it ends within the head of a block")
    raw = window.at(0, HEAD_BYTES)
    magic, version, length, count, check = _HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise _NoBlockError(f"no block begins here, but {magic!r}")
    if zlib.crc32(raw[: _HEAD.size]) != _CHECK.unpack_from(raw, _HEAD.size)[0]:
        raise _NoBlockError("the head of a block is damaged")
    if version != VERSION or length > MAX_BODY_BYTES:
        raise _NoBlockError(f"a block of version {version}, {length} bytes, which this reader does not know")
    if not window.fill(HEAD_BYTES + length):
        raise _NoBlockError("it ends within a block")
    body = window.at(HEAD_BYTES, length)
    if zlib.crc32(body) != check:
        raise _NoBlockError("a block is damaged")
    try:
        events = _unpack(_decompress(body))
    except (zlib.error, msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise _NoBlockError(f"a block that can't be unpacked: {exc}") from None
    if len(events) != count:
        raise _NoBlockError(f"a block of {len(events)} events that says it has {count}")
    block = _Block(window.done, events)
    window.skip(HEAD_BYTES + length)
    return block


def _decompress(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    whole = unpacker.decompress(body, MAX_BODY_BYTES)
    if not unpacker.eof:
        raise ValueError("it is cut off, or too large")
    return whole
