"""A subscription as the application sees it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Protocol, cast

import msgspec
import trio

from broker.client.events import Event, Gap, Notice, SubscriptionStatistics, T_co
from broker.client.pipe import Pipe
from broker.client.state import SubscriptionState
from broker.client.verdict import SubscriptionVerdict
from broker.client.wire import Rejected
from broker.core.delivery import DeliveryRequest
from broker.core.mailbox import LedgerEntry


class Owner(Protocol):
    """What a subscription needs of its client."""

    def begin(self, state: SubscriptionState, pipe: Pipe) -> None:
        """Ask the broker for it; the answer, or the client's end, comes through ``pipe``."""

    def abandon(self, state: SubscriptionState) -> bool:
        """End it at once; return whether the broker's last word on it is to come."""

    async def change(self, state: SubscriptionState, delivery: Mapping[str, Any]) -> None:
        """Change its delivery contract."""


class Subscription(Generic[T_co]):
    """An asynchronous iterator of ticks: those of the snapshot first, then every update.

    It begins when it is first iterated over, or entered with ``async with``; a refusal is raised there, as
    `SubscribeError`. `events` yields whole `Snapshot`, `Update`, `Gap` and `Notice` objects instead of ticks; use
    one or the other. What is not read waits in a bounded buffer; once that is full the client stops reading, so
    read every subscription that you have begun.

    Leaving the loop with ``break`` ends a subscription that nothing else refers to (as in ``async for tick in
    client.subscribe(...)``). One that you keep in a variable goes on, until `aclose` or the end of its
    ``async with``.
    """

    def __init__(
        self,
        owner: Owner,
        state: SubscriptionState,
        pipe: Pipe,
        on_gap: Callable[[Gap], object] | None,
        on_notice: Callable[[Notice], object] | None,
    ) -> None:
        """Made by `Client.subscribe`."""
        self._owner = owner
        self._state = state
        self._pipe = pipe
        self._on_gap = on_gap
        self._on_notice = on_notice
        self._ticks: Iterator[T_co] = iter(())
        self._has_begun = False

    # ── iterating ────────────────────────────────────────────────────────────────────────────────

    def __aiter__(self) -> Subscription[T_co]:
        return self

    async def __anext__(self) -> T_co:
        """Return the next tick.

        A checkpoint once for each message of the broker, not for each tick. Cancelled, it loses nothing.

        Raises:
            SubscribeError: the broker refuses the subscription.
            ClientClosed: the client is at its end.
        """
        while True:
            for tick in self._ticks:
                return tick
            event = await self._next_event()
            if isinstance(event, Gap):
                if self._on_gap is not None:
                    self._on_gap(event)
            elif isinstance(event, Notice):
                if self._on_notice is not None:
                    self._on_notice(event)
            else:
                self._ticks = iter(event.ticks)

    def events(self) -> AsyncIterator[Event[T_co]]:
        """Iterate over events instead of ticks; raises as `__anext__`."""
        return _Events(self)

    async def _next_event(self) -> Event[T_co]:
        if not self._has_begun:
            await self._begin()
        event = await self._pipe.take()
        if event is None:
            raise StopAsyncIteration
        # The broker sends on a channel nothing but its kind of tick.
        return cast(Event[T_co], event)

    async def _begin(self) -> None:
        self._has_begun = True
        self._owner.begin(self._state, self._pipe)
        forget = weakref.finalize(self, _forget, trio.lowlevel.current_trio_token(), self._owner, self._state)
        # At the end of the process there is nobody left to be told.
        forget.atexit = False
        await self._pipe.answered.wait()
        self._pipe.raise_if_refused()

    async def __aenter__(self) -> Subscription[T_co]:
        """Begin, and wait for the broker's answer. Raises as `__anext__`."""
        if not self._has_begun:
            await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the subscription; what waits is forgotten, iterators stop. Harmless when repeated.

        Waits up to two seconds for the broker's final `ledger`; cancelled meanwhile, it has ended as well.
        """
        is_answer_to_come = self._has_begun and self._owner.abandon(self._state)
        self._has_begun = True
        self._ticks = iter(())
        self._pipe.close()
        if is_answer_to_come:
            with trio.move_on_after(ANSWER_TIMEOUT_S):
                await self._pipe.ledger_known.wait()
        await trio.lowlevel.checkpoint()

    async def modify(
        self, delivery: Mapping[str, Any] | DeliveryRequest | None = None, /, **fields: Any
    ) -> Mapping[str, Any]:
        """Change the delivery contract, as in ``await sub.modify(mode="latest", max_rate=10)``.

        What is left out stays as it is. No tick is lost or doubled by it, but for what the new contract does
        with those that are queued, and counts. It also holds on later connections; asked for while there is
        none, it waits for the next. Cancelled, it may or may not have come into force.

        Returns:
            The contract in force: the operator's limits may have lowered it.

        Raises:
            SubscribeError: the broker refuses; the contract is as it was.
            ClientClosed: the client is at its end.
        """
        if not self._has_begun:
            await self._begin()
        asked = msgspec.to_builtins(delivery) if isinstance(delivery, DeliveryRequest) else delivery
        await self._owner.change(self._state, {**(asked or {}), **fields})
        return self._state.delivery or {}

    # ── what there is to know ────────────────────────────────────────────────────────────────────

    @property
    def ch(self) -> str:
        """The channel."""
        return self._state.ch

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names and patterns: as asked for before the answer, as accepted behind it."""
        return tuple(self._state.symbols)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Symbols that the broker has not accepted, and why; the others are subscribed to."""
        return self._state.rejected

    @property
    def delivery(self) -> Mapping[str, Any] | None:
        """The delivery contract in force (protocol, section 4); ``None`` before the answer."""
        return self._state.delivery

    @property
    def cursor(self) -> str | None:
        """Where to resume, in this process or in another, behind the last event that you are done with.

        An event is done with when the one behind it is asked for; with ticks, that is when the last tick of
        its message has been followed by another request.
        """
        return self._pipe.cursor

    @property
    def ledger(self) -> LedgerEntry | None:
        """The broker's account of this subscription since the last connect, as last told."""
        return self._state.ledger

    @property
    def verdict(self) -> SubscriptionVerdict:
        """Whether that account is true, as far as the ledgers that came by themselves have shown."""
        return self._state.verdict()

    def statistics(self) -> SubscriptionStatistics:
        """Return the client's own account, over all connections."""
        return self._state.statistics(self._pipe.weight)


#: How long `Subscription.aclose` waits for the broker's last word.
ANSWER_TIMEOUT_S = 2.0


class _Events(Generic[T_co]):
    """Keeps its subscription alive, and iterates over its events."""

    def __init__(self, subscription: Subscription[T_co]) -> None:
        self._subscription = subscription

    def __aiter__(self) -> _Events[T_co]:
        return self

    async def __anext__(self) -> Event[T_co]:
        return await self._subscription._next_event()


def _forget(token: trio.lowlevel.TrioToken, owner: Owner, state: SubscriptionState) -> None:
    """End a subscription that the application has dropped.

    The garbage collector may call this at any place and in any thread, so the work is left to the loop.
    """
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(owner.abandon, state)
