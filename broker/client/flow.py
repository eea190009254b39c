"""From the broker's updates, snapshots and gaps to the events of subscriptions. Pure.

An update names no subscription. Each ``(ch, sym)`` belongs to one: names before patterns, the earlier before the
later (protocol, section 2). While a new subscription takes a symbol over from an older one, the ticks before its
snapshot are still the older one's; where no snapshot says where the one ends and the other begins, both share an
`Account`. A subscription that the application has ended keeps its symbols until the broker has ended it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from msgspec import UNSET

from broker.client.account import Track
from broker.client.effects import Disagreed, Effect, Occurred
from broker.client.events import Gap, Notice, Snapshot, Update
from broker.client.sequence import Sequence
from broker.client.state import SubscriptionState
from broker.client.wire import Gap as WireGap
from broker.client.wire import Notice as WireNotice
from broker.core.mailbox import LedgerEntry
from broker.core.messages import Snapshot as WireSnapshot
from broker.core.messages import Update as WireUpdate
from broker.core.ticks import Book, Tick, Trade

Route: TypeAlias = tuple[SubscriptionState, Sequence, Track]

#: Gaps behind which a book is broken, and no snapshot follows by itself.
BREAKING = frozenset(("overflow", "stale"))


class Flow:
    """What is live on the present connection, and whose each tick is.

    Attributes:
        live: subscriptions by the broker's number.
        strays: ticks that belong to no subscription: those under way when it ended.
        wounded: those with a broken book, until they are taken care of.
    """

    def __init__(self) -> None:
        self.live: dict[int, SubscriptionState] = {}
        self.strays = 0
        self.wounded: dict[SubscriptionState, None] = {}
        self._routes: dict[tuple[str, str], Route] = {}

    def clear(self) -> None:
        """Forget everything: the connection is gone."""
        self.live.clear()
        self._routes.clear()
        self.wounded.clear()

    # ── subscriptions come and go ────────────────────────────────────────────────────────────────

    def attach(self, state: SubscriptionState) -> None:
        """Take in a subscription that the broker has accepted."""
        assert state.number is not None
        self._share(state)
        self.live[state.number] = state
        if not state.awaits_snapshot:
            self._release(state)
        # Meanwhile another may have got what it had.
        state.broken = {sym for sym in state.broken if self._owner(state.ch, sym) is state}
        if state.broken:
            self.wounded[state] = None

    def _share(self, state: SubscriptionState) -> None:
        """Put a new subscription's account together with those that it takes symbols over from."""
        is_marked = state.awaits_snapshot and not state.is_resuming
        previous: dict[SubscriptionState, None] = {}
        for sym in state.names_taken:
            owner = self._owner(state.ch, sym)
            # What a rate holds back may come after the snapshot; and whether there will be one of a symbol that
            # has had no tick yet, as far as is known here, can't be told.
            if owner and (not is_marked or owner.has_max_rate or (state.ch, sym) not in self._routes):
                previous[owner] = None
        for owner in previous:
            shared, other = state.account, owner.account
            if shared is other:
                continue
            # The longer-lived one goes on, with what it knows of the symbols.
            other.absorb(shared)
            for holder in (*self.live.values(), state):
                if holder.account is shared:
                    holder.account = other

    def detach(self, state: SubscriptionState, *, is_renewal: bool = False) -> None:
        """Let a subscription go that the broker has ended; its symbols are others' from now on.

        Args:
            is_renewal: or until it is back, in a moment: nobody has to look after their books.
        """
        self.live = {number: other for number, other in self.live.items() if other is not state}
        seen = [sym for (ch, sym), route in self._routes.items() if route[0] is state]
        for sym in seen:
            del self._routes[state.ch, sym]
        for sym in {*seen, *state.names_taken}:
            owner = self._owner(state.ch, sym)
            if owner is None:
                continue
            has_book = sym in seen or sym in owner.sequences
            # It begins anew there: what came in between is not known.
            owner.sequences.pop(sym, None)
            owner.account.forget(sym)
            if has_book and self._break(owner, sym, is_mended=is_renewal) and not is_renewal:
                # A snapshot that is under way was made without it.
                owner.renewed = None
        if state.has_patterns:
            for other in self.live.values():
                if other.ch == state.ch:
                    other.account.forget_unseen()

    # ── whose a tick is ──────────────────────────────────────────────────────────────────────────

    def _owner(self, ch: str, sym: str) -> SubscriptionState | None:
        live = [state for _, state in sorted(self.live.items()) if state.ch == ch]
        named = next((state for state in live if state.names(sym)), None)
        return named or next((state for state in live if state.matches(sym)), None)

    def _route(self, ch: str, sym: str) -> Route | None:
        """Find the owner of a topic, and remember it."""
        owner = self._owner(ch, sym)
        return None if owner is None else self._set_route(owner, ch, sym)

    def _set_route(self, owner: SubscriptionState, ch: str, sym: str) -> Route:
        route = self._routes[ch, sym] = (owner, owner.sequence(sym), owner.account.track(sym))
        return route

    def _claim(self, state: SubscriptionState, ch: str, sym: str) -> Route:
        """Make ``state`` the owner of a topic: the broker has just said so."""
        previous = self._routes.get((ch, sym))
        if previous is not None and previous[0] is state:
            return previous
        if previous is not None:
            self._hand_over(previous[0], state, sym)
        self._take_from_all(state, sym)
        return self._set_route(state, ch, sym)

    def _take_from_all(self, state: SubscriptionState, sym: str) -> None:
        """A book that a subscription has lost to another is not its to mend any more."""
        for other in self.live.values():
            if other is not state and other.ch == state.ch:
                other.broken.discard(sym)

    def _release(self, state: SubscriptionState) -> None:
        """Let the owners of what ``state`` might own be found anew."""
        for sym in state.names_taken:
            self._take_from_all(state, sym)
        for (ch, sym), (owner, _, _) in list(self._routes.items()):
            if owner is not state and ch == state.ch and (state.names(sym) or state.matches(sym)):
                del self._routes[ch, sym]
                route = self._route(ch, sym)
                if route is None or route[0] is not owner:
                    self._hand_over(owner, state, sym)

    @staticmethod
    def _hand_over(previous: SubscriptionState, state: SubscriptionState, sym: str) -> None:
        """End what ``previous`` has seen; should it get the topic back, it begins anew."""
        previous.sequences.pop(sym, None)
        if previous.account is not state.account:
            previous.account.forget(sym)

    # ── ticks ────────────────────────────────────────────────────────────────────────────────────

    def update(self, message: WireUpdate) -> list[Effect]:
        """Take in ticks, of several subscriptions together."""
        parts: list[tuple[SubscriptionState, list[Tick] | Gap]] = []
        open_: dict[SubscriptionState, list[Tick]] = {}
        routes = self._routes
        for tick in message.data:
            route = routes.get((tick.ch, tick.sym)) or self._route(tick.ch, tick.sym)
            if route is None:
                self.strays += 1
                continue
            state, sequence, track = route
            account = track.account
            if tick.seq == track.last + 1:
                track.last = tick.seq
                account.delivered += 1
            else:
                account.tick(tick.sym, tick.seq, _stands_for(tick))
            if state.is_ended:
                self.strays += 1
                continue
            if sequence.is_lost:
                open_.pop(state, None)
                parts.append((state, self._lost(state, sequence, tick)))
            skipped = sequence.tick(tick.seq)
            if skipped is None:
                state.duplicates += 1
                continue
            if state.broken and self._is_useless(state, tick):
                self._withhold(state)
                continue
            if skipped:
                if not account.is_strict:
                    state.conflated += skipped
                else:
                    open_.pop(state, None)
                    parts.append((state, self._unexplained(state, tick, skipped)))
                    if state.broken and self._is_useless(state, tick):
                        self._withhold(state)
                        continue
            ticks = open_.get(state)
            if ticks is None:
                ticks = open_[state] = []
                parts.append((state, ticks))
            ticks.append(tick)
        return self._occurrences(parts, open_, message.cursor)

    def _occurrences(
        self,
        parts: list[tuple[SubscriptionState, list[Tick] | Gap]],
        last: dict[SubscriptionState, list[Tick]],
        cursor: str,
    ) -> list[Effect]:
        """Return the events of one update; its cursor stands behind the last of each subscription."""
        effects: list[Effect] = []
        for state, part in parts:
            if isinstance(part, Gap):
                effects.append(Occurred(state, part))
                continue
            state.ticks += len(part)
            if state.awaits_snapshot and not state.is_resuming:
                # Nothing had happened on its symbols, so there was nothing to make a snapshot of.
                state.awaits_snapshot = False
                state.renewed = None
                state.account.complete()
            at = cursor if last.get(state) is part else state.cursor
            effects.append(Occurred(state, Update(part, at)))
        self.advance(cursor)
        return effects

    def snapshot(self, message: WireSnapshot) -> list[Effect]:
        """Take in a snapshot, or a part of one."""
        state = self.live.get(message.sub)
        if state is None:
            self.strays += len(message.data)
            return []
        effects: list[Effect] = []
        ticks = []
        is_aside = state.is_resuming and state.mode == "every"
        for tick in message.data:
            _, sequence, _ = self._claim(state, tick.ch, tick.sym)
            state.account.snapshot(tick.sym, tick.seq, state.snapshot_number)
            if state.is_ended:
                self.strays += 1
                continue
            if tick.sym in state.broken:
                if tick.seq < (sequence.last or 0):
                    # It waited behind the gap that it should mend.
                    state.withheld += 1
                    continue
                state.broken.discard(tick.sym)
            if sequence.is_lost:
                effects.append(Occurred(state, self._lost(state, sequence, tick)))
            is_news, skipped = sequence.snapshot(
                tick.seq, state.snapshot_number, is_aside=is_aside, is_whole=type(tick) is Book
            )
            state.conflated += skipped
            if is_news:
                ticks.append(tick)
            else:
                state.duplicates += 1
        state.snapshots += len(ticks)
        if not message.more:
            state.awaits_snapshot = False
            state.renewed = None
            state.account.complete()
            state.snapshot_number += 1
            if not state.is_resuming:
                # What it does not show has no book yet.
                state.broken &= {sym for sym, sequence in state.sequences.items() if sequence.last}
            if state.broken:
                self.wounded[state] = None
            self._release(state)
            self.advance(message.cursor)
        if not state.is_ended and (ticks or not message.more):
            cursor = None if message.more else message.cursor
            effects.append(Occurred(state, Snapshot(ticks, cursor, not message.more)))
        return effects

    def gap(self, message: WireGap) -> list[Effect]:
        """Take in a gap."""
        state = self.live.get(message.sub)
        if state is None:
            return []
        state.account.gap(message.sym, message.first, message.last)
        if state.is_ended:
            return []
        if message.reason == "cursor_too_old":
            state.awaits_snapshot = True
        bounds = state.sequence(message.sym).gap(message.first, message.last)
        if bounds is None:
            return []
        if message.reason in BREAKING:
            self._break(state, message.sym)
        elif message.reason == "feed_reset":
            # There is no book to ask for; the feed's next snapshot comes by itself.
            state.broken.discard(message.sym)
        gap = Gap(message.sub, message.ch, message.sym, *bounds, message.reason)
        return [Occurred(state, state.count_gap(gap))]

    def notice(self, message: WireNotice) -> list[Effect]:
        """Hand a notice to whom it concerns."""
        states = self.live.values() if message.sub is None else [self.live.get(message.sub)]
        notice = Notice(message.sub, message.state, message.queued, message.limit)
        return [Occurred(state, notice) for state in states if state is not None and not state.is_ended]

    def advance(self, cursor: str | None) -> None:
        """Everything up to the cursor has come, of all that is live."""
        if cursor is not None:
            for state in self.live.values():
                state.cursor = cursor

    def _lost(self, state: SubscriptionState, sequence: Sequence, tick: Tick) -> Gap:
        """Say that the end of a symbol's last epoch is not known, where the broker has not said so."""
        sequence.is_lost = False
        sequence.has_gap = True
        return state.count_gap(Gap(state.number or 0, tick.ch, tick.sym, None, None, "cursor_too_old"))

    def _unexplained(self, state: SubscriptionState, tick: Tick, skipped: int) -> Gap:
        state.unexplained += skipped
        self._break(state, tick.sym)
        return Gap(state.number or 0, tick.ch, tick.sym, tick.seq - skipped, tick.seq - 1, "unexplained")

    def _break(self, state: SubscriptionState, sym: str, *, is_mended: bool = False) -> bool:
        """Note that a book lacks something, so that only a snapshot helps; return whether it is one."""
        if state.ch != Book.ch:
            return False
        state.broken.add(sym)
        state.sequence(sym).has_gap = True
        if not is_mended:
            self.wounded[state] = None
        return True

    @staticmethod
    def _is_useless(state: SubscriptionState, tick: Tick) -> bool:
        """Tell whether a tick changes a book that is not known; a whole book makes it known again."""
        if tick.sym not in state.broken:
            return False
        if type(tick) is Book and tick.kind == "snapshot":
            state.broken.discard(tick.sym)
            return False
        return True

    def _withhold(self, state: SubscriptionState) -> None:
        state.withheld += 1
        if state.renewed not in (None, state.number):
            # It has begun anew, and goes on without a snapshot: it had no tick to make one of.
            state.renewed = None
            self.wounded[state] = None

    # ── ledgers ──────────────────────────────────────────────────────────────────────────────────

    def compare(self, entries: Iterable[LedgerEntry], *, is_whole: bool = False) -> list[Effect]:
        """Compare ledger entries with the accounts, at this very place of the stream.

        Args:
            is_whole: there should be an entry for each subscription.
        """
        told = {entry.sub: entry for entry in entries}
        groups: dict[int, list[SubscriptionState]] = {}
        for state in self.live.values():
            groups.setdefault(id(state.account), []).append(state)
        effects: list[Effect] = []
        for states in groups.values():
            account = states[0].account
            missing = account.numbers - told.keys()
            if missing and not (is_whole and told):
                continue
            found = [entry for number in sorted(account.numbers) if (entry := told.get(number))]
            differences = (
                [f"the broker's ledger has no entry of subscription {number}" for number in sorted(missing)]
                if missing
                else account.compare(found)
            )
            for state in states:
                effects += self._note(state, told.get(state.number or 0), differences)
        return effects

    def compare_final(self, state: SubscriptionState, entry: LedgerEntry) -> list[Effect]:
        """Compare the last ledger of a subscription that has ended."""
        account = state.account
        if account.numbers - {entry.sub}:
            # The rest of the account is compared with the others' next ledger.
            account.part(entry)
            return self._note(state, entry, [])
        return self._note(state, entry, account.compare([entry]))

    @staticmethod
    def _note(state: SubscriptionState, entry: LedgerEntry | None, differences: list[str]) -> list[Effect]:
        entry = entry or LedgerEntry(state.number or 0, 0, 0, 0, 0, 0)
        is_first = state.audit.note(entry, differences, state.account)
        return [Disagreed(state, tuple(differences))] if is_first else []


def _stands_for(tick: Tick) -> int | None:
    """Return how many trades a tick stands for; ``None`` if it is none."""
    if type(tick) is not Trade:
        return None
    return 1 if tick.count is UNSET else tick.count
