"""One tick to bytes and back, in both codecs; each is encoded once and shared by all who get it.

Nanoseconds are integers in MessagePack and strings in JSON (`JSON.parse` would round them).
"""

from __future__ import annotations

import msgspec

from broker.core.ticks import Bar, Tick

_json_encode = msgspec.json.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

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


def tick_to_json(tick: Tick) -> bytes:
    """Return a tick as JSON, its nanoseconds as strings."""
    ts, rts = tick.ts, tick.rts
    # The encoder writes what is there, whatever the annotation says: twice as fast as mending its bytes.
    text = str(ts)
    tick.ts, tick.rts = text, text if rts == ts else str(rts)  # type: ignore[assignment]
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
    for name in ("ts", "rts", "start"):
        if name in fields:
            fields[name] = str(fields[name])
    return _json_encode(fields)
