"""JSON and MessagePack: messages and ticks to bytes, and requests back; pinned by golden vectors.

A tick is encoded once per codec and shared. Nanoseconds are integers in MessagePack and strings in JSON
(`JSON.parse` would round them).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from broker.core.errors import RequestError
from broker.core.messages import Heartbeat, Message, Pong
from broker.core.tape import Entry
from broker.core.ticks import Bar, Tick

_json_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_json_of: Callable[[Entry], bytes] = attrgetter("json")
_packed_of: Callable[[Entry], bytes] = attrgetter("packed")


class Codec(Protocol):
    """How one session's messages are written and read.

    Attributes:
        name: as it stands in statistics.
        subprotocol: what a WebSocket client lists to get it.
        is_binary: whether a WebSocket carries it in binary frames.
    """

    name: str
    subprotocol: str
    is_binary: bool

    def encode(self, message: Message) -> bytes:
        """Return one message."""

    def ticks(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return encoded ticks; made on the first call for each entry, and kept there."""

    def repack(self, packed: Sequence[bytes]) -> list[bytes]:
        """Return ticks of the tape's history."""

    def update(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        """Return an `update` of encoded ticks."""

    def snapshot(self, sub: int, cursor: str, ticks: Sequence[bytes], *, more: bool) -> bytes:
        """Return a `snapshot` of encoded ticks."""

    def decode(self, payload: str | bytes) -> Any:
        """Return what a client sent, as plain objects.

        Raises:
            RequestError: ``invalid_message``: it is not of this codec.
        """


def quote_integer(raw: bytes, key: bytes) -> bytes:
    """Put the integer behind the first ``key`` in quotes: ``"ts":12`` becomes ``"ts":"12"``.

    Safe on any JSON: within a string a quote is escaped, so ``key`` can only be a key.
    """
    start = raw.index(key) + len(key)
    end = start
    while raw[end] in b"-0123456789":
        end += 1
    return b'%b"%b"%b' % (raw[:start], raw[start:end], raw[end:])


def tick_to_json(tick: Tick) -> bytes:
    """Return a tick as JSON, its nanoseconds as strings."""
    ts, rts = tick.ts, tick.rts
    # The encoder writes what is there, whatever the annotation says: twice as fast as mending its bytes.
    tick.ts, tick.rts = str(ts), str(rts)  # type: ignore[assignment]
    try:
        raw = _json_encode(tick)
    finally:
        tick.ts, tick.rts = ts, rts
    return quote_integer(raw, b'"start":') if type(tick) is Bar else raw


class _Shared(ABC):
    """Remembers the last update: of those who want the same, all but the first get it for a comparison."""

    def __init__(self) -> None:
        self._last: tuple[str, Sequence[bytes], bytes] = ("", (), b"")

    def update(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        """Return an `update` of encoded ticks; the same object as last time if nothing is different."""
        last_cursor, last_ticks, update = self._last
        # Lists of shared bytes differ in the first pointer, mostly; equal ones are walked at 10 ns a tick.
        if ticks == last_ticks and cursor == last_cursor:
            return update
        update = self._join(cursor, ticks)
        self._last = cursor, ticks, update
        return update

    @abstractmethod
    def _join(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        """Put an update together."""


class Json(_Shared):
    """The `tapecast.v1.json` codec."""

    name = "json"
    subprotocol = "tapecast.v1.json"
    is_binary = False

    def encode(self, message: Message) -> bytes:
        raw = _json_encode(message)
        return quote_integer(raw, b'"ts":') if type(message) in (Pong, Heartbeat) else raw

    def ticks(self, entries: Sequence[Entry]) -> list[bytes]:
        encoded = list(map(_json_of, entries))
        if not all(encoded):
            encoded = [entry.json or _cached_json(entry) for entry in entries]
        return encoded

    def repack(self, packed: Sequence[bytes]) -> list[bytes]:
        return [_packed_to_json(tick) for tick in packed]

    def _join(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        return b'{"type":"update","cursor":"%b","data":[%b]}' % (cursor.encode(), b",".join(ticks))

    def snapshot(self, sub: int, cursor: str, ticks: Sequence[bytes], *, more: bool) -> bytes:
        head = b'{"type":"snapshot","sub":%d,"cursor":"%b","data":[%b]' % (
            sub,
            cursor.encode(),
            b",".join(ticks),
        )
        return head + (b',"more":true}' if more else b"}")

    def decode(self, payload: str | bytes) -> Any:
        try:
            return msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise RequestError("invalid_message", f"not valid JSON: {_reason(exc)}") from None


class MessagePack(_Shared):
    """The `tapecast.v1.msgpack` codec."""

    name = "msgpack"
    subprotocol = "tapecast.v1.msgpack"
    is_binary = True

    def encode(self, message: Message) -> bytes:
        return _pack(message)

    def ticks(self, entries: Sequence[Entry]) -> list[bytes]:
        return list(map(_packed_of, entries))

    def repack(self, packed: Sequence[bytes]) -> list[bytes]:
        return list(packed)

    def _join(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        head = b"\x83\xa4type\xa6update\xa6cursor%b\xa4data%b" % (_pack(cursor), _array_head(len(ticks)))
        return head + b"".join(ticks)

    def snapshot(self, sub: int, cursor: str, ticks: Sequence[bytes], *, more: bool) -> bytes:
        fields = b"\xa4type\xa8snapshot\xa3sub%b\xa6cursor%b\xa4data%b%b" % (
            _pack(sub),
            _pack(cursor),
            _array_head(len(ticks)),
            b"".join(ticks),
        )
        return b"\x85" + fields + b"\xa4more\xc3" if more else b"\x84" + fields

    def decode(self, payload: str | bytes) -> Any:
        if isinstance(payload, str):
            raise RequestError(
                "invalid_message", "a text message; this session speaks MessagePack, in binary messages"
            )
        try:
            return msgspec.msgpack.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as exc:
            raise RequestError("invalid_message", f"not valid MessagePack: {_reason(exc)}") from None


JSON = Json()
MSGPACK = MessagePack()
#: In the order of preference, for a client that lists none: the first.
CODECS: tuple[Codec, ...] = (JSON, MSGPACK)


def _cached_json(entry: Entry) -> bytes:
    entry.json = tick_to_json(entry.tick)
    return entry.json


def _packed_to_json(packed: bytes) -> bytes:
    """Return a tick of the history as `tick_to_json` made it when it was new.

    Not by way of its type, which would check it again: what was sent live is replayed as it was.
    """
    fields = _unpack(packed)
    for name in ("ts", "rts", "start"):
        if name in fields:
            fields[name] = str(fields[name])
    return _json_encode(fields)


def _array_head(length: int) -> bytes:
    """Return the head of a MessagePack array (its specification, "array format family")."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 0x10000:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _reason(exc: Exception) -> str:
    return "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
