"""Examples for the documents: one session's messages, as the broker's own codec and framing write them."""

from __future__ import annotations

from typing import Any

import orjson

from broker import __version__
from broker.core import errors, messages
from broker.core.codecs import JSON
from broker.core.delivery import Delivery
from broker.core.encoding import tick_to_json
from broker.core.framing import Framing, NdjsonFraming, SseFraming
from broker.core.mailbox import LedgerEntry
from broker.core.ticks import Bar, Book, Quote, Status, Tick, Trade

_TS = 1_751_292_187_250_000_001
_RTS = _TS + 412_345
_CURSOR = "68629a5b3fc2d1-1042"
_LATEST = Delivery("latest", None, 0, None, None, None)
_LEDGER = [LedgerEntry(sub=1, offered=120, delivered=97, conflated=22, dropped=0, pending=1)]

TICKS: tuple[Tick, ...] = (
    Quote(
        sym="SIM:ACME", seq=120, ts=_TS, rts=_RTS, bid="101.25", bid_size="300", ask="101.26", ask_size="150"
    ),
    Trade(sym="SIM:ACME", seq=41, ts=_TS, rts=_RTS, price="101.26", size="25", side="buy", id="41"),
    Book(
        sym="SIM:ACME",
        seq=77,
        ts=_TS,
        rts=_RTS,
        kind="delta",
        bids=[("101.25", "300")],
        asks=[("101.27", "0")],
    ),
    Bar(
        sym="SIM:ACME",
        seq=9,
        ts=_TS,
        rts=_RTS,
        interval="1m",
        start=1_751_292_180_000_000_000,
        open="101.20",
        high="101.31",
        low="101.18",
        close="101.26",
        volume="4125",
        count=41,
        final=False,
    ),
    Status(sym="SIM:ACME", seq=1, ts=_TS, rts=_RTS, state="live", text=""),
)

#: What a client sends, by op.
REQUESTS: dict[str, dict[str, Any]] = {
    "subscribe": {
        "op": "subscribe",
        "id": 1,
        "ch": "quote",
        "symbols": ["SIM:ACME", "COINBASE:*"],
        "delivery": {"mode": "latest", "max_delay_ms": 50},
    },
    "unsubscribe": {"op": "unsubscribe", "id": 2, "sub": 1},
    "modify": {"op": "modify", "id": 3, "sub": 1, "delivery": {"mode": "every", "queue": 500}},
    "list": {"op": "list", "id": 4},
    "ping": {"op": "ping", "id": 5},
    "auth": {"op": "auth", "id": 6, "token": "a-token"},
}

_SINGLE: tuple[messages.Message, ...] = (
    messages.Welcome(
        session="a3f09c51d2e84b76",
        epoch="68629a5b3fc2d1",
        heartbeat_s=10.0,
        limits=messages.LimitsInfo(
            subscriptions=100,
            symbols=10_000,
            message_bytes=262_144,
            requests_per_minute=6000,
            queue_ticks=10_000,
            queue_bytes=4_194_304,
        ),
        server=f"tapecast/{__version__}",
    ),
    messages.Ack(
        id=1,
        op="subscribe",
        sub=1,
        ch="quote",
        symbols=["SIM:ACME"],
        rejected=[messages.Rejected("COINBASE:*", "unknown_venue")],
        delivery=_LATEST,
        cursor=_CURSOR,
    ),
    messages.Gap(sub=1, ch="quote", sym="SIM:ACME", first=121, last=140, reason="overflow"),
    messages.Notice(state="pressed", sub=1, queued=800, limit=1000),
    messages.Heartbeat(ts=_RTS, cursor=_CURSOR, ledger=_LEDGER),
    messages.Ledger(
        id=4,
        subscriptions=[messages.SubscriptionInfo(1, "quote", ["SIM:ACME"], _LATEST)],
        ledger=_LEDGER,
    ),
    messages.Pong(id=5, ts=_RTS),
    messages.Error(
        id=3, code="unknown_subscription", message="sub: 7 is not one of this session's (1)", retry=False
    ),
    messages.Closing(
        code=errors.DRAINING.code,
        reason=errors.DRAINING.text,
        retry_after_ms=errors.DRAINING.retry_after_ms,
        ledger=_LEDGER,
        advice=errors.DRAINING.advice,
    ),
)


def server_messages() -> dict[str, bytes]:
    """Return one encoded message of each type that the broker sends, by type."""
    ticks = [tick_to_json(tick) for tick in TICKS]
    found = {
        "snapshot": JSON.snapshot(1, _CURSOR, ticks[:1], more=False),
        "update": JSON.update(_CURSOR, ticks),
    }
    for message in _SINGLE:
        payload = JSON.encode(message)
        found[orjson.loads(payload)["type"]] = payload
    return found


def stream(format_: str) -> str:
    """Return how a stream begins; ``format_`` is ``sse`` or ``ndjson``."""
    framing: Framing = (
        NdjsonFraming(chunked=False) if format_ == "ndjson" else SseFraming(chunked=False, retry_ms=1730)
    )
    encoded = server_messages()
    frames = [framing.frame(kind, encoded[kind]) for kind in ("welcome", "ack")]
    quote = JSON.update(_CURSOR, [tick_to_json(TICKS[0])])
    frames += [
        framing.frame("snapshot", encoded["snapshot"], _CURSOR),
        framing.frame("update", quote, _CURSOR),
    ]
    return b"".join(frames).decode()


def lines() -> str:
    """Return ticks as a program writes them to `/v1/ingest`: without what the broker gives them."""
    ticks = [orjson.loads(tick_to_json(tick)) for tick in TICKS[:2]]
    return "".join(
        orjson.dumps({name: tick[name] for name in tick if name not in ("seq", "rts")}).decode() + "\n"
        for tick in ticks
    )
