"""What the comparison of the broker's ledgers with the client's own account has come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.client.account import Account
from broker.core.mailbox import LedgerEntry


@dataclass(frozen=True, slots=True)
class SubscriptionVerdict:
    """Whether the broker's account of one subscription is true.

    Attributes:
        sub: the broker's number of it, on the present or the last connection.
        checks: ledger entries that were compared, over all connections.
        ticks: that those account for as delivered, conflated or dropped, over all connections.
        is_exact: every number could be checked to the last tick. Not so in ``latest`` while ticks are pending,
            since those that were conflated into them show only once they come; nor with ``unknown`` ticks.
        unknown: conflated before the count could begin on this side: after a resume in ``latest``, or where a
            symbol was handed over, the broker may have to be believed once.
        differences: what did not agree, in words and numbers, when it did not for the first time.
        ledger: the entry that was compared last.
    """

    sub: int
    ch: str
    symbols: tuple[str, ...]
    checks: int
    ticks: int
    is_exact: bool
    unknown: int
    differences: tuple[str, ...]
    ledger: LedgerEntry | None

    @property
    def agrees(self) -> bool:
        """Whether no comparison ever failed."""
        return not self.differences

    def __str__(self) -> str:
        """Return one line, for people."""
        shown = ",".join(self.symbols[:3]) + (",…" if len(self.symbols) > 3 else "")
        name = f"{self.ch} {shown} (sub {self.sub})"
        if self.differences:
            return f"{name}: {'; '.join(self.differences)}"
        return f"{name}: {self.ticks:,} ticks, {_degree(self.is_exact)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the broker's ledgers are true, as far as this client can know.

    Attributes:
        subscriptions: those that live.
        ended: how many have ended and were compared.
        ended_ticks: that those accounted for.
        ended_faulty: the first 100 of those that have ended and did not agree.
    """

    subscriptions: tuple[SubscriptionVerdict, ...] = ()
    ended: int = 0
    ended_ticks: int = 0
    ended_faulty: tuple[SubscriptionVerdict, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing ever differed."""
        return not self.ended_faulty and all(item.agrees for item in self.subscriptions)

    @property
    def is_exact(self) -> bool:
        """Whether all that live agree to the last tick, and nothing ever differed."""
        return self.agrees and all(item.is_exact for item in self.subscriptions if item.checks)

    @property
    def verified(self) -> int:
        """How many subscriptions have been compared with a ledger at least once."""
        return self.ended + sum(1 for item in self.subscriptions if item.checks)

    @property
    def checks(self) -> int:
        """How many ledger entries of those that live have been compared."""
        return sum(item.checks for item in self.subscriptions)

    @property
    def ticks(self) -> int:
        """How many ticks the ledgers account for, over all subscriptions and connections."""
        return self.ended_ticks + sum(item.ticks for item in self.subscriptions)

    @property
    def differences(self) -> tuple[str, ...]:
        """What does not agree, a line for each subscription."""
        return tuple(str(item) for item in (*self.subscriptions, *self.ended_faulty) if item.differences)

    def __str__(self) -> str:
        """Return one line, for people."""
        if self.differences:
            return f"DISAGREES: {'; '.join(self.differences)}"
        if not self.verified:
            return "not verified yet"
        plural = "" if self.verified == 1 else "s"
        return (
            f"{self.verified} subscription{plural} verified, {self.ticks:,} ticks, {_degree(self.is_exact)}"
        )


def _degree(is_exact: bool) -> str:
    return "exact" if is_exact else "agrees so far"


class Audit:
    """The comparisons of one subscription, over all connections.

    Attributes:
        ledger: as last told.
        sub, checks, ticks, is_exact, unknown, differences: as `SubscriptionVerdict` has them.
    """

    def __init__(self) -> None:
        self.sub = 0
        self.unknown = 0
        self.ledger: LedgerEntry | None = None
        self.checks = self._ticks_before = self._ticks = 0
        self.is_exact = False
        self.differences: tuple[str, ...] = ()

    @property
    def ticks(self) -> int:
        return self._ticks_before + self._ticks

    def begin(self, sub: int) -> None:
        """Begin another account, at nought: a subscription has a new number on each connection."""
        self.sub = sub
        self._ticks_before += self._ticks
        self._ticks = 0

    def note(self, entry: LedgerEntry, differences: Sequence[str], account: Account) -> bool:
        """Take in a comparison; return whether it is the first that failed."""
        self.checks += 1
        self.ledger = entry
        self._ticks = entry.delivered + entry.conflated + entry.dropped
        self.unknown = account.unknown
        is_complete = account.is_strict or not (entry.pending or account.early)
        self.is_exact = is_complete and not (account.unknown or differences)
        if not differences or self.differences:
            return False
        self.differences = tuple(differences)
        return True

    def verdict(self, ch: str, symbols: Sequence[str]) -> SubscriptionVerdict:
        """Return what is known now."""
        return SubscriptionVerdict(
            sub=self.sub,
            ch=ch,
            symbols=tuple(symbols),
            checks=self.checks,
            ticks=self.ticks,
            is_exact=self.is_exact,
            unknown=self.unknown,
            differences=self.differences,
            ledger=self.ledger,
        )
