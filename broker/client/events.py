"""What a subscription yields, what it counts, and what its client counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from broker.core.delivery import Mode
from broker.core.ticks import Tick

#: The kind of tick: that of the subscription's channel.
T_co = TypeVar("T_co", bound=Tick, covariant=True)


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T_co]):
    """The present state of symbols: the newest tick of each, the whole book on ``book``.

    Attributes:
        ticks: not part of the flow: ``seq`` says where the updates go on from.
        cursor: where a later subscription takes up behind this event.
        is_complete: false for all parts of a large snapshot but the last.
    """

    ticks: Sequence[T_co]
    cursor: str | None
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Update(Generic[T_co]):
    """Ticks as they happened, oldest first, those of one symbol without a repetition.

    Attributes:
        cursor: where a later subscription takes up behind this event.
    """

    ticks: Sequence[T_co]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """Ticks of one symbol that will not come.

    On ``book`` the state that you have is of no more use until the next snapshot. Where the broker does not send
    one by itself (``overflow``, ``stale``, ``unexplained``) the client asks for it, by subscribing anew, and
    keeps the deltas in between to itself: a `Gap` is followed by a `Snapshot` with the whole book.

    Attributes:
        sub: the broker's number of the subscription, as on the wire.
        first, last: ``seq`` of the missing ticks, both inclusive; ``None`` where nobody knows.
        reason: ``overflow``, ``cursor_too_old``, ``feed_reset`` or ``stale`` as the broker says (protocol,
            section 2), or ``unexplained``: the client found a hole that the broker did not account for.
    """

    sub: int
    ch: str
    sym: str
    first: int | None
    last: int | None
    reason: str

    @property
    def missing(self) -> int | None:
        """How many ticks are missing; ``None`` if that is not known."""
        return None if self.first is None or self.last is None else self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Notice:
    """The broker says how it finds this subscriber: in time to do something about it.

    It overtakes the ticks that are queued, so it says nothing about its place among them.

    Attributes:
        sub: the broker's number of the subscription; ``None``: all of this client's.
        state: ``pressed`` (the queue is long), ``degraded`` (it turned to ``latest`` until it is drained),
            ``recovered``, or whatever a later broker says.
        queued: ticks that wait there.
        limit: ticks that may.
    """

    sub: int | None
    state: str
    queued: int | None
    limit: int | None


Event: TypeAlias = Snapshot[T_co] | Update[T_co] | Gap | Notice
AnyEvent: TypeAlias = Event[Tick]


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """The client's own account of one subscription, over all connections; all in ticks but ``gaps``.

    Attributes:
        mode: in force; ``None`` before the first answer.
        ticks: received in updates, without repetitions.
        snapshots: received in snapshots.
        conflated: jumps in ``seq`` where the contract allows them (``latest``, ``degrade``): the broker merged
            those into later ones; or a book's snapshot stands for them.
        gaps: how often something was missing.
        missing: what those gaps add up to, where that is known.
        unexplained: jumps in ``seq`` in mode ``every`` that no gap accounts for. More than 0 is a fault.
        duplicates: came again after a reconnect, and were not handed on.
        withheld: deltas to a book that was missing some, not handed on.
        buffered: received and not yet taken by the application.
    """

    mode: Mode | None = None
    ticks: int = 0
    snapshots: int = 0
    conflated: int = 0
    gaps: int = 0
    missing: int = 0
    unexplained: int = 0
    duplicates: int = 0
    withheld: int = 0
    buffered: int = 0


State = Literal["connecting", "connected", "reconnecting", "closed"]


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """How the connection is.

    Attributes:
        session, server, epoch: as the broker said in its last welcome.
        reconnects: connections after the first one.
        attempts: failed ones since the last success.
        messages: received, on all connections.
        puzzles: messages that made no sense and were ignored. More than 0 is a fault.
        strays: ticks of subscriptions that had ended meanwhile.
        last_error: why the last connection was lost, or could not be made; empty if none ever was.
    """

    state: State
    url: str
    session: str
    server: str
    epoch: str
    reconnects: int
    attempts: int
    messages: int
    puzzles: int
    strays: int
    last_error: str
