"""What a client counts for itself, by `seq` alone, and holds against the broker's ledgers.

An account belongs to one channel of one session, from the first subscription on it to the end of the
last. An `update` does not say which subscription a tick is of; so while there is one, every figure of its
ledger is known, and where there have been several, their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.oracle import Key, Oracle

Fail = Callable[[str], None]
Entry = dict[str, int]
#: How many a gap has to name to be counted; one whose ends are not known is outside of the account.
FIGURES = ("offered", "delivered", "conflated", "dropped", "pending")


@dataclass(frozen=True, slots=True)
class Step:
    """From one tick of a topic to the next that came.

    Attributes:
        before: `seq` of the earlier one, or where the account begins.
        skipped: how many between them neither came nor were named.
        told: those between them that a gap named.
    """

    before: int
    skipped: int
    told: frozenset[int] = frozenset()


class Topic:
    """What came of one topic.

    Attributes:
        base: the `seq` behind which the account begins.
        position: the highest `seq` that came, ``base`` before any did.
        top: the highest that came or was named by a gap.
        received, told: how many came in updates, how many gaps named.
        ahead: those named that lie behind ``position``.
    """

    __slots__ = ("ahead", "base", "position", "received", "told", "top")

    def __init__(self, base: int) -> None:
        self.base = self.position = self.top = base
        self.received = self.told = 0
        self.ahead: set[int] = set()

    @property
    def skipped(self) -> int:
        """How many neither came nor were named, up to the newest that came."""
        return self.position - self.base - self.received - (self.told - len(self.ahead))


class Subscribed:
    """One subscription of an account.

    Attributes:
        sub: its number.
        symbols: as accepted.
        offset: where on the tape a resume begins; ``None`` without one, or where the cursor says nothing.
        is_aside: it resumes, and asked for a snapshot beside what it has missed, so the count does not begin there.
        awaits_snapshot: its snapshot is not complete.
        final: its last ledger, once it has ended.
    """

    def __init__(
        self, sub: int, symbols: list[str], *, offset: int | None = None, is_aside: bool = False
    ) -> None:
        self.sub = sub
        self.symbols = symbols
        self.offset = offset
        self.is_aside = is_aside
        self.awaits_snapshot = False
        self.final: Entry | None = None

    def covers(self, sym: str) -> bool:
        """Tell whether a symbol is one of the subscription's, by name or pattern."""
        return sym in self.symbols or "*" in self.symbols or f"{sym.partition(':')[0]}:*" in self.symbols


class Account:
    """The account of one channel in one session.

    Attributes:
        subs: all there have been, by number.
        may_skip: a contract allowed to conflate, at some time.
        slack: by how much the beginning is uncertain, in ticks: published while the request was under way.
        is_vague: it can't be told whether a snapshot is to come.
    """

    def __init__(self, ch: str, oracle: Oracle, fail: Fail) -> None:
        self.ch = ch
        self.subs: dict[int, Subscribed] = {}
        self.topics: dict[str, Topic] = {}
        self.may_skip = False
        self.slack = 0
        self.is_vague = False
        self._oracle = oracle
        self._fail = fail

    @property
    def live(self) -> list[Subscribed]:
        """The subscriptions that have not ended."""
        return [sub for sub in self.subs.values() if sub.final is None]

    @property
    def is_alone(self) -> bool:
        """Whether all that comes is one subscription's, of which it is known where it begins."""
        return len(self.subs) == 1 and not self.is_vague

    @property
    def is_exact(self) -> bool:
        """Whether every figure is known now."""
        return self.is_alone and not self.awaits_snapshot

    @property
    def awaits_snapshot(self) -> bool:
        """Whether a snapshot is not complete."""
        return any(sub.awaits_snapshot for sub in self.subs.values())

    def owner(self, sym: str) -> Subscribed | None:
        """Return who has a symbol: names before patterns, the earlier before the later."""
        live = self.live
        named = [sub for sub in live if sym in sub.symbols]
        return next(iter(named or [sub for sub in live if sub.covers(sym)]), None)

    def topic(self, sym: str) -> Topic:
        """Return the count of a topic; without a snapshot or a gap it begins where its subscription does."""
        topic = self.topics.get(sym)
        if topic is None:
            owner = self.owner(sym)
            base = 0
            if owner is not None and owner.offset is not None:
                base = self._oracle.seq_at((self.ch, sym), owner.offset)
            topic = self.topics[sym] = Topic(base)
        return topic

    def begin(self, sub: Subscribed, *, asked_at: float, wants_snapshot: bool, is_fresh: bool) -> None:
        """Take a new subscription in.

        Args:
            asked_at: when the request was sent; it was carried out between then and now.
            wants_snapshot: it has to come, where there is anything to be shown.
            is_fresh: it does not resume.
        """
        self.subs[sub.sub] = sub
        for (ch, sym), record in self._oracle.topics.items():
            if ch != self.ch or not sub.covers(sym):
                continue
            least = record.seqs_at(asked_at)[0]
            if wants_snapshot:
                sub.awaits_snapshot |= least > 0
                self.is_vague |= least == 0 < record.seq
            elif is_fresh and len(self.subs) == 1:
                self.topics[sym] = Topic(least)
                self.slack += record.seq - least
        if sub.awaits_snapshot:
            self.is_vague = False

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def take_snapshot(self, sub: int, sym: str, seq: int) -> None:
        """Count a tick of a snapshot: the count begins behind it, unless it was asked for beside a resume."""
        topic = self.topics.get(sym)
        subscribed = self.subs[sub]
        if topic is None and subscribed.offset is None:
            self.topics[sym] = Topic(seq)
            return
        topic = self.topic(sym)
        # Of bars it shows the newest of each interval, in any order.
        if seq < topic.position and self.ch != "bar":
            self._fail(f"{self.ch} {sym}: a snapshot of {seq} behind {topic.position}")
        if not subscribed.is_aside and not topic.received:
            # Several ticks of one topic (bars), or what was told before it came, or held back before a resume.
            topic.base = topic.position = max(topic.base, seq)
            topic.top = max(topic.top, topic.base)

    def take_update(self, sym: str, seq: int) -> Step | None:
        """Count a tick of an update; return the step that it makes, ``None`` if it is out of order."""
        topic = self.topic(sym)
        before = topic.position
        if seq <= before or seq in topic.ahead:
            self._fail(f"{self.ch} {sym}: {seq} came behind {before}, named before: {sorted(topic.ahead)}")
            return None
        told: frozenset[int] = frozenset()
        if topic.ahead:
            told = frozenset(ahead for ahead in topic.ahead if ahead < seq)
            topic.ahead -= told
        topic.received += 1
        topic.position = seq
        topic.top = max(topic.top, seq)
        return Step(before, seq - before - 1 - len(told), told)

    def take_gap(self, gap: dict[str, Any]) -> None:
        """Count what a gap names."""
        sym, first, last = gap["sym"], gap["from"], gap["to"]
        if gap["reason"] == "cursor_too_old":
            # A snapshot follows; where the gap does not say how far it reaches, the account begins with that.
            self.topics[sym] = Topic(last or 0)
            self.subs[gap["sub"]].awaits_snapshot = True
            return
        if first is None and last is not None and gap["reason"] == "overflow":
            # A max_rate may have held ticks back from who resumes: the count begins here.
            self.topics.setdefault(sym, Topic(last))
            return
        if first is None:
            # Missed at the venue, or dropped before it had a number.
            if gap["reason"] == "feed_reset" and self.ch == "book" and last is not None:
                # There is no book to be shown to who begins here: it stands for the snapshot.
                self.take_snapshot(gap["sub"], sym, last)
                return
            if gap["reason"] not in ("feed_reset", "overflow") or last is not None:
                self._fail(f"a gap of unknown extent: {gap}")
            return
        topic = self.topic(sym)
        named = set(range(first, last + 1))
        if not named or first <= topic.position or named & topic.ahead:
            self._fail(f"{self.ch} {sym}: a gap names {first} to {last} behind {topic.position}: {gap}")
        topic.told += len(named)
        topic.ahead |= named
        topic.top = max(topic.top, last)

    # ── what has to hold ─────────────────────────────────────────────────────────────────────────

    def check(self, entries: list[Entry], where: str) -> None:
        """Hold the ledgers of the live subscriptions against what was counted."""
        total = self._sum(entries, where)
        counted = self.topics.values()
        received, told = sum(t.received for t in counted), sum(t.told for t in counted)
        if total["delivered"] != received:
            self._fail(f"{where}: {self.ch}: {total['delivered']} delivered, {received} came: {entries}")
        if total["dropped"] != told:
            self._fail(f"{where}: {self.ch}: {total['dropped']} dropped, gaps named {told}: {entries}")
        if not self.is_exact:
            return
        skipped, reached = sum(t.skipped for t in counted), sum(t.top - t.base for t in counted)
        conflated, offered = total["conflated"], total["offered"]
        if not self.may_skip and (conflated or skipped > self.slack):
            self._fail(f"{where}: {self.ch}: {skipped} skipped under 'every': {entries}")
        if conflated < skipped - self.slack:
            self._fail(f"{where}: {self.ch}: {conflated} conflated, {skipped} did not come: {entries}")
        if not total["pending"] and not reached - self.slack <= offered <= reached:
            self._fail(f"{where}: {self.ch}: {offered} offered, {reached} accounted for by seq: {entries}")

    def check_offered(self, entries: list[Entry], time: float, where: str) -> None:
        """Hold what a ledger of a known time says was offered against the tape of that time."""
        if not self.is_exact:
            return
        (sub,) = self.subs.values()
        least = most = 0
        for (ch, sym), record in self._oracle.topics.items():
            if ch == self.ch and sub.covers(sym):
                base = self.topic(sym).base
                low, high = record.seqs_at(time)
                least, most = least + max(0, low - base), most + max(0, high - base)
        offered = self._sum(entries, where)["offered"]
        if not least - self.slack <= offered <= most:
            self._fail(f"{where}: {self.ch}: {offered} offered, {least} to {most} published: {entries}")

    def check_quiet(self, entries: list[Entry], where: str) -> None:
        """At rest everything has been accounted for: nothing waits, and the newest tick is there."""
        self.check(entries, where)
        if any(entry["pending"] for entry in entries):
            self._fail(f"{where}: {self.ch}: something still waits: {entries}")
        for (ch, sym), record in self._oracle.topics.items():
            if ch == self.ch and self.is_exact and self.owner(sym) is not None:
                top = self.topic(sym).top
                if not record.seq - self.slack <= top <= record.seq:
                    self._fail(f"{where}: {ch} {sym}: {top} is the last that came of {record.seq}")

    def _sum(self, entries: list[Entry], where: str) -> Entry:
        for entry in entries:
            if entry["offered"] != sum(entry[name] for name in FIGURES[1:]) or min(entry.values()) < 0:
                self._fail(f"{where}: the ledger does not add up: {entry}")
        ended = [sub.final for sub in self.subs.values() if sub.final is not None]
        return {name: sum(entry[name] for entry in [*entries, *ended]) for name in FIGURES}

    def end(self, sub: int, final: Entry, where: str) -> None:
        """Take a subscription's final ledger."""
        self.subs[sub].final = final
        if not self.live:
            self.check([], where)


def key_of(tick: dict[str, Any]) -> Key:
    """Return the topic of a tick of the wire."""
    return tick["ch"], tick["sym"]
