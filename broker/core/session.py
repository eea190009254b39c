"""A session: requests in, answers out, and who gets which topic. Pure.

What a client sends is decided upon and carried out in one synchronous step, so nothing can come between a
subscription's snapshot and its first update.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any

import msgspec

from broker.core import errors, messages
from broker.core.backlog import Backlog
from broker.core.codecs import Codec
from broker.core.delivery import Delivery, DeliveryLimits, negotiate
from broker.core.errors import CloseReason, RequestError
from broker.core.mailbox import LedgerEntry, Mailbox, Missing
from broker.core.marks import BEFORE_SNAPSHOT, BEHIND_SNAPSHOT
from broker.core.messages import Message
from broker.core.playing import cursor_of
from broker.core.replay import Plan, Replays
from broker.core.requests import request_id, to_request
from broker.core.router import Router
from broker.core.subscription import Subscription
from broker.core.tape import Entry
from broker.core.ticks import Channel, is_symbol, venue_of
from broker.core.topics import Topic, check_channel, parse_pattern

#: More messages than this in a minute that can't be understood end the session (protocol, section 2).
GARBAGE_PER_MINUTE = 20


class State(Enum):
    """Where a session stands."""

    OPENING = "opening"
    LIVE = "live"
    DRAINING = "draining"
    CLOSED = "closed"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPENING: frozenset({State.LIVE, State.CLOSED}),
    State.LIVE: frozenset({State.DRAINING, State.CLOSED}),
    State.DRAINING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


def _ignore() -> None:
    return None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one session may use."""

    subscriptions: int = 100
    symbols: int = 10_000
    message_bytes: int = 256 << 10
    requests_per_minute: int = 6000
    delivery: DeliveryLimits = field(default_factory=DeliveryLimits)


class Session:
    """One connected subscriber, whatever the transport.

    Attributes:
        subscriptions: by their number, in the order in which they were made.
        only: the subscription of a session that has one, as most do; saves a look-up for every write.
        close_reason: set once the session has to end; whoever runs it sends `closing` and closes.
        replays: reads recordings for it, where the broker has any.
        untold: gaps of subscriptions that have ended, by their number; told with the next message.
        on_change: called when a subscription has come, gone or changed.
    """

    def __init__(
        self, id_: str, router: Router, codec: Codec, limits: SessionLimits, owner: object = None
    ) -> None:
        """``owner`` is what its mailboxes name as theirs, to whoever gets a verdict of them."""
        self.id = id_
        self.owner = owner
        self.router = router
        self.codec = codec
        self.limits = limits
        self.state = State.OPENING
        self.subscriptions: dict[int, Subscription] = {}
        self.only: Subscription | None = None
        self.close_reason: CloseReason | None = None
        self.replays: Replays | None = None
        self.untold: list[tuple[int, Missing]] = []
        self.on_change: Callable[[], None] = _ignore
        self.requests = 0
        self._next_sub = 1
        self._owner: dict[Topic, Subscription] = {}
        self._named: dict[tuple[Channel, str], Subscription] = {}
        self._garbage: list[float] = []
        self._tokens = float(limits.requests_per_minute)
        self._refilled_at = 0.0

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def move_to(self, state: State) -> None:
        """Change the state, along `TRANSITIONS` only."""
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state

    def welcome(self, server: str, heartbeat_s: float) -> messages.Welcome:
        """Open the session; return its first message."""
        self.move_to(State.LIVE)
        limits = self.limits
        info = messages.LimitsInfo(
            subscriptions=limits.subscriptions,
            symbols=limits.symbols,
            message_bytes=limits.message_bytes,
            requests_per_minute=limits.requests_per_minute,
            queue_ticks=limits.delivery.queue_ticks,
            queue_bytes=limits.delivery.queue_bytes,
        )
        return messages.Welcome(self.id, self.router.tape.epoch, heartbeat_s, info, server)

    def close(self, reason: CloseReason, *, is_heard: bool = True) -> messages.Closing:
        """Begin to end: nothing more is offered; return the last message, with the final ledger.

        ``is_heard``: whether it will be sent; else nobody finds out which ticks the gaps before it were.
        """
        closing = messages.Closing(reason.code, reason.text, reason.retry_after_ms, self.ledger())
        self.close_reason = reason
        if self.state is State.LIVE:
            self.move_to(State.DRAINING)
        for sub in list(self.subscriptions.values()):
            if is_heard:
                self._end(sub)
            else:
                self._take_out(sub)
        return closing

    def closed(self) -> None:
        """End: hold nothing any more. Harmless when repeated."""
        for sub in list(self.subscriptions.values()):
            self._take_out(sub)
        if self.state is not State.CLOSED:
            self.move_to(State.CLOSED)

    def ledger(self) -> list[LedgerEntry]:
        """Return the account of every subscription, as of now."""
        return [sub.ledger() for sub in self.subscriptions.values()]

    def heartbeat(self, ts: int) -> messages.Heartbeat:
        """Return a heartbeat; ``ts`` is wall time in nanoseconds."""
        return messages.Heartbeat(ts, cursor_of(self)[0], self.ledger())

    def position(self) -> int:
        """Return the offset up to which the client has been sent everything it is to get."""
        position = self.router.tape.offset
        for sub in self.subscriptions.values():
            position = min(position, sub.position(position))
        return position

    def cursor(self, position: int, since: float = inf) -> str:
        """Return the cursor of a position; it says as well what a ``max_rate`` holds back from before it.

        ``since``: behind this offset something was held back that the client has not been told of yet.
        """
        held = min((sub.held_since(position) for sub in self.subscriptions.values()), default=position)
        return self.router.tape.cursor(position, int(min(held, since)))

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def handle(self, payload: str | bytes, now: float, ts: int) -> Message:
        """Carry out one request, and return its one answer.

        Args:
            payload: one message of the client.
            now: seconds of the broker's clock.
            ts: wall time in nanoseconds, for a `pong`.

        Returns:
            The answer. ``close_reason`` is set if the session has to end behind it.
        """
        self.requests += 1
        id_: int | None = None
        try:
            self._spend_token(now)
            fields = self.codec.decode(payload)
            id_ = request_id(fields)
            return self._carry_out(to_request(fields), now, ts)
        except RequestError as exc:
            if id_ is None and exc.code != "too_many_requests":
                self._count_garbage(now)
            return messages.Error(id_, exc.code, str(exc), exc.retry)

    def _spend_token(self, now: float) -> None:
        full = self.limits.requests_per_minute
        self._tokens = min(full, self._tokens + (now - self._refilled_at) * full / 60)
        self._refilled_at = now
        if self._tokens < 1:
            self.close_reason = errors.TOO_MANY_REQUESTS
            raise RequestError("too_many_requests", f"more than {full} requests a minute", retry=True)
        self._tokens -= 1

    def _count_garbage(self, now: float) -> None:
        self._garbage.append(now)
        while self._garbage[0] < now - 60:
            self._garbage.pop(0)
        if len(self._garbage) > GARBAGE_PER_MINUTE:
            self.close_reason = errors.GARBAGE

    def _carry_out(self, request: messages.Request, now: float, ts: int) -> Message:
        match request:
            case messages.Ping():
                return messages.Pong(request.id, ts)
            case messages.Subscribe():
                return self.subscribe(request, now)
            case messages.Unsubscribe():
                return messages.Ack(
                    request.id, "unsubscribe", sub=request.sub, ledger=self._end(self._find(request.sub))
                )
            case messages.Modify():
                return self._modify(request)
            case messages.List():
                infos = [
                    messages.SubscriptionInfo(sub.id, sub.ch, sub.symbols, sub.delivery)
                    for sub in self.subscriptions.values()
                ]
                return messages.Ledger(request.id, infos, self.ledger())
            case messages.Auth():
                # Nothing is behind a key yet: a client that always shows one is let in as well.
                return messages.Ack(request.id, "auth")

    def _find(self, number: int) -> Subscription:
        sub = self.subscriptions.get(number)
        if sub is None:
            have = ", ".join(map(str, self.subscriptions)) or "none"
            raise RequestError("unknown_subscription", f"sub: {number} is not one of this session's ({have})")
        return sub

    # ── subscribing ──────────────────────────────────────────────────────────────────────────────

    def subscribe(self, request: messages.Subscribe, now: float) -> messages.Ack:
        """Open a subscription.

        Raises:
            RequestError: it is refused, and nothing has changed.
        """
        ch = check_channel(request.ch)
        delivery = negotiate(ch, request.delivery, self.limits.delivery)
        self._check_room(len(request.symbols))
        plan = self._plan(request)
        accepted, rejected = self._sort_symbols(ch, request.symbols, plan)
        if not accepted:
            raise _nothing_accepted(rejected)
        self._look_at_ticks_again()
        sub = Subscription(self._next_sub, ch, accepted, delivery, self._open(ch, delivery))
        self._next_sub += 1
        self.subscriptions[sub.id] = sub
        self._note_only()
        if plan is None or plan.is_over:
            self._claim(sub, request.cursor)
            cursor = self._start(sub, request.cursor, request.snapshot, now)
        else:
            self._claim(sub, None)
            cursor = self._play(sub, plan)
        return messages.Ack(
            request.id,
            "subscribe",
            sub=sub.id,
            ch=ch,
            symbols=accepted,
            rejected=rejected,
            delivery=delivery,
            cursor=cursor,
        )

    def _plan(self, request: messages.Subscribe) -> Plan | None:
        """Check what a subscription is to begin with, if that is a replay."""
        if request.replay is None:
            return None
        if request.snapshot is not None:
            raise RequestError(
                "invalid_request",
                f"snapshot: {request.snapshot} does not go with replay, which shows what is needed; leave it out",
            )
        if self.replays is None:
            raise RequestError("unknown_recording", "replay.recording: this broker has no recordings")
        return self.replays.plan(request.replay, request.cursor)

    def _play(self, sub: Subscription, plan: Plan) -> str:
        """Play a recording first; the topics are attached when it is over (`broker.core.playing`)."""
        assert self.replays is not None
        sub.replay = self.replays.start(sub, plan, lambda symbol: self._is_for(sub, symbol))
        return cursor_of(self)[0]

    def _is_for(self, sub: Subscription, symbol: str) -> bool:
        """Tell whether a symbol is this subscription's, by the rule that `_claim` follows."""
        named = self._named.get((sub.ch, symbol))
        if named is not None:
            return named is sub
        venue = venue_of(symbol)
        for other in self.subscriptions.values():
            if other.ch == sub.ch and ("*" in other.patterns or venue in other.patterns):
                return other is sub
        return False

    def _open(self, ch: Channel, delivery: Delivery) -> Mailbox:
        mailbox = Mailbox(ch, delivery, self.limits.delivery, owner=self.owner)
        mailbox.wants_json = delivery.mode == "every" and not self.codec.is_binary
        self.router.mailboxes[mailbox] = None
        return mailbox

    def hasten(self) -> None:
        """Let the ticks of the only subscription come as bytes, of whom nothing waits, if its contract allows it."""
        sub = self.only
        if sub is not None and sub.mailbox.begin_encoded(self.router.recall, sub.topics):
            for topic in sub.topics:
                topic.forget_routes()

    def _look_at_ticks_again(self) -> None:
        """Let ticks come as entries: they have to be put in order with others, or a contract changes."""
        for sub in self.subscriptions.values():
            if sub.mailbox.end_encoded():
                for topic in sub.topics:
                    topic.forget_routes()

    def _note_only(self) -> None:
        subs = self.subscriptions
        self.only = next(iter(subs.values())) if len(subs) == 1 else None
        self.on_change()

    def _check_room(self, symbols: int) -> None:
        limits = self.limits
        if len(self.subscriptions) >= limits.subscriptions:
            raise RequestError(
                "too_many_subscriptions",
                f"this session has {len(self.subscriptions)} subscriptions, and {limits.subscriptions} are the most",
            )
        have = sum(len(sub.symbols) for sub in self.subscriptions.values())
        if have + symbols > limits.symbols:
            raise RequestError(
                "too_many_symbols",
                f"symbols: {symbols} more to the {have} of this session are too many; "
                f"{limits.symbols} are the most (a pattern counts as one)",
            )

    def _sort_symbols(
        self, ch: Channel, symbols: Sequence[str], plan: Plan | None
    ) -> tuple[list[str], list[messages.Rejected]]:
        topics = self.router.topics
        accepted: dict[str, None] = {}
        rejected = []
        for symbol in symbols:
            venue = parse_pattern(symbol)
            code: Any = None
            if symbol in accepted or (ch, symbol) in self._named:
                code = "already_subscribed"
            elif venue is not None:
                is_known = topics.knows_venue(venue) or (plan is not None and plan.covers(venue))
                code = None if is_known else "unknown_venue"
            elif not is_symbol(symbol):
                code = "invalid_symbol"
            elif not topics.knows(symbol) and (plan is None or not plan.covers(venue_of(symbol))):
                code = "unknown_symbol"
            if code is None:
                accepted[symbol] = None
            else:
                rejected.append(messages.Rejected(symbol[:80], code))
        return list(accepted), rejected

    def _claim(self, sub: Subscription, cursor: str | None) -> None:
        """Make the subscription the owner of its topics: names before patterns, earlier before later."""
        topics, tape = self.router.topics, self.router.tape
        offset = None if cursor is None else tape.parse_cursor(cursor)
        replayed: dict[Subscription, dict[Topic, int]] = {}
        left: dict[Subscription, dict[Topic, int]] = {}
        for symbol in sub.symbols:
            self._named[sub.ch, symbol] = sub
            if parse_pattern(symbol) is not None:
                continue
            topic = topics.get(sub.ch, symbol)
            previous = self._owner.get(topic)
            if previous is None:
                self._own(topic, sub)
                continue
            start = None if offset is None else tape.first_after(topic, offset)
            left.setdefault(previous, {})[topic] = previous.topics[topic]
            self._take_over(topic, sub, previous, start)
            if start is not None:
                replayed.setdefault(previous, {})[topic] = start
        for previous, gone in left.items():
            previous.mailbox.let_go(gone)
        for previous, first in replayed.items():
            previous.mailbox.withdraw(first, left[previous])
        for venue in sub.patterns:
            for topic in topics.matching(sub.ch, venue):
                if topic not in self._owner:
                    self._own(topic, sub)
            topics.watch(sub.ch, venue, self, self._adopt)

    def _take_over(self, topic: Topic, sub: Subscription, previous: Subscription, start: int | None) -> None:
        """Pass a topic on; ``start``: from which ``seq`` on the new owner replays it, if it does."""
        topic.detach(previous.mailbox)
        unread = previous.leave(topic)
        if unread is not None and (start is None or start > unread):
            last = topic.seq if start is None else start - 1
            previous.mailbox.lose(topic, unread, last, "overflow")
        self._own(topic, sub)

    def _own(self, topic: Topic, sub: Subscription) -> None:
        self._owner[topic] = sub
        sub.topics[topic] = topic.seq + 1

    def _adopt(self, topic: Topic) -> None:
        """Give a topic that is new, or has become free, to the first pattern that matches it."""
        for sub in self.subscriptions.values():
            if sub.ch == topic.ch and ("*" in sub.patterns or topic.venue in sub.patterns):
                if topic not in self._owner:
                    self._own(topic, sub)
                    if sub.replay is None:
                        topic.attach(sub.mailbox)
                return

    def _start(self, sub: Subscription, cursor: str | None, snapshot: bool | None, now: float) -> str:
        """Attach the topics, from the cursor on if there is one; return where the subscription begins."""
        tape = self.router.tape
        wanted: list[Topic] = []
        if snapshot or (snapshot is None and cursor is None):
            wanted = list(sub.topics)
        begin = tape.offset
        since: float = inf
        if cursor is None:
            self._attach(sub)
            self._begin_lost(sub, wanted)
        else:
            place = tape.parse_place(cursor)
            begin = tape.offset if place is None else place[0]
            held = {} if place is None else self._held_back(sub, place)
            too_old = self._resume(sub, None if place is None else begin, now, held)
            if place is not None and held:
                since = sub.shown_since = place[1]
                self._begin_lost(sub, held, BEHIND_SNAPSHOT)
            shown = [topic for topic, start in held.items() if start > topic.seq or not _is_replayed(sub)]
            wanted = list(dict.fromkeys([*wanted, *too_old, *shown]))
            self._tell_lost(sub, wanted, but=[*too_old, *held])
        self._show(sub, wanted, now)
        # It covers the whole session: the other subscriptions may still have something queued.
        return self.cursor(min(begin, self.position()), since)

    def begin_live(self, sub: Subscription, now: float) -> None:
        """Take up every topic of a subscription as it stands now, behind a replay of something else."""
        self._attach(sub)
        self._show(sub, sub.topics, now)
        self._begin_lost(sub, sub.topics)

    def resume(self, sub: Subscription, offset: int, now: float, shown: Sequence[Topic]) -> None:
        """Take up every topic of a subscription behind ``offset``; the snapshot has ``shown``, if only it helps."""
        too_old = self._resume(sub, offset, now)
        self._show(sub, dict.fromkeys([*shown, *too_old]), now)
        self._tell_lost(sub, shown, but=too_old)

    @staticmethod
    def _attach(sub: Subscription) -> None:
        for topic in sub.topics:
            topic.attach(sub.mailbox)

    def _show(self, sub: Subscription, topics: Iterable[Topic], now: float) -> None:
        tape = self.router.tape
        topics = list(topics)
        entries = [entry for topic in topics for entry in tape.snapshot(topic, now)]
        # Who waits for a snapshot gets one, also if it can't show anything now.
        if entries or any(topic.is_lost and topic.seq for topic in topics):
            sub.snapshot = deque(entries)
            sub.snapshot_offset = tape.offset

    @staticmethod
    def _tell_lost(sub: Subscription, topics: Iterable[Topic], but: Sequence[Topic]) -> None:
        """Tell who resumes, and wants a snapshot, of books that it can't show; ``but``: has been told a gap."""
        for topic in topics:
            if topic.is_lost and topic not in but:
                sub.mailbox.note_gap(topic, None, None, "feed_reset")

    def _begin_lost(self, sub: Subscription, topics: Iterable[Topic], beside: int = BEFORE_SNAPSHOT) -> None:
        """Tell a new subscriber of books that its snapshot can't show, and where their ticks begin.

        ``beside``: where the gaps stand beside the snapshot; behind all others, if there are some.
        """
        place = self.router.tape.offset, beside
        for topic in topics:
            if topic.is_lost and topic.seq:
                sub.mailbox.mark(topic, place, topic.seq, "feed_reset")

    def _resume(
        self, sub: Subscription, offset: int | None, now: float, held: Collection[Topic] = ()
    ) -> list[Topic]:
        """Take up every topic behind ``offset``; return those for which only a snapshot can help.

        ``held``: topics of which something from before may be missing. A snapshot shows the newest, and the count
        begins there; where every tick is replayed nevertheless, a gap says where.

        Whoever comes back from before the feed missed something of a book is told of it. In its place, where every
        tick is replayed; where the newest is enough, ahead of the book, or instead of it until the next snapshot.
        """
        first: dict[Topic, int] = {}
        resets: list[tuple[int, Topic]] = []
        newest: list[tuple[Entry, int]] = []
        too_old = []
        for topic in sub.topics:
            start = None if offset is None else self.router.tape.first_after(topic, offset)
            if start is None and topic.seq:
                too_old.append(topic)
                # Where no snapshot says behind which tick it goes on, the gap does.
                last = None if offset is None and not topic.is_lost else topic.seq
                sub.mailbox.note_gap(topic, None, last, "cursor_too_old")
                topic.attach(sub.mailbox)
                continue
            if start is not None and topic in held:
                if not _is_replayed(sub):
                    topic.attach(sub.mailbox)
                    continue
                if sub.delivery.max_rate is not None:
                    sub.mailbox.note_gap(topic, None, start - 1, "overflow")
            if offset is not None:
                resets += [(each, topic) for each in self.router.tape.resets_since(topic, offset)]
            if start is not None and start <= topic.seq:
                if _is_replayed(sub):
                    first[topic] = start
                    topic.resuming[sub.mailbox] = None
                    continue
                if topic.is_lost:
                    sub.mailbox.lose(topic, start, topic.seq, "feed_reset")
                newest += _conflated(topic, start, self.router.tape.snapshot(topic, now), now)
                sub.topics[topic] = start
            topic.attach(sub.mailbox)
        for each, topic in sorted(resets, key=lambda pair: pair[0]):
            sub.mailbox.mark(topic, (each, BEHIND_SNAPSHOT), None, "feed_reset")
        for entry, conflated in sorted(newest, key=lambda pair: pair[0].offset):
            sub.mailbox.offered += conflated
            sub.mailbox.conflated += conflated
            sub.mailbox.inbox.append(entry)
        sub.mailbox.admit()
        if first:
            sub.backlog = Backlog(self.router.tape, first)
        return too_old

    def _held_back(self, sub: Subscription, place: tuple[int, int]) -> dict[Topic, int]:
        """Return topics of which a tick may have been held back when the cursor of this place was sent.

        Only where the newest counts: ``every`` gets all ticks behind the cursor, and none from before it again.

        Returns:
            Each with the ``seq`` of its first tick behind the cursor.
        """
        offset, since = place
        if since == offset or sub.delivery.mode == "every":
            return {}
        tape = self.router.tape
        held: dict[Topic, int] = {}
        for topic in sub.topics:
            start, first = tape.first_after(topic, offset), tape.first_after(topic, since)
            if start is not None and (first is None or first < start):
                held[topic] = start
        return held

    # ── changing and ending ──────────────────────────────────────────────────────────────────────

    def _modify(self, request: messages.Modify) -> messages.Ack:
        sub = self._find(request.sub)
        delivery = negotiate(sub.ch, request.delivery, self.limits.delivery, sub.delivery)
        self._look_at_ticks_again()
        if not sub.mailbox.change(delivery):
            raise RequestError(
                "invalid_delivery",
                f"delivery.queue: {delivery.queue} with overflow 'evict' would evict at once; "
                f"{len(sub.mailbox)} ticks are queued",
                retry=True,
            )
        sub.mailbox.wants_json = delivery.mode == "every" and not self.codec.is_binary
        sub.delivery = delivery
        self.on_change()
        return messages.Ack(
            request.id, "modify", sub=sub.id, ch=sub.ch, symbols=sub.symbols, delivery=delivery
        )

    def _end(self, sub: Subscription) -> LedgerEntry:
        """Take the subscription out, and return its account; what has to be told of it is told later."""
        ledger = sub.ledger()
        sub.mailbox.reach()
        self.untold += [(sub.id, gap) for gap in sub.mailbox.take_gaps()]
        self._take_out(sub)
        return ledger

    def _take_out(self, sub: Subscription) -> None:
        """Take the subscription out; topics that an earlier pattern also covers go back to it."""
        if sub.replay is not None:
            sub.replay.cancel()
        topics = self.router.topics
        del self.subscriptions[sub.id]
        self._note_only()
        del self.router.mailboxes[sub.mailbox]
        for symbol in sub.symbols:
            self._named.pop((sub.ch, symbol), None)
        for venue in sub.patterns:
            # Another subscription can't have the same pattern: it would have been rejected.
            topics.unwatch(sub.ch, venue, self)
        for topic in list(sub.topics):
            topic.detach(sub.mailbox)
            del self._owner[topic]
            self._adopt(topic)
            topics.discard_unused(topic)


def _is_replayed(sub: Subscription) -> bool:
    """Tell whether a resume brings every tick: each change of a state has to arrive, and all volume."""
    return sub.delivery.mode == "every" or sub.ch in ("status", "trade")


def _conflated(topic: Topic, start: int, state: Sequence[Entry], now: float) -> list[tuple[Entry, int]]:
    """Return what is new of a topic's ``state`` since ``start``, each with how many older ticks it stands for."""
    entries = [entry for entry in state if entry.seq >= start]
    older = topic.seq - start + 1 - len(entries)
    # It waits from now on: a resumed price is not stale because the client was away.
    fresh = [msgspec.structs.replace(entry, at=now) for entry in entries]
    return [(entry, older if index == 0 else 0) for index, entry in enumerate(fresh)]


def _nothing_accepted(rejected: list[messages.Rejected]) -> RequestError:
    codes = {item.code for item in rejected}
    shown = ", ".join(f"{item.symbol!r} ({item.code})" for item in rejected[:5])
    more = f" and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    return RequestError(
        codes.pop() if len(codes) == 1 else "no_symbols",
        f"symbols: none of them can be accepted: {shown}{more}; "
        "right is VENUE:SYMBOL, upper case, one that /v1/symbols lists, or VENUE:*, or *",
    )
