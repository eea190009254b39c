"""A session and its client joined by bytes, without I/O.

The broker's side is real: router, session, outbox, codec, framing. The client's side is made of what others
wrote: `json` and `msgpack` read what was sent. It keeps what it received as plain objects, and counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import msgpack

from broker.core.codecs import JSON, Codec
from broker.core.framing import NdjsonFraming
from broker.core.history import HistoryLimits
from broker.core.outbox import Outbox
from broker.core.router import Router
from broker.core.session import Session, SessionLimits
from broker.core.tape import Tape
from broker.core.ticks import Channel, Quote, Status, Tick, Trade
from broker.core.topics import Topic, Topics


class Lengths(NdjsonFraming):
    """A plain framing for both codecs: four bytes of length before each message."""

    def __init__(self) -> None:
        super().__init__(chunked=False)

    @property
    def shared(self) -> Lengths:
        return self

    def frame(self, kind: str, payload: bytes, cursor: str = "") -> bytes:
        return len(payload).to_bytes(4, "big") + payload


class Market:
    """A broker's router with a market behind it."""

    def __init__(self, history: HistoryLimits | None = None, symbols: list[str] | None = None) -> None:
        self.topics = Topics()
        self.topics.declare("SIM", ["SIM:A", "SIM:B", "SIM:C"] if symbols is None else symbols)
        self.topics.declare("OTHER", None)
        self.tape = Tape("e1", self.topics, history or HistoryLimits())
        self.router = Router(self.topics, self.tape)
        self.now = 0.0
        self.heartbeats: dict[Hashable, bytes] = {}

    def publish(self, *ticks: Tick) -> None:
        """Put ticks on the tape and hand them over, as one batch."""
        touched: dict[Topic, None] = {}
        self.router.publish(ticks, self.now, touched)

    def quotes(self, *symbols: str) -> None:
        self.publish(*map(quote, symbols))

    def trades(self, *symbols: str) -> None:
        self.publish(*map(trade, symbols))

    def seq(self, ch: Channel, sym: str) -> int:
        return self.topics.get(ch, sym).seq


class Client:
    """A connection: sends requests, reads what the broker wrote, and keeps account by itself.

    Attributes:
        messages: all that came, in order.
        cursor: the last one in any message but an ack, else that of the first ack.
        ticks: those of updates, in order, by (ch, sym).
        received: how many ticks of updates came for each subscription, by the topic's owner of then.
    """

    def __init__(self, market: Market, codec: Codec = JSON, limits: SessionLimits | None = None) -> None:
        self.market = market
        self.codec = codec
        self.session = Session("s", market.router, codec, limits or SessionLimits())
        self.outbox = Outbox(self.session, codec, Lengths())
        self.messages: list[dict[str, Any]] = []
        self.cursor: str | None = None
        self.ticks: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self.snapshots: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self.gaps: list[dict[str, Any]] = []
        self._id = 0
        self._read(self.outbox.message(self.session.welcome("tapecast", 5.0)))

    # ── to the broker ────────────────────────────────────────────────────────────────────────────

    def send(self, payload: str | bytes) -> dict[str, Any]:
        """Send a message as it is; return the answer."""
        answer = self.session.handle(payload, self.market.now, 99)
        self._read(self.outbox.message(answer))
        return self.messages[-1]

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request; return its answer, which has its id."""
        self._id += 1
        message = {"op": op, "id": self._id, **fields}
        answer = self.send(msgpack.packb(message) if self.codec.is_binary else json.dumps(message))
        assert answer["id"] == self._id
        return answer

    def subscribe(self, ch: str, *symbols: str, **fields: Any) -> dict[str, Any]:
        """Subscribe; return the ack."""
        answer = self.request("subscribe", ch=ch, symbols=list(symbols), **fields)
        assert answer["type"] == "ack", answer
        return answer

    # ── from the broker ──────────────────────────────────────────────────────────────────────────

    def take(self, writes: int = 1_000_000) -> list[dict[str, Any]]:
        """Read at most so many writes; return the messages in them."""
        before = len(self.messages)
        for _ in range(writes):
            data = self.outbox.take(self.market.now)
            if not data:
                break
            self._read(data)
        return self.messages[before:]

    def wait(self) -> None:
        """Find the wire full: what has come has to wait, within its bounds; read what is said of it."""
        self.outbox.press()
        self._read(self.outbox.notices())

    def heartbeat(self) -> dict[str, Any]:
        # Shared with all others, for as long as the market lives: whatever is not in its key would be seen.
        self._read(self.outbox.heartbeat(77, self.market.heartbeats))
        return self.messages[-1]

    def _read(self, data: bytes) -> None:
        while data:
            size = int.from_bytes(data[:4], "big")
            payload, data = data[4 : 4 + size], data[4 + size :]
            self._take_in(msgpack.unpackb(payload) if self.codec.is_binary else json.loads(payload))

    def _take_in(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        kind = message["type"]
        if kind == "update":
            for tick in message["data"]:
                self.ticks[tick["ch"], tick["sym"]].append(tick)
        elif kind == "snapshot":
            for tick in message["data"]:
                self.snapshots[tick["ch"], tick["sym"]].append(tick)
        elif kind == "gap":
            self.gaps.append(message)
        # An ack's cursor says where its subscription begins; it covers the session as well.
        self.cursor = message.get("cursor", self.cursor)

    def seqs(self, ch: str, sym: str) -> list[int]:
        return [tick["seq"] for tick in self.ticks[ch, sym]]

    def disconnect(self) -> str | None:
        """Lose the connection; return the cursor to come back with."""
        self.session.closed()
        return self.cursor


def quote(sym: str = "SIM:A", bid: str = "1.10") -> Quote:
    return Quote(sym=sym, ts=1, rts=2, bid=bid, bid_size="1", ask=None, ask_size=None)


def trade(sym: str = "SIM:A", id_: str = "1") -> Trade:
    return Trade(sym=sym, ts=1, rts=2, price="1.10", size="2", side="buy", id=id_)


def status(sym: str = "SIM:A", state: str = "live") -> Status:
    return Status(sym=sym, ts=1, rts=2, state=state)  # type: ignore[arg-type]  # one of the states


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


def account(entry: dict[str, int]) -> int:
    """Return what a ledger's parts add up to; to be compared with ``offered``."""
    return entry["delivered"] + entry["conflated"] + entry["dropped"] + entry["pending"]
