"""The client's own account of a subscription, and its comparison with the broker's ledger. Pure.

A ledger entry stands at one place of the stream: whatever it counts has been sent before it (protocol,
section 5). So what came on this connection says what it has to be:

* ``delivered``: the ticks of updates, and ``dropped``: the ticks of gaps with both ends. Always exactly.
* ``conflated``: the jumps in ``seq`` that no gap names. A jump is seen once the tick behind it has come: so
  exactly where nothing is pending, and at least that where something is.
* ``offered``: by the law; and whatever came or was named, and all between, has been offered.

The count of a symbol begins at its snapshot; at 0, if it had no tick yet when the snapshot was made; else, where
it is resumed or handed over by another subscription, at a place that only the broker knows. In ``every`` that
is before the first thing that comes. In ``latest`` ticks before that may have been conflated: how many is taken
from the ledger, once, when next nothing is pending, and held against the ledger ever after. Where two
subscriptions share an account, the sums of what they delivered and dropped are checked, and the conflated of
``latest`` believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broker.core.mailbox import LedgerEntry

#: Faults are kept in words, the first ones: a broker that miscounts does so with every heartbeat.
MAX_FAULTS = 5
#: A symbol of which nothing has come yet.
NOT_BEGUN = -2
#: In the place of a snapshot's number: the count began with a gap that was told before the snapshot.
BEFORE_SNAPSHOT = -1


class Track:
    """How far one symbol has come on this connection.

    Attributes:
        last: the highest ``seq`` that came, or that a gap named.
        open: how many below ``last`` have neither come nor been named, and may still.
        jumped: how many below ``last`` count as conflated.
        begun_by: the number of the snapshot with which the count began; ``BEFORE_SNAPSHOT``, 0 for other things.
        base: the ``seq`` of that snapshot; before it, the one behind which the count begins for the time being.
    """

    __slots__ = ("account", "base", "begun_by", "jumped", "last", "open")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.last = NOT_BEGUN
        self.open = self.jumped = self.begun_by = self.base = 0


class Account:
    """One subscription on one connection; several, where only the broker can tell whose a tick was.

    Attributes:
        numbers: the broker's, of the account's living subscriptions.
        is_strict: nothing may be conflated (``every``, without ``degrade``).
        begins_at_zero: a symbol that the snapshot does not show has had no tick yet.
        is_settled: a ledger came with nothing pending: what a resume had to catch up with is over.
        delivered, dropped, conflated: ticks, as counted here.
        open: as `Track` has it, over all symbols.
        awaits_snapshot: whether one may still come; set from outside.
        early: how many symbols began with a gap that was told before the snapshot, which is due.
        unknown: conflated before the count began here, by the ledger's word.
        faults: what the broker did wrong besides its ledger: repeated ticks, trades merged wrongly.
    """

    def __init__(
        self,
        number: int,
        *,
        is_strict: bool,
        begins_at_zero: bool = False,
        begins: Mapping[str, int] | None = None,
        is_resumed: bool = False,
        awaits_snapshot: bool = False,
        is_aside: bool = False,
    ) -> None:
        """Begin with the subscription's ack.

        Args:
            begins_at_zero: as the attribute.
            is_resumed: the broker offers what came since a cursor, but for what it shows without having been asked.
            is_aside: a snapshot was asked for beside the cursor, and has what is offered as well.
            begins: the last ``seq`` that came on an earlier connection, by symbol.
        """
        self.numbers = {number}
        self.is_strict = is_strict
        self.is_settled = False
        self.delivered = self.dropped = self.conflated = self.open = self.unknown = 0
        self.awaits_snapshot = awaits_snapshot
        self.early = 0
        self.faults: list[str] = []
        self._contract_is_strict = is_strict
        self.begins_at_zero = begins_at_zero
        self._begins: dict[str, int | None] = dict(begins or {})
        self._tracks: dict[str, Track] = {}
        self._is_resumed = is_resumed
        self._is_aside = is_aside
        self._is_shared = False
        self._is_unsure = False
        self._gone = LedgerEntry(0, 0, 0, 0, 0, 0)

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def track(self, sym: str) -> Track:
        """Return the track of a symbol, a new one if need be."""
        track = self._tracks.get(sym)
        if track is None:
            track = self._tracks[sym] = Track(self)
        return track

    def tick(self, sym: str, seq: int, count: int | None = None) -> None:
        """Count a tick of an update.

        Args:
            count: how many trades it stands for; ``None`` where it is no trade.
        """
        track = self.track(sym)
        self.delivered += 1
        is_known = track.last != NOT_BEGUN or self._begin(sym, track, seq)
        if seq <= track.last:
            self._late(sym, track, seq)
            return
        jump = seq - track.last - 1
        if count is not None and count <= jump and is_known and not self.is_strict:
            # It may be more: what was put on the tape may have stood for several already.
            self._note_fault(
                f"{sym}: trade {seq} stands for {count} (count), and seq says {jump + 1} or more"
            )
        # What was still open can't come any more: a symbol's ticks come in order.
        jump += track.open
        self.open -= track.open
        track.open = 0
        track.jumped += jump
        self.conflated += jump
        track.last = seq

    def gap(self, sym: str, first: int | None, last: int | None) -> None:
        """Count a gap; one with an end that nobody knows is outside the account."""
        if last is None:
            if first is not None:
                self.forget(sym)
            return
        track = self.track(sym)
        if first is None:
            track.last = max(track.last, last)
            return
        self.dropped += last - first + 1
        if track.last == NOT_BEGUN:
            if self.begins_at_zero and self.awaits_snapshot and sym not in self._begins:
                track.last = track.base = first - 1
                track.begun_by = BEFORE_SNAPSHOT
                self.early += 1
            else:
                self._begin(sym, track, first)
        if first <= track.last:
            self._fill(track, min(last, track.last) - first + 1)
        elif first > track.last + 1:
            track.open += first - track.last - 1
            self.open += first - track.last - 1
        track.last = max(track.last, last)

    def snapshot(self, sym: str, seq: int, number: int) -> None:
        """Take in a tick of a snapshot: the count of its symbol begins there, if it has not begun.

        Args:
            number: of the snapshot; several of its ticks may be of one symbol (bars).
        """
        track = self.track(sym)
        if track.last == NOT_BEGUN and self._is_resumed and not self.is_strict:
            if self._is_aside and self._begins.get(sym) is not None:
                # Where the broker's count begins, behind the cursor or here, can't be told.
                self._begins[sym] = None
                return
            # It may have been offered, and conflated into what is still to come.
            self._is_unsure = True
        if track.last == NOT_BEGUN:
            track.begun_by = number
        elif track.begun_by == BEFORE_SNAPSHOT:
            self._begin_at(track, seq, number)
        if track.begun_by == number and seq > track.base:
            before = min(track.open, seq - track.base)
            track.open -= before
            self.open -= before
            track.base = seq
            track.last = max(track.last, seq)

    def complete(self) -> None:
        """The snapshot is complete, or there is none: symbols that it has not shown begin at 0."""
        self.awaits_snapshot = False
        if self.early:
            for track in self._tracks.values():
                if track.begun_by == BEFORE_SNAPSHOT:
                    self._begin_at(track, 0, 0)

    def _begin_at(self, track: Track, seq: int, number: int) -> None:
        """Put right where the count of a symbol begins: what lies between there and its gap is open."""
        hole = max(0, track.base - seq)
        track.open += hole
        self.open += hole
        track.base = seq
        track.begun_by = number
        self.early -= 1

    def forget(self, sym: str) -> None:
        """Let a symbol begin anew, at a place that is not known: it has gone to another subscription."""
        self._begins[sym] = None
        if (track := self._tracks.get(sym)) is not None:
            self.early -= track.begun_by == BEFORE_SNAPSHOT
            self.conflated += track.open
            self.open -= track.open
            track.open = track.jumped = track.begun_by = track.base = 0
            track.last = NOT_BEGUN

    def forget_unseen(self) -> None:
        """Take back that symbols of which nothing has come begin at 0: some may come from elsewhere."""
        self.begins_at_zero = False

    def _begin(self, sym: str, track: Track, first: int) -> bool:
        """Begin the count of a symbol before its tick ``first``; return whether the place is known."""
        is_new = self.begins_at_zero and sym not in self._begins
        begin = 0 if is_new else self._begins.get(sym)
        is_known = begin is not None and begin < first
        track.last = begin if begin is not None and is_known else first - 1
        is_sure = self.is_strict or (is_known and (is_new or self.is_settled))
        self._is_unsure = self._is_unsure or not is_sure
        return is_known

    def _late(self, sym: str, track: Track, seq: int) -> None:
        if track.open:
            track.open -= 1
            self.open -= 1
        elif not self._is_shared:
            # In a shared one it was replayed by one subscription behind the other, or held back by one.
            self._note_fault(f"{sym}: seq {seq} came behind {track.last}")

    def _fill(self, track: Track, ticks: int) -> None:
        """A gap names what was taken for open, or for conflated."""
        opened = min(track.open, ticks)
        track.open -= opened
        self.open -= opened
        jumped = min(track.jumped, ticks - opened)
        track.jumped -= jumped
        self.conflated -= jumped

    def _note_fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)

    # ── what changes ─────────────────────────────────────────────────────────────────────────────

    def modify(self, *, is_strict: bool) -> None:
        """Take in a changed contract; what the old one had conflated comes first."""
        self._contract_is_strict = is_strict and (self._contract_is_strict or not self._is_shared)
        self.is_strict = self.is_strict and is_strict

    def absorb(self, other: Account) -> None:
        """Count what ``other`` counts as well: only the broker knows where one takes over from the other."""
        self.numbers |= other.numbers
        self.delivered += other.delivered
        self.dropped += other.dropped
        self.conflated += other.conflated
        self.open += other.open
        self.early += other.early
        self.unknown += other.unknown
        self.faults += other.faults[: MAX_FAULTS - len(self.faults)]
        self._gone = _sum([self._gone, other._gone])
        for sym, track in other._tracks.items():
            track.account = self
            self._tracks.setdefault(sym, track)
        self._begins = {**other._begins, **self._begins}
        self.begins_at_zero = False
        self._is_shared = True
        self._is_unsure = self._is_unsure or other._is_unsure
        self.is_settled = self.is_settled and other.is_settled
        self._contract_is_strict = self._contract_is_strict and other._contract_is_strict
        self.is_strict = self.is_strict and other.is_strict

    def part(self, final: LedgerEntry) -> None:
        """Count one of several subscriptions no further; what it leaves queued will not come."""
        self.numbers.discard(final.sub)
        self._gone = _sum([self._gone, final])
        # What was conflated into that does not show here.
        self._is_unsure = self._is_unsure or final.pending > 0

    # ── what the broker says ─────────────────────────────────────────────────────────────────────

    def compare(self, entries: Iterable[LedgerEntry]) -> list[str]:
        """Compare with the ledger at this very place of the stream.

        Args:
            entries: of all the account's living subscriptions.

        Returns:
            What differs, in words; nothing if it agrees.
        """
        living = _sum(entries)
        told = _sum([self._gone, living])
        faults = list(self.faults)
        parts = living.delivered + living.conflated + living.dropped + living.pending
        if living.offered != parts:
            faults.append(f"offered: the ledger says {living.offered}, and its own parts add up to {parts}")
        if min(living.offered, living.delivered, living.conflated, living.dropped, living.pending) < 0:
            faults.append("the ledger has a number below 0")
        if told.delivered != self.delivered:
            faults.append(f"delivered: the ledger says {told.delivered}, and {self.delivered} ticks came")
        if told.dropped != self.dropped:
            faults.append(f"dropped: the ledger says {told.dropped}, and gaps named {self.dropped} ticks")
        faults += self._compare_conflated(told.conflated, living.pending)
        return faults

    def _compare_conflated(self, told: int, pending: int) -> list[str]:
        known = self.conflated + self.unknown
        if self._is_shared and not self.is_strict:
            # What one conflated before the other took over shows in neither.
            self.unknown += told - known - self.open
            return []
        if self.early and not self.is_strict:
            # What was conflated between the snapshot and the gap shows with the snapshot.
            differs = min(0, told - known - self.open)
        elif not pending:
            differs = told - known - self.open
            if self._is_unsure and differs > 0:
                self.unknown += differs
                differs = 0
            self._is_unsure = False
            self.is_settled = True
            self.is_strict = self._contract_is_strict
            known += self.open
        elif self.is_strict:
            differs = told - known
        else:
            differs = min(0, told - known, told + pending - known - self.open)
        if not differs:
            return []
        waiting = f" ({pending} are pending)" if pending else ""
        return [f"conflated: the ledger says {told}, and jumps in seq account for {known}{waiting}"]


def _sum(entries: Iterable[LedgerEntry]) -> LedgerEntry:
    """Add ledger entries up; the number means nothing."""
    rows = [
        (entry.offered, entry.delivered, entry.conflated, entry.dropped, entry.pending) for entry in entries
    ]
    return LedgerEntry(0, *map(sum, zip(*rows, strict=True))) if rows else LedgerEntry(0, 0, 0, 0, 0, 0)
