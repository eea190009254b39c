"""JSON and MessagePack: messages to bytes, and requests back; pinned by golden vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from broker.core.encoding import (
    JSON_OPENS,
    json_to_packed,
    pack_tick,
    packed_to_json,
    quote_integer,
    tick_to_json,
)
from broker.core.errors import RequestError
from broker.core.messages import Heartbeat, Message, Pong
from broker.core.tape import Entry

_json_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


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

    def repack(self, kept: Sequence[bytes]) -> list[bytes]:
        """Return ticks of the tape's history, each of which is there in one codec or the other."""

    def update(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        """Return an `update` of encoded ticks."""

    def snapshot(self, sub: int, cursor: str, ticks: Sequence[bytes], *, more: bool) -> bytes:
        """Return a `snapshot` of encoded ticks."""

    def decode(self, payload: str | bytes) -> Any:
        """Return what a client sent, as plain objects.

        Raises:
            RequestError: ``invalid_message``: it is not of this codec.
        """


class Json:
    """The `tapecast.v1.json` codec."""

    name = "json"
    subprotocol = "tapecast.v1.json"
    is_binary = False

    def encode(self, message: Message) -> bytes:
        raw = _json_encode(message)
        return quote_integer(raw, b'"ts":') if type(message) in (Pong, Heartbeat) else raw

    def ticks(self, entries: Sequence[Entry]) -> list[bytes]:
        return [entry.json or json_of(entry) for entry in entries]

    def repack(self, kept: Sequence[bytes]) -> list[bytes]:
        return [tick if tick[0] == JSON_OPENS else packed_to_json(tick) for tick in kept]

    def update(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
        return b"%b%b]}" % (self.update_opening(cursor), b",".join(ticks))

    def update_opening(self, cursor: str) -> bytes:
        """Return how every `update` with a cursor begins; behind it come the ticks, and ``]}``."""
        return b'{"type":"update","cursor":"%b","data":[' % cursor.encode()

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


class MessagePack:
    """The `tapecast.v1.msgpack` codec."""

    name = "msgpack"
    subprotocol = "tapecast.v1.msgpack"
    is_binary = True

    def encode(self, message: Message) -> bytes:
        return _pack(message)

    def ticks(self, entries: Sequence[Entry]) -> list[bytes]:
        return [entry.packed or packed_of(entry) for entry in entries]

    def repack(self, kept: Sequence[bytes]) -> list[bytes]:
        return [json_to_packed(tick) if tick[0] == JSON_OPENS else tick for tick in kept]

    def update(self, cursor: str, ticks: Sequence[bytes]) -> bytes:
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


def json_of(entry: Entry) -> bytes:
    """Make the JSON of a tick that has none yet, and keep it there."""
    entry.json = tick_to_json(entry.tick)
    return entry.json


def packed_of(entry: Entry) -> bytes:
    """Make the MessagePack of a tick that has none yet, and keep it there."""
    entry.packed = pack_tick(entry.tick)
    return entry.packed


def _array_head(length: int) -> bytes:
    """Return the head of a MessagePack array (its specification, "array format family")."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 0x10000:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _reason(exc: Exception) -> str:
    return "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
