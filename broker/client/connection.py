"""A connection to a broker that is kept up, and what its subscriptions and requests need of it."""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import trio

from broker.client.answers import Answers
from broker.client.backoff import Backoff
from broker.client.effects import (
    Accepted,
    Advanced,
    Answered,
    Closed,
    Disagreed,
    Effect,
    Ended,
    Occurred,
    Puzzled,
    Refused,
    Welcomed,
)
from broker.client.errors import ClientClosed, SubscribeError
from broker.client.events import ClientStatistics, Gap, State
from broker.client.link import Link, LinkLost, open_link
from broker.client.pipe import Pipe
from broker.client.protocol import ClientProtocol
from broker.client.requests import Request
from broker.client.state import SubscriptionState
from broker.client.wire import ClientCodec, CodecName, Target

log = logging.getLogger("tapecast.client")

#: While the answer to a request is under way the buffers may hold this much more: it may lie behind ticks of
#: a subscription that the application, waiting for the answer, does not read.
PATIENCE = 4
#: A subscription that was live, and that a broker which has come up again does not know yet.
REFUSED_RETRY_S = (1.0, 10.0)


class Connection:
    """Carries out what the protocol says. `broker.client.client.Client` is what the application sees of it."""

    def __init__(
        self,
        target: Target,
        nursery: trio.Nursery,
        *,
        codec: CodecName,
        token: str | None,
        max_attempts: int | None,
        buffer_ticks: int,
        connect_timeout_s: float,
        ssl_context: ssl.SSLContext | None,
        on_state: Callable[[State], object] | None,
    ) -> None:
        self._target = target
        self._nursery = nursery
        self._codec = ClientCodec(codec)
        self._protocol = ClientProtocol(self._codec, token)
        self._answers = Answers(self._ask, self._protocol.forget)
        self._max_attempts = max_attempts
        self._buffer_ticks = buffer_ticks
        self._connect_timeout_s = connect_timeout_s
        self._ssl_context = ssl_context
        self._on_state = on_state
        self._pipes: dict[SubscriptionState, Pipe] = {}
        self._retries: dict[SubscriptionState, Backoff] = {}
        self._ending: dict[SubscriptionState, Pipe] = {}
        self._end: ClientClosed | None = None
        self._state: State = "connecting"
        self._welcome = Welcomed("", "", 0.0, "")
        self._backoff = Backoff(random.uniform)
        self._connections = self._attempts = self._messages = self._puzzles = 0
        self._last_error = ""
        self._outgoing = trio.Event()
        self._room = trio.Event()

    @property
    def state(self) -> State:
        """``connecting`` (never connected yet), ``connected``, ``reconnecting`` or ``closed``."""
        return self._state

    def statistics(self) -> ClientStatistics:
        """Return how the connection is."""
        return ClientStatistics(
            state=self._state,
            url=self._target.url,
            session=self._welcome.session,
            server=self._welcome.server,
            epoch=self._welcome.epoch,
            reconnects=max(0, self._connections - 1),
            attempts=self._attempts,
            messages=self._messages,
            puzzles=self._puzzles,
            strays=self._protocol.strays,
            last_error=self._last_error,
        )

    # ── for its subscriptions ────────────────────────────────────────────────────────────────────

    def begin(self, state: SubscriptionState, pipe: Pipe) -> None:
        """Ask the broker for a subscription; the answer, or the client's end, comes through ``pipe``."""
        if self._end is not None:
            pipe.fail(self._end)
            return
        self._pipes[state] = pipe
        self._protocol.subscribe(state)
        self._outgoing.set()
        self._make_room()

    def abandon(self, state: SubscriptionState) -> bool:
        """End a subscription at once; return whether the broker's last word on it is to come."""
        pipe = self._pipes.pop(state, None)
        self._retries.pop(state, None)
        is_answer_to_come = self._protocol.unsubscribe(state)
        self._answers.give_up(state)
        if pipe is not None:
            pipe.close()
            if is_answer_to_come:
                self._ending[state] = pipe
        self._outgoing.set()
        return is_answer_to_come

    async def change(self, state: SubscriptionState, delivery: Mapping[str, Any]) -> None:
        """Change the contract of a subscription; raises as `Subscription.modify`."""
        if state.is_ended:
            raise SubscribeError("unknown_subscription", "the subscription has ended")
        await self._answers.ask(Request("modify", state, {"delivery": dict(delivery)}))

    def _ask(self, request: Request) -> None:
        self._protocol.ask(request)
        self._outgoing.set()
        self._make_room()

    def _make_room(self) -> None:
        self._room.set()

    # ── the connection ───────────────────────────────────────────────────────────────────────────

    async def open(self) -> Link:
        """Connect and wait for the broker's welcome. Raises `LinkLost`."""
        link = await open_link(
            self._nursery,
            self._target,
            self._codec.subprotocol,
            ssl_context=self._ssl_context,
            timeout_s=self._connect_timeout_s,
        )
        try:
            payload = await link.receive(self._connect_timeout_s)
            for effect in self._protocol.receive(payload):
                if isinstance(effect, Closed):
                    raise _closed(effect)
                if isinstance(effect, Welcomed):
                    self._welcome = effect
                    self._connections += 1
                    self._attempts = 0
                    self._set_state("connected")
                    return link
            raise LinkLost("not a Tapecast broker: its first message is no welcome")
        except BaseException:
            self._protocol.disconnected()
            await link.aclose()
            raise

    async def run(self, link: Link | None) -> None:
        """Keep the connection up until the client ends. ``link`` is the first one, if there is one."""
        try:
            wait_s = 0.0
            while True:
                if link is None:
                    link = await self._reopen(wait_s)
                since = trio.current_time()
                lost = await self._serve(link)
                link = None
                self._backoff.lasted(trio.current_time() - since)
                self._last_error = lost.reason
                if lost.is_permanent:
                    raise ClientClosed(lost.code, lost.reason)
                self._set_state("reconnecting")
                log.info("connection to %s lost: %s", self._target.url, lost.reason)
                wait_s = self._backoff.next_delay(lost.retry_after_s)
        except ClientClosed as exc:
            self.end(exc)

    async def _reopen(self, wait_s: float) -> Link:
        while True:
            await trio.sleep(wait_s)
            try:
                return await self.open()
            except LinkLost as exc:
                self._last_error = exc.reason
                self._attempts += 1
                if exc.is_permanent:
                    raise ClientClosed(exc.code, exc.reason) from None
                if self._max_attempts is not None and self._attempts >= self._max_attempts:
                    text = f"gave up after {self._attempts} attempts; the last one: {exc.reason}"
                    raise ClientClosed(exc.code, text) from None
                wait_s = self._backoff.next_delay(exc.retry_after_s)

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
            if self._on_state is not None:
                self._on_state(state)

    async def _serve(self, link: Link) -> LinkLost:
        """Send and receive on one connection; return why it ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, link)
                lost = await self._receive(link, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._protocol.disconnected()
            for pipe in self._ending.values():
                pipe.ledger_known.set()
            self._ending.clear()
            await link.aclose()
        return lost

    async def _send(self, link: Link) -> None:
        while True:
            self._outgoing = trio.Event()
            for request in self._protocol.take_requests():
                try:
                    await link.send(request)
                except LinkLost:
                    # The receiving side notices too, and says why.
                    return
            await self._outgoing.wait()

    async def _receive(self, link: Link, nursery: trio.Nursery) -> LinkLost:
        silence_s = 2 * self._welcome.heartbeat_s + 5
        while True:
            try:
                payload = await link.receive(silence_s)
            except LinkLost as exc:
                return exc
            self._messages += 1
            touched: dict[Pipe, None] = {}
            for effect in self._protocol.receive(payload):
                if isinstance(effect, Occurred):
                    pipe = self._pipes.get(effect.state)
                    if pipe is not None:
                        self._warn_of_unexplained(effect)
                        pipe.put(effect.event)
                        touched[pipe] = None
                elif isinstance(effect, Closed):
                    return _closed(effect)
                else:
                    self._carry_out(effect, nursery)
            for pipe in touched:
                await self._wait_for_room(pipe)

    async def _wait_for_room(self, pipe: Pipe) -> None:
        """Wait until the application has taken enough: meanwhile nothing is read, and the broker notices."""
        while pipe.weight >= pipe.limit * (PATIENCE if self._protocol.is_awaiting_answers else 1):
            self._room = trio.Event()
            await self._room.wait()

    def _carry_out(self, effect: Effect, nursery: trio.Nursery) -> None:
        match effect:
            case Accepted(state):
                self._retries.pop(state, None)
                if (pipe := self._pipes.get(state)) is not None:
                    pipe.answered.set()
            case Refused(state, code, message, True):
                if (pipe := self._pipes.pop(state, None)) is not None:
                    pipe.fail(SubscribeError(code, message))
            case Refused(state, code, message, False):
                log.warning("%s of %s: %s: %s; trying again", state.ch, state.symbols[:5], code, message)
                nursery.start_soon(self._retry, state)
            case Ended(state):
                if (pipe := self._ending.pop(state, None)) is not None:
                    pipe.ledger_known.set()
            case Answered(request, answer):
                self._answers.give(request, answer)
            case Disagreed(state, differences):
                log.warning("%s of %s: %s", state.ch, state.symbols[:5], "; ".join(differences))
            case Advanced():
                for state, pipe in self._pipes.items():
                    if state.number is not None and not state.awaits_snapshot:
                        pipe.advance(state.cursor)
            case Puzzled(text):
                self._puzzles += 1
                log.warning("%s: ignored %s", self._target.url, text)
        # An answer may call for another request.
        self._outgoing.set()

    def _warn_of_unexplained(self, effect: Occurred) -> None:
        event = effect.event
        if isinstance(event, Gap) and event.reason == "unexplained":
            log.warning(
                "%s %s: ticks %s to %s did not come, and no gap accounts for them: a fault of the broker's",
                event.ch,
                event.sym,
                event.first,
                event.last,
            )

    async def _retry(self, state: SubscriptionState) -> None:
        base_s, cap_s = REFUSED_RETRY_S
        backoff = self._retries.setdefault(state, Backoff(random.uniform, base_s=base_s, cap_s=cap_s))
        await trio.sleep(backoff.next_delay(retry_after_s=base_s))
        self._protocol.retry(state)
        self._outgoing.set()

    def end(self, reason: ClientClosed) -> None:
        """End for good: every subscription raises ``reason`` behind what it still holds."""
        if self._end is None:
            self._end = reason
            self._answers.fail(reason)
            self._set_state("closed")
        for pipe in self._pipes.values():
            pipe.fail(self._end)
        self._pipes.clear()
        for pipe in self._ending.values():
            pipe.ledger_known.set()


def _closed(effect: Closed) -> LinkLost:
    after = effect.retry_after_ms
    return LinkLost(
        effect.reason,
        code=effect.code,
        is_permanent=after is None,
        retry_after_s=0.0 if after is None else max(0, after) / 1000,
    )
