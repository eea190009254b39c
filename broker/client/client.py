"""A client of the broker, as the application sees it: any number of subscriptions on one connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

import msgspec
import trio

from broker.client.connection import Connection
from broker.client.errors import LedgerMismatch
from broker.client.events import Gap, Notice
from broker.client.pipe import Pipe
from broker.client.requests import Request
from broker.client.state import SubscriptionState
from broker.client.subscription import Subscription
from broker.client.verdict import Verdict
from broker.client.wire import Ledger
from broker.core.delivery import DeliveryRequest
from broker.core.mailbox import LedgerEntry
from broker.core.ticks import Bar, Book, Quote, Status, Tick, Trade

#: How long to wait before the ledger is asked for again, until nothing is pending in it.
VERIFY_AGAIN_S = 0.05


class SubscribeOptions(TypedDict, total=False):
    """The keywords of `Client.subscribe`."""

    delivery: Mapping[str, Any] | DeliveryRequest | None
    snapshot: bool | None
    cursor: str | None
    on_gap: Callable[[Gap], object] | None
    on_notice: Callable[[Notice], object] | None
    buffer_ticks: int | None


Names = str | Iterable[str]


class Client(Connection):
    """One connection to a broker, made by `connect`. For one event loop; any of its tasks may use it."""

    @overload
    def subscribe(
        self, ch: Literal["quote"], *symbols: Names, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Quote]: ...
    @overload
    def subscribe(
        self, ch: Literal["trade"], *symbols: Names, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Trade]: ...
    @overload
    def subscribe(
        self, ch: Literal["book"], *symbols: Names, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Book]: ...
    @overload
    def subscribe(
        self, ch: Literal["bar"], *symbols: Names, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Bar]: ...
    @overload
    def subscribe(
        self, ch: Literal["status"], *symbols: Names, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Status]: ...
    @overload
    def subscribe(
        self, ch: str, *symbols: Names, **options: Unpack[SubscribeOptions]
    ) -> Subscription[Tick]: ...
    def subscribe(
        self,
        ch: str,
        *symbols: Names,
        delivery: Mapping[str, Any] | DeliveryRequest | None = None,
        snapshot: bool | None = None,
        cursor: str | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        on_notice: Callable[[Notice], object] | None = None,
        buffer_ticks: int | None = None,
    ) -> Subscription[Any]:
        """Return a subscription, which begins when it is iterated over or entered.

        Args:
            ch: ``quote``, ``trade``, ``book``, ``bar`` or ``status``.
            symbols: names (``SIM:ACME``), ``VENUE:*`` or ``*``; one by one or as a list.
            delivery: what is asked for of the delivery contract (protocol, section 4); what is left out is up
                to the channel.
            snapshot: whether to begin with the present state; by default without a cursor only. With a cursor
                it comes without what the ticks since then have shown already.
            cursor: where to take up, from `Subscription.cursor`.
            on_gap: called, when iterating over ticks, with each gap in its place in the flow.
            on_notice: likewise with each notice of the broker's: ``pressed``, ``degraded``, ``recovered``.
            buffer_ticks: as `connect` has it, for this subscription.
        """
        names = [name for item in symbols for name in ([item] if isinstance(item, str) else item)]
        if not names:
            raise ValueError("subscribe: name at least one symbol, VENUE:* or *")
        limit = self._buffer_ticks if buffer_ticks is None else buffer_ticks
        if limit < 1:
            raise ValueError(f"buffer_ticks: {limit} is less than 1")
        asked = msgspec.to_builtins(delivery) if isinstance(delivery, DeliveryRequest) else delivery
        state = SubscriptionState(ch, names, delivery=asked, snapshot=snapshot, cursor=cursor)
        return Subscription(self, state, Pipe(limit, self._make_room), on_gap, on_notice)

    async def modify(
        self,
        subscription: Subscription[Any],
        delivery: Mapping[str, Any] | DeliveryRequest | None = None,
        /,
        **fields: Any,
    ) -> Mapping[str, Any]:
        """Change a subscription's delivery contract; see `Subscription.modify`."""
        return await subscription.modify(delivery, **fields)

    async def verify(self, *, strict: bool = False, settle_s: float = 1.0) -> Verdict:
        """Ask the broker for its ledgers, compare them with what came, and return the verdict.

        What this client counts by itself (`seq`, jumps, gaps) has to be what the broker says that it did:
        `delivered` and `dropped` exactly, at the very place in the stream where the ledger stands; `conflated`
        exactly as soon as nothing is pending; `offered` as the sum. Every heartbeat is compared as well, so
        `verdict` knows without asking.

        While the connection is away this waits for the next. The answer lies behind the ticks that
        are under way: go on reading the subscriptions in other tasks if more wait than fit into the buffers.

        Args:
            strict: raise if the verdict is that something differs.
            settle_s: how long to ask again while ticks are pending that leave something open.

        Raises:
            LedgerMismatch: something differs, and ``strict``.
            ClientClosed: the client is at its end.
        """
        deadline = trio.current_time() + settle_s
        while True:
            await self._answers.ask(Request("list"))
            verdict = self._protocol.verdict()
            is_open = any(
                item.ledger is not None and item.ledger.pending and not item.is_exact
                for item in verdict.subscriptions
            )
            if not is_open or not verdict.agrees or trio.current_time() >= deadline:
                break
            await trio.sleep(VERIFY_AGAIN_S)
        if strict and not verdict.agrees:
            raise LedgerMismatch(verdict.differences)
        return verdict

    @property
    def verdict(self) -> Verdict:
        """What the ledgers that have come so far, with every heartbeat, have shown."""
        return self._protocol.verdict()

    async def ledgers(self) -> list[LedgerEntry]:
        """Ask the broker for its account of every subscription of this client; raises as `verify`."""
        answer = await self._answers.ask(Request("list"))
        return answer.ledger if isinstance(answer, Ledger) else []

    async def auth(self, token: str) -> None:
        """Show a token, now and on every later connection.

        Raises:
            RequestRefused: the broker does not take it.
            ClientClosed: the client is at its end; so it is if a later connection does not take it.
        """
        await self._answers.ask(Request("auth", fields={"token": token}))
