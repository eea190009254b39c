"""One tick to bytes and back, in both codecs; each is encoded once and shared by all who get it.

Nanoseconds are integers in MessagePack and strings in JSON (`JSON.parse` would round them).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from broker.core.ticks import TICK_TYPES, Bar, Channel, Tick

_json_encode = msgspec.json.Encoder().encode
_json_decode = msgspec.json.Decoder().decode
_unpack = msgspec.msgpack.Decoder().decode
_LEAST, _MOST = -(2**63), 2**64 - 1

#: The first byte of a tick as JSON; as MessagePack it begins with the head of a map, which is another.
JSON_OPENS = ord("{")
#: Of the fields, those that are strings in JSON and integers in MessagePack.
_NANOS = ("ts", "rts", "start")

#: Returns a tick as MessagePack. Raises TypeError, ValueError or OverflowError for what no codec can carry.
pack_tick = msgspec.msgpack.Encoder().encode


def quote_integer(raw: bytes, key: bytes) -> bytes:
    """Put the integer behind the first ``key`` in quotes: ``"ts":12`` becomes ``"ts":"12"``.

    Safe on any JSON: within a string a quote is escaped, so ``key`` can only be a key.
    """
    start = raw.index(key) + len(key)
    end = start
    while raw[end] in b"-0123456789":
        end += 1
    return b'%b"%b"%b' % (raw[:start], raw[start:end], raw[end:])


#: The last time that was written, and its text: a feed stamps a handful of ticks with one and the same object.
_last_time, _last_text = 0, "0"


def _time_text(nanos: int) -> str:
    if not _LEAST <= nanos <= _MOST:
        raise OverflowError("ts or rts is more than 64 bits: MessagePack could not carry it")
    return str(nanos)


def tick_to_json(tick: Tick) -> bytes:
    """Return a tick as JSON, its nanoseconds as strings.

    Raises:
        TypeError, ValueError, OverflowError: it holds what no codec can carry.
    """
    global _last_time, _last_text
    ts, rts = tick.ts, tick.rts
    text = _last_text
    if ts is not _last_time:
        text = _time_text(ts)
        _last_time, _last_text = ts, text
    other = text if rts is ts else _time_text(rts)
    # The encoder writes what is there, whatever the annotation says: twice as fast as mending its bytes.
    tick.ts, tick.rts = text, other  # type: ignore[assignment]
    try:
        raw = _json_encode(tick)
    finally:
        tick.ts, tick.rts = ts, rts
    return quote_integer(raw, b'"start":') if type(tick) is Bar else raw


def packed_to_json(packed: bytes) -> bytes:
    """Return a tick of the history as `tick_to_json` made it when it was new.

    Not by way of its type, which would check it again: what was sent live is replayed as it was.
    """
    fields = _unpack(packed)
    for name in _NANOS:
        if name in fields:
            fields[name] = str(fields[name])
    return _json_encode(fields)


class Head(msgspec.Struct, gc=False):
    """Which tick it is; the other fields are passed over."""

    ch: Channel
    sym: str
    seq: int


_json_head = msgspec.json.Decoder(Head).decode
_packed_head = msgspec.msgpack.Decoder(Head).decode
_TYPES: dict[str, type[Tick]] = {kind.ch: kind for kind in TICK_TYPES}


def head_reader(encoded: bytes) -> Callable[[bytes], Head]:
    """Return what reads the heads of ticks in the codec of this one."""
    return _json_head if encoded[0] == JSON_OPENS else _packed_head


def read_tick(encoded: bytes) -> Tick:
    """Return a tick as it was before it was encoded, in either codec; nothing is checked again."""
    fields = _json_decode(encoded) if encoded[0] == JSON_OPENS else _unpack(encoded)
    for name in _NANOS:
        if name in fields:
            fields[name] = int(fields[name])
    for name in ("bids", "asks"):
        if name in fields:
            fields[name] = [tuple(level) for level in fields[name]]
    return _TYPES[fields.pop("ch")](**fields)


def json_to_packed(json: bytes) -> bytes:
    """Return a tick of the history as `pack_tick` would have made it when it was new."""
    fields = _json_decode(json)
    for name in _NANOS:
        if name in fields:
            fields[name] = int(fields[name])
    return pack_tick(fields)
