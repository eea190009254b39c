"""How a session stands, or stood at its end, in numbers that can be kept by the thousand."""

from __future__ import annotations

from itertools import islice

from msgspec import Struct

from broker.core.delivery import Delivery
from broker.core.mailbox import LedgerEntry
from broker.core.session import Session
from broker.core.subscription import Subscription
from broker.core.ticks import Channel

#: Of a session so many subscriptions are recorded, and so many symbols of each: a record has a bound.
MOST_SUBSCRIPTIONS = 20
MOST_SYMBOLS = 5


class SubscriptionRecord(Struct, array_like=True, gc=False, frozen=True):
    """One subscription.

    Attributes:
        symbols: the first of them, patterns as given.
        symbols_total: how many there are.
        queued_bytes: of the ticks that its ledger calls pending, those of a backlog left out.
        peak_ticks: the most that were ever queued.
    """

    sub: int
    ch: Channel
    symbols: list[str]
    symbols_total: int
    delivery: Delivery
    ledger: LedgerEntry
    queued_bytes: int
    peak_ticks: int


class SessionRecord(Struct, array_like=True, gc=False, frozen=True):
    """One session; durations in seconds of Trio's clock.

    Attributes:
        transport, codec: as they stand in statistics.
        lived_s: since it was let in.
        silent_s: since the client last said anything.
        requests: that it made.
        queued_ticks, queued_bytes: that wait in its mailboxes.
        unsent_bytes: that wait for the kernel.
        oldest_s: how long the oldest queued tick has waited; ``None`` if none is queued.
        subscriptions: the first of them.
        subscriptions_total: how many there are.
    """

    id: str
    peer: str
    transport: str
    codec: str
    lived_s: float
    silent_s: float
    requests: int
    queued_ticks: int
    queued_bytes: int
    unsent_bytes: int
    oldest_s: float | None
    subscriptions: list[SubscriptionRecord]
    subscriptions_total: int


def subscription_records(session: Session) -> list[SubscriptionRecord]:
    """Return the first subscriptions of a session, as they stand."""
    return [_record(sub) for sub in islice(session.subscriptions.values(), MOST_SUBSCRIPTIONS)]


def _record(sub: Subscription) -> SubscriptionRecord:
    return SubscriptionRecord(
        sub=sub.id,
        ch=sub.ch,
        symbols=sub.symbols[:MOST_SYMBOLS],
        symbols_total=len(sub.symbols),
        delivery=sub.delivery,
        ledger=sub.ledger(),
        queued_bytes=sub.mailbox.bytes,
        peak_ticks=max(sub.mailbox.peak, len(sub.mailbox)),
    )


def oldest_tick_at(session: Session) -> float | None:
    """Return when the oldest queued tick was put on the tape, by Trio's clock."""
    first = [next(iter(sub.mailbox.peek()), None) for sub in session.subscriptions.values()]
    return min((entry.at for entry in first if entry is not None), default=None)
