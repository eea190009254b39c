"""What the client knows of one subscription, across connections. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Symbols
from typing import Any

from broker.client.account import Account
from broker.client.events import Gap, SubscriptionStatistics
from broker.client.sequence import Sequence
from broker.client.verdict import Audit, SubscriptionVerdict
from broker.client.wire import Ack, Rejected
from broker.core.delivery import Mode
from broker.core.mailbox import LedgerEntry
from broker.core.topics import parse_pattern


class SubscriptionState:
    """State only; `broker.client.protocol` changes it. Hashed by identity.

    Attributes:
        number: the broker's, on the present connection; ``None`` while it is not subscribed there.
        cursor: where to take it up again; what is after it has not been received.
        is_resuming: it was last taken up with a cursor.
        awaits_snapshot: a snapshot is due, so it has to be asked for again if the connection ends now.
        renewed: its number before it began anew, while the snapshot for which it did is under way.
        was_acked: the broker has accepted it at least once.
        rejected: symbols the broker did not take, with its reasons.
        is_epoch_lost: it was last taken up in another epoch than its cursor's.
        sequences: by symbol, those that it owns.
        account: what is counted on the present connection, or was on the last one.
        audit: how the broker's ledgers compare with that.
        broken: symbols whose book lacks deltas; what comes of them is of no use until a snapshot.
    """

    def __init__(
        self,
        ch: str,
        symbols: Symbols[str],
        *,
        delivery: Mapping[str, Any] | None = None,
        snapshot: bool | None = None,
        cursor: str | None = None,
    ) -> None:
        self.ch = ch
        self.symbols = list(symbols)
        self.rejected: tuple[Rejected, ...] = ()
        self.delivery: Mapping[str, Any] | None = None
        self.mode: Mode | None = None
        self.cursor = cursor
        self.account = Account(0, is_strict=True)
        self.audit = Audit()
        self.broken: set[str] = set()
        self.sequences: dict[str, Sequence] = {}
        self.number: int | None = None
        self.was_acked = False
        self.is_ended = False
        self.is_resuming = False
        self.is_epoch_lost = False
        self.renewed: int | None = None
        self.awaits_snapshot = cursor is None if snapshot is None else snapshot
        self.snapshot_number = 0
        self.ticks = self.snapshots = self.conflated = self.gaps = 0
        self.missing = self.unexplained = self.duplicates = self.withheld = 0
        self._asked_delivery = delivery
        self._asked_snapshot = snapshot
        self._names: frozenset[str] = frozenset()
        self._venues: frozenset[str] = frozenset()

    @property
    def has_patterns(self) -> bool:
        """Whether any of its symbols is a pattern."""
        return any(parse_pattern(symbol) is not None for symbol in self.symbols)

    @property
    def ledger(self) -> LedgerEntry | None:
        """The broker's account on the present or the last connection, as last told."""
        return self.audit.ledger

    @property
    def is_strict(self) -> bool:
        """Whether the contract in force leaves no room for conflation."""
        return self.mode == "every" and (self.delivery or {}).get("overflow") != "degrade"

    @property
    def has_max_rate(self) -> bool:
        """Whether the broker holds ticks back for a while."""
        return (self.delivery or {}).get("max_rate") is not None

    def request(self) -> dict[str, Any]:
        """Return the request that takes it up: as asked for at first, behind its cursor later."""
        fields: dict[str, Any] = {"ch": self.ch, "symbols": self.symbols}
        if self._asked_delivery is not None:
            fields["delivery"] = self._asked_delivery
        if self.cursor is not None:
            fields["cursor"] = self.cursor
        if not self.was_acked:
            if self._asked_snapshot is not None:
                fields["snapshot"] = self._asked_snapshot
        elif self.awaits_snapshot:
            fields["snapshot"] = True
        self.is_resuming = self.cursor is not None
        self.snapshot_number += 1
        return fields

    def renew(self) -> None:
        """Let the next `request` begin anew, with a snapshot, whatever came before."""
        self.cursor = None
        self.awaits_snapshot = True
        self.renewed = self.number

    def accept(self, ack: Ack) -> None:
        """Take in the broker's answer to `request`."""
        assert isinstance(ack.sub, int)
        self.number = ack.sub
        if not self.was_acked:
            # What was accepted once is asked for again on every later connection, all of it.
            self.symbols = ack.symbols
        self.was_acked = True
        self.rejected = tuple(dict.fromkeys((*self.rejected, *ack.rejected)))
        self.delivery = ack.delivery
        self.mode = ack.mode
        self.account = self._open_account(ack.sub)
        self.audit.begin(ack.sub)
        if self.is_resuming and ack.cursor != self.cursor:
            # It may be of another epoch: then a snapshot comes, or has to be asked for should this connection
            # end before. If it is not (others of this session lag behind), asking does no harm.
            self.awaits_snapshot = True
        self.cursor = ack.cursor
        venues = {symbol: parse_pattern(symbol) for symbol in ack.symbols}
        self._names = frozenset(symbol for symbol, venue in venues.items() if venue is None)
        self._venues = frozenset(venue for venue in venues.values() if venue is not None)

    def _open_account(self, number: int) -> Account:
        if self.is_epoch_lost or (not self.is_resuming and self.awaits_snapshot):
            return Account(number, is_strict=self.is_strict, begins_at_zero=True, awaits_snapshot=True)
        if not self.is_resuming:
            return Account(number, is_strict=self.is_strict)
        lasts = {sym: s.last for sym, s in self.sequences.items() if s.last is not None}
        # What had not come before a snapshot was complete may have had ticks all the same.
        is_same = self.account.begins_at_zero and not self.awaits_snapshot
        return Account(
            number,
            is_strict=self.is_strict,
            begins_at_zero=is_same,
            begins=lasts,
            is_resumed=True,
            is_aside=self.awaits_snapshot,
        )

    def modified(self, asked: Mapping[str, Any], ack: Ack) -> None:
        """Take in a changed contract, and keep asking for it on later connections."""
        self.delivery = ack.delivery
        self.mode = ack.mode
        self.account.modify(is_strict=self.is_strict)
        # What has no meaning any more (`queue` in `latest`) would be refused.
        fields = {**(self._asked_delivery or {}), **asked}
        self._asked_delivery = {
            name: ack.delivery.get(name, value)
            for name, value in fields.items()
            if ack.delivery.get(name, value) is not None
        }

    @property
    def names_taken(self) -> frozenset[str]:
        """The symbols that the broker has accepted by name."""
        return self._names

    def names(self, sym: str) -> bool:
        """Tell whether it has ``sym`` by name."""
        return sym in self._names

    def matches(self, sym: str) -> bool:
        """Tell whether one of its patterns takes ``sym`` in."""
        return "*" in self._venues or sym.partition(":")[0] in self._venues

    def sequence(self, sym: str) -> Sequence:
        """Return the account of a symbol, a new one if need be."""
        sequence = self.sequences.get(sym)
        if sequence is None:
            sequence = self.sequences[sym] = Sequence()
        return sequence

    def verdict(self) -> SubscriptionVerdict:
        """Return how the broker's ledgers compare with what came."""
        return self.audit.verdict(self.ch, self.symbols)

    def count_gap(self, gap: Gap) -> Gap:
        """Add a gap to the account, and return it."""
        self.gaps += 1
        self.missing += gap.missing or 0
        return gap

    def statistics(self, buffered: int) -> SubscriptionStatistics:
        """Return the account as of now; ``buffered`` ticks wait for the application."""
        return SubscriptionStatistics(
            mode=self.mode,
            ticks=self.ticks,
            snapshots=self.snapshots,
            conflated=self.conflated,
            gaps=self.gaps,
            missing=self.missing,
            unexplained=self.unexplained,
            duplicates=self.duplicates,
            withheld=self.withheld,
            buffered=buffered,
        )
