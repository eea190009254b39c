"""All sessions: who gets in, who is alive, who left and why."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TypeAlias

import structlog
import trio

from broker.core import errors
from broker.core.codecs import Codec
from broker.core.errors import CloseReason
from broker.core.framing import Framing
from broker.core.messages import Welcome
from broker.core.session import SessionLimits
from broker.runtime.budget import Budget, BudgetLimits
from broker.runtime.closed import ClosedSession, ClosedSessions
from broker.runtime.fanout import Fanout
from broker.runtime.replays import Replays
from broker.runtime.stream import Stream, Wire
from broker.runtime.subscriber import Subscriber
from broker.runtime.turns import TURN_S, Turns

log = structlog.get_logger()

#: Pings of all sessions together, in a second. An answer wakes a task and costs some 40 us; to a hundred of them
#: goes less than half a percent of a core.
PINGS_PER_S = 125
#: What waits is counted so often while somebody is behind, in seconds; else with each turn.
COUNT_S = 0.05
#: Sessions over their budget that are ended before the others have their turn.
EVICTIONS_PER_TURN = 16
#: The system's: a session's name can't be guessed.
CHANCE = random.SystemRandom()

#: Asked when something may be due, with the time and the interval of pings in force, in seconds. Returns what
#: is to be sent, empty for nothing, and when it wants to be asked again; up to a second later will do.
KeepAlive: TypeAlias = Callable[[float, float], tuple[bytes, float]]


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """Deadlines and intervals, in seconds.

    Attributes:
        heartbeat_s: between two `heartbeat` messages.
        ping_interval_s: a WebSocket client that has been silent for so long is pinged, or for longer where many
            are connected (`Sessions.ping_every_s`).
        ping_timeout_s: and given up if it stays silent for so long after the ping.
        keepalive_s: an SSE stream that has been idle for so long gets a comment.
    """

    heartbeat_s: float = 10.0
    ping_interval_s: float = 4.0
    ping_timeout_s: float = 4.0
    keepalive_s: float = 15.0


class Sessions:
    """Admits, counts and looks after subscribers.

    Attributes:
        live: by transport.
        closed: how many have ended, by the name of the reason.
        last_closed: those that ended last, with their numbers.
        budget: what waits for them, and what may.
        is_draining: whether the broker is going down.
    """

    def __init__(
        self,
        fanout: Fanout,
        *,
        most: int,
        most_per_address: int,
        limits: SessionLimits,
        times: SessionTimes,
        budget: BudgetLimits = BudgetLimits(),  # noqa: B008  # frozen
        server: str,
        time_ns: Callable[[], int],
        rng: random.Random = CHANCE,
        replays: Replays | None = None,
    ) -> None:
        """Let nobody in yet.

        Args:
            most_per_address: 0 for no limit of its own.
            server: as `welcome` says it.
            rng: draws the sessions' names.
            replays: plays recordings to them, where there are any.
        """
        self.limits = limits
        self.times = times
        self.live: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.last_closed = ClosedSessions()
        self.budget = Budget(budget, fanout.behind)
        self.opened = 0
        self.is_draining = False
        self._fanout = fanout
        self._most = most
        self._most_per_address = most_per_address
        self._server = server
        self._time_ns = time_ns
        self._rng = rng
        self._replays = replays
        #: In the order in which they came.
        self._keep_alive: dict[Subscriber, KeepAlive] = {}
        now = trio.current_time()
        self._heartbeats: Turns[Subscriber] = Turns(now)
        self._looks: Turns[Subscriber] = Turns(now)
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._keep_alive)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(list(self._keep_alive))

    def refusal(self, address: str) -> CloseReason | None:
        """Return why a newcomer can't be let in, or ``None``."""
        if self.is_draining:
            return errors.DRAINING
        if len(self._keep_alive) >= self._most:
            return errors.FULL
        if self._most_per_address and self._addresses[address] >= self._most_per_address:
            return errors.TOO_MANY_SESSIONS
        return None

    def open(
        self,
        stream: Stream,
        codec: Codec,
        framing: Framing,
        *,
        address: str,
        finish: Callable[[CloseReason], bytes],
        keep_alive: KeepAlive,
    ) -> tuple[Subscriber, Welcome]:
        """Let a subscriber in; `close` must follow.

        Args:
            address: the peer's, without its port.
            finish: returns what the transport sends behind `closing`.
            keep_alive: says what is to be sent to notice whether anybody is there; may end the session.

        Returns:
            It, and its first message, which the transport sends.
        """
        subscriber = Subscriber(
            self._rng.randbytes(8).hex(),
            router=self._fanout.router,
            fanout=self._fanout,
            wire=stream,
            codec=codec,
            framing=framing,
            limits=self.limits,
            peer=address,
            finish=finish,
        )
        if self._replays is not None:
            subscriber.session.replays = self._replays.of(subscriber)
        stream.on_dead = partial(self._lost, subscriber, stream)
        self._keep_alive[subscriber] = keep_alive
        self._heartbeats.add(subscriber, self._next_heartbeat(subscriber))
        self._looks.add(subscriber, -inf)
        self._addresses[address] += 1
        self.live[subscriber.transport] += 1
        self.opened += 1
        welcome = subscriber.session.welcome(self._server, self.times.heartbeat_s)
        return subscriber, welcome

    def close(self, subscriber: Subscriber, *, is_kept: bool = True) -> ClosedSession | None:
        """Take a subscriber out, whatever its state; harmless when repeated.

        Args:
            is_kept: whether it is to be found among those that ended last.

        Returns:
            What is kept, for whoever sends its last bytes to note whether they arrived.
        """
        if self._keep_alive.pop(subscriber, None) is None:
            return None
        self._heartbeats.remove(subscriber)
        self._looks.remove(subscriber)
        self._fanout.behind.pop(subscriber, None)
        self._addresses[subscriber.peer] -= 1
        if not self._addresses[subscriber.peer]:
            del self._addresses[subscriber.peer]
        self.live[subscriber.transport] -= 1
        reason = subscriber.ended or errors.CLIENT_GONE
        self.closed[reason.name] += 1
        record = subscriber.record(trio.current_time())
        subscriber.ended = reason
        subscriber.session.closed()
        log.debug("session closed", session=subscriber.session.id, reason=reason.name)
        return self.last_closed.add(record, reason, self._time_ns()) if is_kept else None

    def most_behind_first(self) -> list[Subscriber]:
        """Return all sessions: those for which most waits first, then the others as they came."""
        behind = {subscriber: subscriber.held() for subscriber in self._fanout.behind}
        first = sorted(behind, key=lambda subscriber: behind[subscriber][::-1], reverse=True)
        return first + [subscriber for subscriber in self._keep_alive if subscriber not in behind]

    def _lost(self, subscriber: Subscriber, stream: Stream) -> None:
        if stream.missed_deadline:
            subscriber.evict(errors.WRITE_DEADLINE, late_s=round(stream.late_s, 3))
        else:
            subscriber.end(errors.CLIENT_GONE)

    @property
    def ping_every_s(self) -> float:
        """The interval of pings in force: longer where many are connected, as an answer costs more than a tick.

        Whose machine has vanished is noticed without (`broker.runtime.stream.tune`); a ping finds programs that
        hang while their machine lives.
        """
        return max(self.times.ping_interval_s, self.live["ws"] / PINGS_PER_S)

    async def look_after(self) -> None:
        """Send heartbeats and pings, notice who is silent, and end who is over a budget; for ever."""
        while True:
            # Its own time, not the clock's: where the broker was held up, turns follow each other with the clients'
            # answers read between them, and nobody is given up whose pong lay unread.
            now = self._heartbeats.next_at
            # Behind each other, as in a round of the fan-out: it leaves the kernel's code in the caches.
            for wire, data in [*self._due_heartbeats(now), *self._due_signs_of_life(now)]:
                wire.offer(data)
            await self._keep_budget()
            while self._fanout.behind and self._heartbeats.next_at - trio.current_time() > COUNT_S:
                await trio.sleep(COUNT_S)
                await self._keep_budget()
            await trio.sleep_until(self._heartbeats.next_at)

    def _due_heartbeats(self, now: float) -> Iterator[tuple[Wire, bytes]]:
        """Yield who is sent a heartbeat in this turn; what is equal is made once."""
        ts = self._time_ns()
        made: dict[Hashable, bytes] = {}
        for subscriber in self._heartbeats.take():
            try:
                data = subscriber.heartbeat(now, ts, made)
            except Exception:
                # Ours, whatever it is; it must not reach the others.
                subscriber.fail("making a heartbeat failed")
                continue
            self._heartbeats.add(subscriber, self._next_heartbeat(subscriber))
            if data:
                yield subscriber.wire, data

    def _next_heartbeat(self, subscriber: Subscriber) -> float:
        # Rather one turn early than a second late.
        return subscriber.last_heartbeat + self.times.heartbeat_s - TURN_S

    def _due_signs_of_life(self, now: float) -> Iterator[tuple[Wire, bytes]]:
        """Yield who is pinged in this turn; who has been silent for too long is ended."""
        interval_s = self.ping_every_s
        for subscriber in self._looks.take():
            try:
                data, due = self._keep_alive[subscriber](now, interval_s)
            except Exception:
                subscriber.fail("looking after a session failed")
                continue
            self._looks.add(subscriber, due)
            if data:
                yield subscriber.wire, data

    async def _keep_budget(self) -> None:
        for number, over in enumerate(self.budget.check(), 1):
            over.subscriber.evict(over.reason, **{f"held_{over.resource}": over.held, "limit": over.limit})
            if number % EVICTIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

    def drain(self) -> None:
        """Let nobody in any more, and end every session: the broker is going down."""
        self.is_draining = True
        for subscriber in self:
            subscriber.end(errors.DRAINING)
