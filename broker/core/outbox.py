"""What goes to a subscriber next, as bytes, a write at a time. Pure.

Order: gaps, then what waited when a snapshot was asked for, that snapshot, and what came since. But a gap behind which
a book is not known has its own place: behind what was on the tape when it happened, a snapshot of then included.
Ticks leave in the order of the tape, those that a resume has to catch up with and those of all queues together. So
the ticks of a topic leave in the order of their `seq`, and every cursor that is sent means what it says: all before
it has been sent, and nothing behind it.

A write is kept near `WRITE_BYTES`: what is in the socket can't be conflated any more, and what is in one
write has to be taken within one write deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any

from broker.core.codecs import Codec
from broker.core.framing import Framing
from broker.core.mailbox import Mailbox, Verdict
from broker.core.marks import AT_SNAPSHOT, Place
from broker.core.messages import Ack, Closing, Gap, Ledger, Message, Notice
from broker.core.packing import shared_packer
from broker.core.playing import cursor_of, take_played
from broker.core.queues import Item
from broker.core.session import Session
from broker.core.subscription import Subscription
from broker.core.tape import Entry

WRITE_BYTES = 64 << 10
#: Quotes and trades take some 130 bytes each; what is larger (books, states) is measured.
WRITE_TICKS = 512
WRITE_BOOKS = 32
#: Gaps in one write; a stalled subscriber of everything has one for each symbol.
WRITE_GAPS = 256


class Outbox:
    """Turns what a session holds into writes for its transport.

    One that is used for every write, as mailboxes and subscribers are: with thousands of them, what a write
    costs is how many places in memory it looks at. So they have slots, and the usual case looks at few.

    Attributes:
        may_have_more: whether it is worth while to `take` again at once.
        evicted: set when a queue went over its limit and the contract says `evict`: then nothing more is taken.
        due: when a tick that is held back by a ``max_rate`` may go; ``None`` without one.
        lane: the session's only mailbox while all there is to be sent are the ticks in its inbox, as bytes, if it
            `Mailbox.is_clear`. Then whoever is in a hurry may take them himself, up to `WRITE_TICKS`, and count them.
        pack_encoded: makes a write of them, and of the cursor behind them.
    """

    __slots__ = (
        "_codec",
        "_framing",
        "_gaps",
        "_is_new",
        "_most",
        "_pack",
        "_plain",
        "_router",
        "_session",
        "_shared_framing",
        "due",
        "evicted",
        "lane",
        "may_have_more",
        "pack_encoded",
    )

    def __init__(self, session: Session, codec: Codec, framing: Framing) -> None:
        self._session = session
        self._router = session.router
        self._codec = codec
        self._framing = framing
        self._gaps: list[Gap] = []
        session.on_change = self.forget_plain
        self._shared_framing = framing.shared
        packer = shared_packer(codec, self._shared_framing)
        self._pack, self.pack_encoded = packer.update, packer.update_encoded
        #: The session's only mailbox while there is nothing but its ticks to be sent, else ``None``; since just now?
        self._plain: Mailbox | None = None
        self._is_new = False
        self.lane: Mailbox | None = None
        self._most = 0
        self.may_have_more = True
        self.evicted: Subscription | None = None
        self.due: float | None = None

    def message(self, message: Message) -> bytes:
        """Return one message as a write; ahead of one with an account or a cursor go the gaps it stands behind."""
        framed = self._frame(message)
        if isinstance(message, Ledger | Closing):
            framed = self._all_gaps() + framed
        elif isinstance(message, Ack) and (message.ledger or message.cursor):
            # But those of a new subscription: it is not known to the client yet.
            framed = self._all_gaps(but=message.sub or 0) + framed
        return self._framing.batch(framed)

    def _frame(self, message: Message, cursor: str = "") -> bytes:
        kind = str(type(message).__struct_config__.tag)
        return self._framing.frame(kind, self._codec.encode(message), cursor)

    def heartbeat(self, ts: int, made: dict[Hashable, bytes] | None = None) -> bytes:
        """Return a heartbeat behind every gap that its account counts.

        Args:
            ts: wall time in nanoseconds.
            made: those of others of the same ``ts``, one for each account; thousands of idle sessions have the same.
        """
        account = None if made is None else self._account_at_rest()
        if made is None or account is None:
            return self._make_heartbeat(ts)
        data = made.get(account)
        if data is None:
            data = made[account] = self._make_heartbeat(ts)
        return data

    def _account_at_rest(self) -> Hashable | None:
        """Return all that a heartbeat says, but its time, if nothing waits or has to be said first; else ``None``."""
        session, plain = self._session, self._plain
        if plain is None or session.only is None or not plain.is_clear or plain.inbox or session.untold:
            return None
        # Nothing is pending then, and the cursor is the tape's.
        counts = plain.passed, plain.offered, plain.delivered, plain.conflated, plain.dropped
        return self._codec, self._shared_framing, self._router.tape.offset, session.only.id, counts

    def _make_heartbeat(self, ts: int) -> bytes:
        message = self._session.heartbeat(ts)
        framed = self._frame(message, self._resumable(message.cursor))
        return self._framing.batch(self._all_gaps() + framed)

    def take(self, now: float) -> bytes:
        """Return the next write, empty if nothing waits. What it holds counts as delivered.

        Args:
            now: seconds of the broker's clock.
        """
        plain = self._plain
        if plain is None:
            plain = self._look_whether_plain()
        if plain is not None:
            taken = plain.take_fresh(self._most)
            if taken is not None:
                self.may_have_more = False
                return self._pack_fresh(plain, taken)
        self.may_have_more = True
        self._plain = self.lane = None
        return self._take_in_order(now)

    def _pack_fresh(self, plain: Mailbox, taken: list[Any]) -> bytes:
        """Return all there was as a write, and have what comes behind it come as bytes, if that is possible."""
        is_encoded = plain.is_encoded
        if self._is_new:
            self._is_new = False
            self._session.hasten()
            # A book's are larger than a write may be.
            self.lane = plain if plain.is_encoded and plain.ch != "book" else None
        if not taken:
            return b""
        self._router.delivered += len(taken)
        cursor = self._router.tape.cursor()
        return self.pack_encoded(taken, cursor) if is_encoded else self._pack(taken, cursor, cursor)

    def forget_plain(self) -> None:
        """Look anew what there is to be sent: a subscription has come, gone or changed."""
        self._plain = self.lane = self.due = None

    def _look_whether_plain(self) -> Mailbox | None:
        """Return the mailbox whose ticks are all there is to be sent, as mostly; ``None`` if there is more."""
        sub = self._session.only
        if sub is None or self._gaps or sub.snapshot is not None or sub.backlog is not None:
            return None
        if sub.delivery.max_age_ms is not None or sub.delivery.max_rate is not None:
            return None
        if sub.replay is not None:
            return None
        self._plain = sub.mailbox
        self._is_new = True
        self._most = WRITE_BOOKS if sub.ch == "book" else WRITE_TICKS
        return self._plain

    def _update(self, entries: Sequence[Entry]) -> bytes:
        """Return ticks as an update."""
        self._router.delivered += len(entries)
        cursor = self._session.cursor(self._session.position())
        return self._pack(entries, cursor, self._resumable(cursor))

    def _resumable(self, cursor: str) -> str:
        """Return a cursor for an `EventSource` to come back with: none while a snapshot is incomplete.

        A resume brings no snapshot, so it would never see the symbols that were still to come.
        """
        is_good = True
        for sub in self._session.subscriptions.values():
            if sub.snapshot is not None:
                return ""
            if sub.replay is not None:
                is_good = cursor_of(self._session)[1]
        return cursor if is_good else ""

    def settle(self) -> Subscription | None:
        """Keep every queue within its bounds; return the subscription that has to be evicted, if any."""
        for sub in self._session.subscriptions.values():
            if sub.mailbox.settle() is Verdict.EVICT:
                self.evicted = sub
        return self.evicted

    def press(self) -> Subscription | None:
        """Do as `settle`, for a subscriber that has to wait; whose queue is too full by then is to be told."""
        for sub in self._session.subscriptions.values():
            if sub.mailbox.settle() is Verdict.EVICT:
                self.evicted = sub
            sub.mailbox.press()
        return self.evicted

    def notices(self) -> bytes:
        """Return what has to be said of steps on the ladder; it goes ahead of all data, and of a full wire."""
        noted = [
            Notice(noted.state, sub.id, noted.queued, noted.limit)
            for sub in self._session.subscriptions.values()
            if sub.mailbox.has_notices
            for noted in sub.mailbox.take_notices()
        ]
        return self._framing.batch(b"".join(map(self._frame, noted))) if noted else b""

    def _take_in_order(self, now: float) -> bytes:
        session = self._session
        subs = list(session.subscriptions.values())
        for sub in subs:
            if sub.mailbox.verdict is Verdict.EVICT:
                self.evicted = sub
                return b""
            sub.mailbox.release(now)
            age = sub.delivery.max_age_ms
            if age is not None:
                sub.mailbox.expire(now - age / 1000)
        self.due = min((due for sub in subs if (due := sub.mailbox.due) is not None), default=None)
        if said := self.notices() or self._take_gaps():
            return said
        if lost := self._take_lost(subs):
            return lost
        pending = [sub for sub in subs if sub.snapshot is not None]
        first = min(pending, key=lambda sub: sub.snapshot_offset, default=None)
        place = min((mark for sub in subs if (mark := sub.mailbox.first_mark()) is not None), default=None)
        if place is not None and (first is None or place < (first.snapshot_offset, AT_SNAPSHOT)):
            return self._take_upto_mark(subs, place)
        if first is not None:
            return self._take_ticks(subs, first.snapshot_offset) or self._take_snapshot(first)
        ticks = self._take_ticks(subs, None)
        self.may_have_more |= any(sub.replay is not None for sub in subs)
        return ticks or self._take_played(now)

    def _take_upto_mark(self, subs: Sequence[Subscription], place: Place) -> bytes:
        """Return what stands before a gap that has a place of its own, then that gap."""
        ticks = self._take_ticks(subs, place[0])
        self.may_have_more = True
        if ticks:
            return ticks
        for sub in subs:
            sub.mailbox.reach(place)
        return self._take_gaps()

    def _take_played(self, now: float) -> bytes:
        """Return what a replay has: behind all that is live, which others may have asked for beside it."""
        most = WRITE_TICKS, WRITE_BYTES
        played = take_played(self._session, self._codec, self._framing, now, most)
        return self._take_in_order(now) if played is None else played

    def _collect_gaps(self, but: int = 0) -> None:
        session = self._session
        untold, session.untold = session.untold, []
        for sub in session.subscriptions.values():
            if sub.mailbox.has_gaps and sub.id != but:
                untold += [(sub.id, gap) for gap in sub.mailbox.take_gaps()]
        for number, gap in untold:
            topic = gap.topic
            self._gaps.append(Gap(number, topic.ch, topic.sym, gap.first, gap.last, gap.reason))

    def _take_gaps(self) -> bytes:
        """Return gaps, at most so many at a time: they all come before any tick that is queued now."""
        self._collect_gaps()
        if not self._gaps:
            return b""
        batch, self._gaps = self._gaps[:WRITE_GAPS], self._gaps[WRITE_GAPS:]
        return self._framing.batch(b"".join(map(self._frame, batch)))

    def _all_gaps(self, but: int = 0) -> bytes:
        """Return all gaps there are, framed and not wrapped, those of one subscription left out."""
        self._collect_gaps(but)
        batch, self._gaps = self._gaps, []
        return b"".join(map(self._frame, batch))

    def _take_ticks(self, subs: Sequence[Subscription], upto: int | None) -> bytes:
        """Return what waits of all subscriptions in the order of the tape, one write's worth."""
        if len(subs) == 1 and subs[0].mailbox.is_encoded:
            return self._take_encoded(subs[0].mailbox, upto)
        mailboxes = [sub.mailbox for sub in subs if sub.mailbox.ready]
        behind = [sub for sub in subs if sub.backlog]
        if behind:
            return self._take_replay(behind, mailboxes, upto)
        if not mailboxes:
            return b""
        cut = _cut(mailboxes, upto)
        taken = [mailbox.take(cut) for mailbox in mailboxes]
        # Unless all of it went, and nothing has to be said of that.
        self.may_have_more = cut is not None or any(mailbox.has_notices for mailbox in mailboxes)
        entries = taken[0] if len(taken) == 1 else sorted((e for part in taken for e in part), key=_offset)
        return self._update(entries) if entries else b""

    def _take_encoded(self, mailbox: Mailbox, upto: int | None) -> bytes:
        """Return what waits of the only subscription, one write's worth."""
        taken = mailbox.take_encoded(WRITE_TICKS, WRITE_BYTES, upto)
        self.may_have_more = bool(len(mailbox)) or mailbox.has_notices
        if not taken:
            return b""
        self._router.delivered += len(taken)
        cursor = self._session.cursor(self._session.position())
        return self.pack_encoded(taken, cursor)

    def _take_snapshot(self, sub: Subscription) -> bytes:
        """Return the next part of a snapshot; the last one ends it."""
        waiting = sub.snapshot
        assert waiting is not None
        part: list[Entry] = []
        size = 0
        while waiting and (not part or size + waiting[0].size <= WRITE_BYTES):
            part.append(waiting.popleft())
            size += part[-1].size
        # All that was waiting up to there has been sent.
        if not waiting:
            sub.snapshot = sub.shown_since = None
        cursor = self._session.cursor(sub.snapshot_offset)
        payload = self._codec.snapshot(sub.id, cursor, self._codec.ticks(part), more=bool(waiting))
        return self._framing.batch(self._framing.frame("snapshot", payload, self._resumable(cursor)))

    def _take_lost(self, subs: Sequence[Subscription]) -> bytes:
        """Return gaps of what the history forgot before a resume came to it."""
        for sub in subs:
            if sub.backlog is None:
                continue
            for topic, first, last in list(sub.backlog.lost()):
                sub.mailbox.lose(topic, first, last, "overflow")
                if topic not in sub.backlog:
                    topic.attach(sub.mailbox)
            if not sub.backlog:
                sub.backlog = None
        return self._take_gaps()

    def _take_replay(
        self, behind: list[Subscription], mailboxes: Sequence[Mailbox], upto: int | None
    ) -> bytes:
        """Return ticks of history and queues, merged: a cursor has to be true of both."""
        codec, router = self._codec, self._session.router
        if mailboxes:
            cut = _cut(mailboxes, upto)
            upto = upto if cut is None else cut
        ticks, upto = self._replay(behind, upto)
        for mailbox in mailboxes:
            entries = mailbox.take(upto)
            ticks += zip(map(_offset, entries), codec.ticks(entries), strict=True)
        if not ticks:
            return b""
        ticks.sort(key=itemgetter(0))
        router.delivered += len(ticks)
        cursor = self._session.cursor(self._session.position())
        payload = codec.update(cursor, [tick for _, tick in ticks])
        return self._framing.batch(self._framing.frame("update", payload, self._resumable(cursor)))

    def _replay(
        self, behind: list[Subscription], upto: int | None
    ) -> tuple[list[tuple[int, bytes]], int | None]:
        """Read backlogs on in the order of the tape, one write's worth.

        Returns:
            Offsets and encoded ticks, and the offset up to which everything else may be sent with them.
        """
        ticks: list[tuple[int, bytes]] = []
        size = WRITE_BYTES
        while behind:
            behind.sort(key=_next_offset)
            following = _next_offset(behind[1]) - 1 if len(behind) > 1 else upto
            limit = following if upto is None or following is None else min(upto, following)
            read = self._read(behind[0], WRITE_TICKS - len(ticks), size, limit)
            size -= sum(len(packed) for _, packed in read)
            encoded = self._codec.repack([packed for _, packed in read])
            ticks += zip((offset for offset, _ in read), encoded, strict=True)
            if behind[0].backlog is None:
                del behind[0]
            elif not read or len(ticks) >= WRITE_TICKS or size <= 0:
                position = min(map(_next_offset, behind)) - 1
                return ticks, position if upto is None else min(upto, position)
        return ticks, upto

    @staticmethod
    def _read(sub: Subscription, ticks: int, size: int, upto: int | None) -> list[tuple[int, bytes]]:
        """Read a backlog on; a topic that is read to its end goes live in the same step."""
        backlog = sub.backlog
        assert backlog is not None
        read = backlog.read(ticks, size, upto)
        for topic in {topic: None for _, topic, _ in read}:
            if topic not in backlog:
                topic.attach(sub.mailbox)
        if not backlog:
            sub.backlog = None
        sub.mailbox.replayed(len(read))
        return [(offset, packed) for offset, _, packed in read]


def _next_offset(sub: Subscription) -> int:
    assert sub.backlog is not None
    return sub.backlog.position() + 1


_offset: Callable[[Item], int] = attrgetter("offset")


def _cut(mailboxes: Sequence[Mailbox], upto: int | None) -> int | None:
    """Return the offset up to which one write may take, ``None`` for all."""
    if (
        upto is None
        and sum(mailbox.ready for mailbox in mailboxes) <= WRITE_TICKS
        and sum(m.bytes for m in mailboxes) <= WRITE_BYTES
    ):
        return None
    waiting: list[Item] = [item for mailbox in mailboxes for item in islice(mailbox.peek(), WRITE_TICKS)]
    if len(mailboxes) > 1:
        waiting.sort(key=_offset)
    size = 0
    for index, entry in enumerate(waiting[:WRITE_TICKS]):
        size += entry.size
        if upto is not None and entry.offset > upto:
            return upto
        if size > WRITE_BYTES and index:
            return waiting[index - 1].offset
    if upto is not None and len(waiting) < WRITE_TICKS:
        return upto
    return waiting[min(len(waiting), WRITE_TICKS) - 1].offset
