"""Subscribers without sockets: the real session, outbox and fan-out, over wires that a test holds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from broker.core.codecs import JSON
from broker.core.delivery import DeliveryRequest
from broker.core.framing import NdjsonFraming
from broker.core.history import HistoryLimits
from broker.core.messages import Subscribe
from broker.core.router import Router
from broker.core.session import SessionLimits
from broker.core.tape import Tape
from broker.core.topics import Topics
from broker.runtime.fanout import Fanout
from broker.runtime.subscriber import Subscriber
from tests.fakes import SYMBOLS


class FakeWire:
    """A `Wire` that is full when the test says so; what is offered then still arrives, as on a real one.

    Attributes:
        writes: how often something was offered.
        pending_bytes: what was offered while it was full.
        log: gets this wire at each write, in the order of all that share the list.
    """

    def __init__(self, log: list[FakeWire] | None = None) -> None:
        self.on_blocked: Callable[[], None] = lambda: None
        self.on_drained: Callable[[], None] = lambda: None
        self.is_blocked = False
        self.sent = bytearray()
        self.writes = 0
        self.pending_bytes = 0
        self.log = log if log is not None else []

    def offer(self, data: bytes) -> None:
        self.sent += data
        self.writes += 1
        if self.is_blocked:
            self.pending_bytes += len(data)
        self.log.append(self)

    def block(self) -> None:
        """Be full: whatever comes from now on waits."""
        self.is_blocked = True
        self.on_blocked()

    def drain(self) -> None:
        """Have room again."""
        self.is_blocked = False
        self.pending_bytes = 0
        self.on_drained()


class Reader:
    """A subscriber, and what has been written to it."""

    def __init__(self, subscriber: Subscriber, wire: FakeWire) -> None:
        self.subscriber = subscriber
        self.wire = wire

    def messages(self) -> list[dict[str, Any]]:
        """Return everything so far."""
        return [json.loads(line) for line in bytes(self.wire.sent).splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of one type."""
        return [message for message in self.messages() if message["type"] == kind]

    def ticks(self) -> list[dict[str, Any]]:
        """Return the ticks of all updates."""
        return [tick for message in self.of("update") for tick in message["data"]]

    def bids(self) -> list[str]:
        """Return the bids of the quotes among them."""
        return [tick["bid"] for tick in self.ticks() if tick["ch"] == "quote"]


class Market:
    """A tape, a router and a fan-out, without transports."""

    def __init__(self, limits: SessionLimits, *, max_gap_s: float) -> None:
        topics = Topics()
        topics.declare("SIM", SYMBOLS)
        self.limits = limits
        self.router = Router(topics, Tape("e1", topics, HistoryLimits()))
        self.fanout = Fanout(self.router, max_gap_s=max_gap_s)
        self.log: list[FakeWire] = []

    def subscribe(
        self, ch: str, symbol: str, *, log: list[FakeWire] | None = None, **delivery: Any
    ) -> Reader:
        """Return a reader of a session of its own with one subscription."""
        wire = FakeWire(log)
        subscriber = Subscriber(
            f"s{len(self.router.mailboxes)}",
            router=self.router,
            fanout=self.fanout,
            wire=wire,
            codec=JSON,
            framing=NdjsonFraming(chunked=False),
            limits=self.limits,
            peer="test",
            finish=lambda reason: b"",
        )
        subscriber.session.welcome("test", 10)
        reader = Reader(subscriber, wire)
        self.also(reader, ch, symbol, **delivery)
        return reader

    def also(self, reader: Reader, ch: str, symbol: str, **delivery: Any) -> None:
        """Add a subscription to a reader's session."""
        request = Subscribe(id=1, ch=ch, symbols=[symbol], delivery=DeliveryRequest(**delivery))
        reader.subscriber.session.subscribe(request, trio.current_time())
        reader.subscriber.wake()


@asynccontextmanager
async def open_market(
    limits: SessionLimits | None = None, *, max_gap_s: float = 0.01
) -> AsyncIterator[Market]:
    """Run a fan-out."""
    market = Market(limits or SessionLimits(), max_gap_s=max_gap_s)
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.fanout.run)
            yield market
            nursery.cancel_scope.cancel()
