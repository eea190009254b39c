"""The books of somebody who believes nothing: what was published, what is owed to each subscription, what came.

A model of the delivery contract, as plain as can be, that shares no code with the broker: lists of what waits, walked
from the front. It is told what happens and shown every message; it says what is wrong with them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

Key = tuple[str, str]

REPLACED = ("quote", "bar", "status")
TEXTS = {
    "quote": ("bid", "bid_size", "ask", "ask_size"),
    "trade": ("price", "id"),
    "bar": ("interval", "open", "high", "low", "close", "volume", "count", "final"),
    "status": ("state", "text"),
    "book": (),
}


@dataclass
class Published:
    """One tick, as it was published; ``run`` numbers the stretches of one state of a `status`."""

    tick: Any
    offset: int
    at: float
    run: int = 0
    book: dict[str, dict[Decimal, Decimal]] = field(default_factory=dict)


class Record:
    """All that was ever published; ``topics`` has a list for each, the tick of ``seq`` n at n - 1."""

    def __init__(self) -> None:
        self.offset = 0
        self.topics: dict[Key, list[Published]] = defaultdict(list)

    def publish(self, tick: Any, at: float) -> None:
        self.offset += 1
        ticks = self.topics[tick.ch, tick.sym]
        run = 0
        book: dict[str, dict[Decimal, Decimal]] = {"bids": {}, "asks": {}}
        if ticks:
            run = ticks[-1].run + (tick.ch == "status" and ticks[-1].tick.state != tick.state)
            if tick.ch == "book" and tick.kind == "delta":
                book = {side: dict(levels) for side, levels in ticks[-1].book.items()}
        if tick.ch == "book":
            apply_levels(book, {"bids": tick.bids, "asks": tick.asks})
        ticks.append(Published(tick, self.offset, at, run, book))

    def newest(self, key: Key) -> int:
        return len(self.topics[key])

    def get(self, key: Key, seq: int) -> Published:
        return self.topics[key][seq - 1]

    def first_after(self, key: Key, offset: int) -> int:
        """Return the ``seq`` of the first tick behind an offset, one more than the newest if there is none."""
        return sum(published.offset <= offset for published in self.topics[key]) + 1

    def conflates_by(self, key: Key, seq: int) -> object:
        """Return what two ticks must share so that the later takes the earlier one's place."""
        published = self.get(key, seq)
        return key, getattr(published.tick, "interval", None), published.run

    def can_be_merged(self, key: Key, seq: int) -> bool:
        if key[0] != "trade":
            return True
        try:
            Decimal(self.get(key, seq).tick.size)
        except InvalidOperation:
            return False
        return True


def apply_levels(book: dict[str, dict[Decimal, Decimal]], change: dict[str, Any]) -> None:
    for side, levels in book.items():
        for price, size in change[side]:
            levels[Decimal(price)] = Decimal(size)
        for price in [price for price, size in levels.items() if not size]:
            del levels[price]


@dataclass
class Item:
    """What waits as one tick: the newest of ``seqs``.

    Attributes:
        at: since when it waits.
        is_replayed: read from the history; such a tick is never conflated.
        is_overtaken: a ``max_rate`` may have held it back.
        shown: the ``seq`` of the state that a resume began with; those before it were replaced by it, 0: none.
    """

    key: Key
    seqs: list[int]
    at: float
    is_replayed: bool = False
    is_overtaken: bool = False
    shown: int = 0

    @property
    def stands(self) -> int:
        """The first ``seq`` that is in what waits; those before it were replaced."""
        return self.seqs[-1] if self.key[0] in REPLACED else self.shown or self.seqs[0]


class Account:
    """One subscription: its contract, what waits for it in order, and how the rest went."""

    def __init__(
        self, record: Record, number: int, ch: str, symbols: list[str], delivery: dict[str, Any]
    ) -> None:
        self.record = record
        self.number = number
        self.ch = ch
        self.symbols = symbols
        self.delivery = delivery
        self.items: list[Item] = []
        self.offered = self.delivered = self.conflated = self.dropped = 0
        self.is_degraded = False
        #: Since when the present ``max_rate`` has been in force: what was sent of each symbol, and when.
        self.sent: dict[Key, list[float]] = defaultdict(list)
        #: Topics of which not all ticks came here: what is sent of them may be earlier than the rate has it.
        self.unsteady: set[Key] = set()
        self.states: list[str] = []

    @property
    def live(self) -> list[Item]:
        return [item for item in self.items if not item.is_replayed]

    @property
    def is_latest(self) -> bool:
        return self.delivery["mode"] == "latest" or self.is_degraded

    def covers(self, sym: str) -> bool:
        return bool({"*", sym.partition(":")[0] + ":*"} & {*self.symbols})

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def offer(self, key: Key, seq: int, at: float) -> None:
        """A tick was published, and it is for this subscription."""
        self.offered += 1
        if any(item.is_replayed and item.key == key for item in self.items):
            # It is in the history, where the topic is still being read.
            self.items.append(Item(key, [seq], at, is_replayed=True))
        else:
            self._queue(Item(key, [seq], at, is_overtaken=self.delivery["max_rate"] is not None))

    def _queue(self, item: Item) -> None:
        older = self._to_conflate(item) if self.is_latest else None
        if older is not None:
            self.items.remove(older)
            item.seqs = older.seqs + item.seqs
            item.shown = older.shown
        self.items.append(item)

    def _to_conflate(self, item: Item) -> Item | None:
        record, key = self.record, item.key
        same = [other for other in self.live if other.key == key]
        if self.ch in REPLACED:
            by = record.conflates_by(key, item.seqs[-1])
            return next((o for o in reversed(same) if record.conflates_by(key, o.seqs[-1]) == by), None)
        if not same or same[-1].seqs[-1] + 1 != item.seqs[0]:
            return None
        both = (same[-1].seqs[-1], item.seqs[-1])
        return same[-1] if all(record.can_be_merged(key, seq) for seq in both) else None

    def change(self, delivery: dict[str, Any]) -> None:
        """Another contract is in force."""
        was_paced = self.delivery["max_rate"] is not None
        self.delivery = delivery
        self.is_degraded = False
        live = self.live
        self.items = [item for item in self.items if item.is_replayed]
        for item in live:
            self._queue(item)
            item.is_overtaken |= was_paced or delivery["max_rate"] is not None
        self.sent.clear()

    def too_many(self) -> int:
        """How many ticks more wait than the contract allows; never with `latest`, as the tests' limits are high."""
        return 0 if self.is_latest else max(0, len(self.live) - self.delivery["queue"])

    def fill(self) -> float:
        """How full the queue is, 0 to 1; that of `latest` is never half full here."""
        return 0.0 if self.is_latest and self.live else len(self.live) / (self.delivery["queue"] or 1)

    def would_lose(self) -> int:
        """How many ticks go with the oldest that are too many; what was conflated under another contract is one."""
        gone = self.live[: self.too_many()]
        return sum(seq >= item.stands for item in gone for seq in item.seqs)

    def degrade(self) -> None:
        self.is_degraded = True
        live = self.live
        self.items = [item for item in self.items if item.is_replayed]
        for item in live:
            self._queue(item)

    # ── what goes ────────────────────────────────────────────────────────────────────────────────

    def find(self, key: Key, seq: int) -> Item | None:
        return next((item for item in self.items if item.key == key and seq in item.seqs), None)

    def deliver(self, item: Item, seq: int, now: float) -> list[int]:
        """A tick came for what waits; return all that it stands for."""
        first = next(other for other in self.items if other.key == item.key)
        assert first is item, f"{item.key}: {seq} came, and {first.seqs} waits before it"
        covered = [n for n in item.seqs if n <= seq]
        if covered != item.seqs:
            # What might go already was not conflated with what might not.
            assert item.is_overtaken, f"{item.key}: {seq} came for {item.seqs}"
            item.seqs = item.seqs[len(covered) :]
        else:
            self.items.remove(item)
        age = self.delivery["max_age_ms"]
        assert age is None or item.is_replayed or item.at >= now - age / 1000, "it had waited too long"
        self.delivered += 1
        self.conflated += len(covered) - 1
        self._look_whether_recovered()
        return covered

    def drop(self, key: Key, first: int, last: int, reason: str, now: float) -> None:
        """A gap named a range."""
        named = last - first + 1
        for item in list(self.items):
            gone = [n for n in item.seqs if first <= n <= last] if item.key == key else []
            if not gone:
                continue
            if reason == "stale":
                assert item.at < now - self.delivery["max_age_ms"] / 1000, "it had not waited too long"
            assert gone[-1] == item.seqs[-1], f"{key}: {item.seqs} is one, and the gap ends at {last}"
            self.items.remove(item)
            self.dropped += len(gone)
            self.conflated += len(item.seqs) - len(gone)
            named -= len(gone)
        assert named == 0, f"{key}: of {first} to {last}, {named} did not wait here"
        self._look_whether_recovered()

    def _look_whether_recovered(self) -> None:
        if self.is_degraded and not self.live:
            self.is_degraded = False

    # ── the account ──────────────────────────────────────────────────────────────────────────────

    def check(self, entry: dict[str, int]) -> None:
        """Compare with what the broker says, all gaps being told."""
        assert entry["offered"] == sum(
            entry[part] for part in ("delivered", "conflated", "dropped", "pending")
        )
        waiting = sum(len(item.seqs) - 1 for item in self.items)
        mine = {
            "sub": self.number,
            "offered": self.offered,
            "delivered": self.delivered,
            "conflated": self.conflated + waiting,
            "dropped": self.dropped,
            "pending": len(self.items),
        }
        if entry["pending"] > len(self.items) and any(item.is_overtaken for item in self.items):
            # See `deliver`.
            more = entry["pending"] - len(self.items)
            mine |= {"conflated": mine["conflated"] - more, "pending": entry["pending"]}
        assert entry == mine
