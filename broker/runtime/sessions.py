"""All sessions: who gets in, who is alive, who left and why."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

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
from broker.runtime.stream import Stream
from broker.runtime.subscriber import Subscriber

log = structlog.get_logger()

#: Sessions are looked after in turns, each once in `PERIOD_S`.
PERIOD_S = 1.0
SLOTS = 20
#: Sessions over their budget that are ended before the others have their turn.
EVICTIONS_PER_TURN = 16
#: The system's: a session's name can't be guessed.
CHANCE = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """Deadlines and intervals, in seconds.

    Attributes:
        heartbeat_s: between two `heartbeat` messages.
        ping_interval_s: a WebSocket client that has been silent for so long is pinged.
        ping_timeout_s: and given up if it stays silent for so much longer.
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
        self._slots: list[dict[Subscriber, Callable[[float], None]]] = [{} for _ in range(SLOTS)]
        self._next_slot = count()
        self._slot_of: dict[Subscriber, int] = {}
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._slot_of)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(list(self._slot_of))

    def refusal(self, address: str) -> CloseReason | None:
        """Return why a newcomer can't be let in, or ``None``."""
        if self.is_draining:
            return errors.DRAINING
        if len(self._slot_of) >= self._most:
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
        keep_alive: Callable[[Subscriber, float], None],
    ) -> tuple[Subscriber, Welcome]:
        """Let a subscriber in; `close` must follow.

        Args:
            address: the peer's, without its port.
            finish: returns what the transport sends behind `closing`.
            keep_alive: called about once a second, to ping or to give up.

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
        stream.on_dead = lambda: self._lost(subscriber, stream)
        slot = next(self._next_slot) % SLOTS
        self._slots[slot][subscriber] = lambda now: keep_alive(subscriber, now)
        self._slot_of[subscriber] = slot
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
        slot = self._slot_of.pop(subscriber, None)
        if slot is None:
            return None
        del self._slots[slot][subscriber]
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
        return first + [subscriber for subscriber in self._slot_of if subscriber not in behind]

    def _lost(self, subscriber: Subscriber, stream: Stream) -> None:
        if stream.missed_deadline:
            subscriber.evict(errors.WRITE_DEADLINE, late_s=round(stream.late_s, 3))
        else:
            subscriber.end(errors.CLIENT_GONE)

    async def look_after(self) -> None:
        """Send heartbeats and pings, notice who is silent, and end who is over a budget; for ever."""
        turn = count()
        while True:
            now = trio.current_time()
            ts = self._time_ns()
            for subscriber, keep_alive in list(self._slots[next(turn) % SLOTS].items()):
                try:
                    if now - subscriber.last_heartbeat >= self.times.heartbeat_s:
                        subscriber.heartbeat(now, ts)
                    keep_alive(now)
                except Exception:
                    # Ours, whatever it is; it must not reach the others.
                    subscriber.fail("looking after a session failed")
            await self._keep_budget()
            await trio.sleep(PERIOD_S / SLOTS)

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
