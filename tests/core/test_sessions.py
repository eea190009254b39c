"""Any session: several subscriptions under any contracts, changed, ended, resumed; beside somebody who keeps books.

What is published is written down, what came is compared with it: content, order, account, cursor, notices. The
broker's side is real up to the bytes.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import errors, outbox
from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.delivery import DeliveryLimits
from broker.core.history import HistoryLimits
from broker.core.session import SessionLimits
from broker.core.ticks import Bar, Book, Quote, Status, Tick, Trade
from tests.core.keeper import TEXTS, Account, Item, Key, Record, apply_levels
from tests.core.pair import Client, Market

SYMBOLS = ("SIM:A", "SIM:B", "OTHER:N")
CHANNELS = ("trade", "quote", "book", "bar", "status")
#: Writes of a few ticks, so that a short run has many of them.
SMALL = {"WRITE_TICKS": 4, "WRITE_BYTES": 500, "WRITE_GAPS": 2, "WRITE_BOOKS": 3}

_number = st.sampled_from(["1", "2.50", "3", "0.001"])
_price = st.integers(1, 5).map(str)
_levels = st.lists(st.tuples(_price, st.sampled_from(["0", "1", "2.0", "0.000"])), max_size=3)
#: What any tick can be made of, so that each run can do with few channels.
SPECS = st.fixed_dictionaries(
    {
        "which": st.integers(0, 1),
        "sym": st.sampled_from(["SIM:A", *SYMBOLS]),
        "ts": st.integers(0, 9),
        "price": _price,
        "size": st.sampled_from(["1", "2.50", "3", "0.001", "much"]),
        "side": st.sampled_from(["buy", "sell", None]),
        "kind": st.sampled_from(["delta"] * 4 + ["snapshot"]),
        "bids": _levels,
        "asks": _levels,
        "interval": st.sampled_from(["1s", "1m"]),
        "state": st.sampled_from(["live", "live", "down"]),
    }
)
BURSTS = st.lists(SPECS, min_size=1, max_size=8)


def tick_of(ch: str, spec: dict[str, Any]) -> Tick:
    head = {"sym": spec["sym"], "ts": spec["ts"], "rts": 7}
    price, size = spec["price"], spec["size"]
    match ch:
        case "quote":
            return Quote(**head, bid=price, bid_size=size, ask=None, ask_size=None)
        case "trade":
            return Trade(**head, price=price, size=size, side=spec["side"], id=price)
        case "book":
            return Book(**head, kind=spec["kind"], bids=spec["bids"], asks=spec["asks"])
        case "bar":
            ones = dict.fromkeys(("open", "high", "low", "close", "volume"), price)
            return Bar(**head, interval=spec["interval"], start=0, count=1, final=False, **ones)
    return Status(**head, state=spec["state"], text=price)


DELIVERIES = st.sampled_from(
    [
        {"mode": "latest"},
        {"mode": "latest", "max_rate": 2},
        {"mode": "latest", "max_rate": 2, "max_age_ms": 900},
        {"mode": "latest", "max_rate": 0.5},
        {"mode": "latest", "max_age_ms": 300},
        {"mode": "every", "queue": 1000},
        {"mode": "every", "queue": 3, "max_age_ms": 900},
        {"mode": "every", "queue": 3, "overflow": "gap"},
        {"mode": "every", "queue": 1, "overflow": "gap"},
        {"mode": "every", "queue": 4, "overflow": "degrade"},
        {"mode": "every", "queue": 3, "overflow": "degrade", "max_age_ms": 900},
        {"mode": "every", "queue": 8, "overflow": "evict"},
        {"mode": "every", "queue": 20},
    ]
)


class SessionMachine(RuleBasedStateMachine):
    """One client over several connections.

    Attributes:
        accounts: the subscriptions of this connection, by their number.
        owner: whose each topic is.
        high: the highest ``seq`` of each topic that came.
        book, book_at: the client's books, and at which ``seq`` each is right, 0 if it is not.
        owed: topics whose snapshot or gap is still to come, by subscription.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before = {name: getattr(outbox, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(outbox, name, value)
        self.record = Record()
        self.accounts: dict[int, Account] = {}
        self.owner: dict[Key, int] = {}
        self.high: dict[Key, int] = defaultdict(int)
        self.book: dict[Key, dict[str, dict[Decimal, Decimal]]] = {}
        self.book_at: dict[Key, int] = defaultdict(int)
        self.snapshots: dict[int, set[Key]] = {}
        self.gaps: dict[int, dict[Key, int | None]] = {}
        self.offset = 0

    def teardown(self) -> None:
        try:
            if hasattr(self, "client"):
                self.come_to_rest()
        finally:
            for name, value in self.before.items():
                setattr(outbox, name, value)

    @initialize(
        codec=st.sampled_from([JSON, MSGPACK]),
        history=st.sampled_from([HistoryLimits(), HistoryLimits(ticks=12), HistoryLimits(bytes=1500)]),
        channels=st.lists(st.sampled_from(CHANNELS), min_size=2, max_size=2),
        deliveries=st.lists(DELIVERIES, min_size=2, max_size=2),
        burst=BURSTS,
    )
    def begin(
        self,
        codec: Codec,
        history: HistoryLimits,
        channels: list[str],
        deliveries: list[Any],
        burst: list[Any],
    ) -> None:
        self.market = Market(history, symbols=["SIM:A", "SIM:B"])
        self.market.now = 1.0
        self.codec = codec
        self.channels = channels
        self.connect()
        self.publish(burst)
        for which, delivery in enumerate(deliveries):
            self.open(channels[which], ["*"] if which else ["SIM:A", "SIM:B"], delivery, None, snapshot=True)

    def connect(self) -> None:
        limits = SessionLimits(delivery=DeliveryLimits(queue_ticks=2000, queue_bytes=1 << 20))
        self.client = Client(self.market, self.codec, limits)
        self.read = 0
        self.accounts, self.owner, self.snapshots, self.gaps = {}, {}, {}, {}

    # ── the market ───────────────────────────────────────────────────────────────────────────────

    @rule(burst=BURSTS)
    def publish(self, burst: list[dict[str, Any]]) -> None:
        ticks = [tick_of(self.channels[spec["which"]], spec) for spec in burst]
        for tick in ticks:
            self.record.publish(tick, self.market.now)
            key = tick.ch, tick.sym
            if key not in self.owner:
                self.give_to_pattern(key)
            if key in self.owner:
                self.accounts[self.owner[key]].offer(key, self.record.newest(key), self.market.now)
        self.market.publish(*ticks)

    def give_to_pattern(self, key: Key) -> None:
        """The earliest pattern that covers a topic gets it."""
        for number, account in self.accounts.items():
            if account.ch == key[0] and account.covers(key[1]):
                self.owner[key] = number
                account.unsteady.add(key)
                return

    @rule(
        steps=st.lists(
            st.tuples(BURSTS, st.sampled_from([0.0, 0.1, 0.3, 0.6]), st.sampled_from(["", "take", "wait"])),
            min_size=2,
            max_size=5,
        )
    )
    def go_on(self, steps: list[tuple[list[dict[str, Any]], float, str]]) -> None:
        """What happens mostly: ticks come, time passes, and the client reads or does not."""
        for burst, seconds, then in steps:
            self.publish(burst)
            self.market.now += seconds
            if then == "take":
                self.take(1000)
            elif then == "wait":
                self.wait()

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.6, 1.5]))
    def let_time_pass(self, seconds: float) -> None:
        self.market.now += seconds

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    @rule(
        which=st.integers(0, 1),
        symbols=st.lists(st.sampled_from([*SYMBOLS, "SIM:*", "*"]), min_size=1, max_size=3),
        delivery=DELIVERIES,
        resumes=st.sampled_from([False, False, True]),
        snapshot=st.booleans(),
    )
    def subscribe(
        self, which: int, symbols: list[str], delivery: dict[str, Any], resumes: bool, snapshot: bool
    ) -> None:
        self.hear()
        cursor = self.client.cursor if resumes else None
        self.open(self.channels[which], symbols, delivery, cursor, snapshot)

    def open(
        self, ch: str, symbols: list[str], delivery: dict[str, Any], cursor: str | None, snapshot: bool
    ) -> None:
        fields: dict[str, Any] = {} if cursor is None else {"cursor": cursor}
        named = {sym for account in self.accounts.values() if account.ch == ch for sym in account.symbols}
        wanted = [sym for sym in dict.fromkeys(symbols) if sym not in named]
        answer = self.client.request(
            "subscribe", ch=ch, symbols=symbols, delivery=delivery, snapshot=snapshot, **fields
        )
        if not wanted:
            assert answer["code"] == "already_subscribed"
            return
        assert answer["symbols"] == wanted
        number = answer["sub"]
        assert answer["delivery"].items() >= delivery.items()
        account = Account(self.record, number, ch, wanted, answer["delivery"])
        self.accounts[number] = account
        topics = [key for key in self.known(ch) if self.is_for(account, key[1])]
        self.snapshots[number] = {key for key in topics if snapshot and self.record.newest(key)}
        self.gaps[number] = {}
        for key in topics:
            self.claim(account, key, cursor)
        # Whoever has lost what waited may have recovered by that.
        self.client._read(self.client.outbox.notices())

    def known(self, ch: str) -> list[Key]:
        return [(ch, sym) for sym in SYMBOLS]

    def is_for(self, account: Account, sym: str) -> bool:
        """Names go before patterns, the earlier before the later."""
        if sym in account.symbols:
            return True
        key = account.ch, sym
        return account.covers(sym) and key not in self.owner and bool(self.record.newest(key))

    def claim(self, account: Account, key: Key, cursor: str | None) -> None:
        """Pass a topic on to a subscription that begins now, or behind a cursor."""
        previous = self.accounts.get(self.owner.get(key, 0))
        self.owner[key] = account.number
        newest = self.record.newest(key)
        start: int | None = newest + 1
        if cursor is not None:
            start = self.first_after(key, cursor)
        if previous is not None:
            previous.unsteady.add(key)
            if cursor is not None and start is not None:
                self.withdraw(previous, key, start)
        if start is None:
            if newest:
                is_known = cursor is not None and cursor.startswith("e1-")
                self.gaps[account.number][key] = newest if is_known else None
                self.snapshots[account.number].add(key)
        elif cursor is not None and self.was_held_back(account, key, cursor):
            if not self.is_replayed(account) or start > newest:
                self.snapshots[account.number].add(key)
            if self.is_replayed(account):
                if account.delivery["max_rate"] is not None:
                    self.gaps[account.number][key] = start - 1
                self.resume(account, key, start)
        elif start <= newest:
            self.resume(account, key, start)

    def first_after(self, key: Key, cursor: str) -> int | None:
        """Say with which ``seq`` a resume begins; ``None`` if the history does not reach back."""
        if not cursor.startswith("e1-"):
            return None
        first = self.record.first_after(key, self.offset_of(cursor))
        oldest = self.record.offset - self.market.tape.history.kept_ticks + 1
        missed = self.record.topics[key][first - 1 :]
        return None if any(published.offset < oldest for published in missed) else first

    def resume(self, account: Account, key: Key, start: int) -> None:
        newest, now = self.record.newest(key), self.market.now
        seqs = list(range(start, newest + 1))
        account.offered += len(seqs)
        is_paced = account.delivery["max_rate"] is not None
        if self.is_replayed(account):
            account.items += [Item(key, [seq], now, is_replayed=True) for seq in seqs]
            self.sort(account)
            return
        if key[0] == "bar":
            by_interval: dict[str, list[int]] = defaultdict(list)
            for seq in seqs:
                by_interval[self.record.get(key, seq).tick.interval].append(seq)
            account.items += [Item(key, part, now, is_overtaken=is_paced) for part in by_interval.values()]
        else:
            account.items.append(Item(key, seqs, now, is_overtaken=is_paced, shown=seqs[-1]))
        self.sort(account)

    def sort(self, account: Account) -> None:
        account.items.sort(key=lambda item: self.record.get(item.key, item.seqs[-1]).offset)

    def withdraw(self, previous: Account, key: Key, start: int) -> None:
        """What waits of a topic from a ``seq`` on is another subscription's; what it replaced as well, if all does."""
        is_whole = not previous.delivered and not previous.dropped
        for item in [item for item in previous.items if item.key == key]:
            if item.seqs[-1] < start:
                continue
            first = start if is_whole else max(start, item.stands)
            kept = [seq for seq in item.seqs if seq < first]
            previous.offered -= len(item.seqs) - len(kept)
            if item.stands < start:
                item.seqs = kept
            else:
                previous.conflated += len(kept)
                previous.items.remove(item)

    def was_held_back(self, account: Account, key: Key, cursor: str) -> bool:
        """Say whether a tick of a topic may not have come, though it is from before a cursor."""
        upto = self.offset_of(cursor)
        since = upto - self.held_of(cursor)
        offsets = [published.offset for published in self.record.topics[key]]
        return account.delivery["mode"] == "latest" and any(since < offset <= upto for offset in offsets)

    @staticmethod
    def is_replayed(account: Account) -> bool:
        return account.delivery["mode"] == "every" or account.ch in ("trade", "status")

    @staticmethod
    def offset_of(cursor: str) -> int:
        return int(cursor.rpartition("-")[2].partition("~")[0])

    @staticmethod
    def held_of(cursor: str) -> int:
        return int(cursor.partition("~")[2] or 0)

    @precondition(lambda self: self.accounts)
    @rule(which=st.integers(0, 5), delivery=DELIVERIES)
    def modify(self, which: int, delivery: dict[str, Any]) -> None:
        account = self.pick(which)
        answer = self.client.request("modify", sub=account.number, delivery=delivery)
        before = account.delivery
        if answer["type"] == "error":
            # What the request left out stays as it was.
            queue = delivery.get("queue", before["queue"])
            overflow = delivery.get("overflow", before["overflow"])
            assert (answer["code"], overflow) == ("invalid_delivery", "evict")
            assert len(account.live) > queue
            return
        self.client._read(self.client.outbox.notices())
        account.change(answer["delivery"])
        if account.too_many() and account.delivery["overflow"] == "degrade":
            account.degrade()
        assert not (account.too_many() and account.delivery["overflow"] == "evict")
        self.hear()

    @precondition(lambda self: self.accounts)
    @rule(which=st.integers(0, 5))
    def unsubscribe(self, which: int) -> None:
        account = self.pick(which)
        answer = self.client.request("unsubscribe", sub=account.number)
        self.take_in()
        account.check(answer["ledger"])
        del self.accounts[account.number]
        for key in [key for key, number in self.owner.items() if number == account.number]:
            del self.owner[key]
            if self.record.newest(key):
                self.give_to_pattern(key)
        self.snapshots.pop(account.number)
        assert not self.gaps.pop(account.number), "gaps come before the account that has them"

    def pick(self, which: int) -> Account:
        return self.accounts[sorted(self.accounts)[which % len(self.accounts)]]

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    @rule(writes=st.sampled_from([1, 2, 3, 1000]))
    def take(self, writes: int) -> None:
        before = {number: len(account.states) for number, account in self.accounts.items()}
        self.client.take(writes)
        self.client._read(self.client.outbox.notices())
        self.take_in()
        for number, account in self.accounts.items():
            is_told = not self.client.session.subscriptions[number].mailbox.has_gaps
            if "recovered" in account.states[before[number] :] and is_told:
                assert account.fill() <= 0.1
            elif writes == 1000 and account.fill() == 0:
                assert account.states[-1:] in ([], ["recovered"])

    @rule()
    def wait(self) -> None:
        """The wire is full: whatever is too much is dropped, told, conflated or the end."""
        self.hear()
        over = {number: account.too_many() for number, account in self.accounts.items()}
        lost = {number: account.would_lose() for number, account in self.accounts.items()}
        dropped = {number: account.dropped for number, account in self.accounts.items()}
        states = {number: list(account.states) for number, account in self.accounts.items()}
        for account in self.accounts.values():
            if over[account.number] and account.delivery["overflow"] == "degrade":
                account.degrade()
        self.client.wait()
        is_over = any(over[n] and a.delivery["overflow"] == "evict" for n, a in self.accounts.items())
        assert (self.client.outbox.evicted is not None) == is_over
        if is_over:
            self.be_evicted()
            return
        self.hear()
        for number, account in self.accounts.items():
            assert account.states[-1:] in (["pressed"], ["degraded"]) or account.fill() < 0.5
            assert account.states == states[number] or account.fill() >= 0.5 or account.is_degraded
            assert account.dropped - dropped[number] == (
                lost[number] if account.delivery["overflow"] == "gap" else 0
            )

    def be_evicted(self) -> None:
        assert self.client.take() == []
        self.client._read(self.client.outbox.message(self.client.session.close(errors.OVER_LIMIT)))
        self.take_in()
        closing = self.client.messages[-1]
        assert closing["code"] == 4408
        self.check(closing["ledger"])
        self.come_back(forget=False, changes=None)

    @rule()
    def hear(self) -> None:
        """A heartbeat: the account, and the gaps it counts, and a cursor."""
        beat = self.client.heartbeat()
        self.take_in()
        assert not any(self.gaps.values())
        self.check(beat["ledger"])
        self.check_cursor(beat["cursor"])

    def check(self, ledger: list[dict[str, int]]) -> None:
        assert [entry["sub"] for entry in ledger] == list(self.accounts)
        for entry in ledger:
            self.accounts[entry["sub"]].check(entry)

    def check_cursor(self, cursor: str) -> None:
        """Everything up to it has come, but what a ``max_rate`` holds back; nothing behind it has."""
        upto = self.offset_of(cursor)
        assert upto >= self.offset, "what came behind it would come twice"
        for account in self.accounts.values():
            for item in account.items:
                waits = self.record.get(item.key, item.seqs[-1]).offset
                assert waits > upto - (self.held_of(cursor) if item.is_overtaken else 0), item

    @rule(forget=st.sampled_from([False, False, False, True]), changes=st.none() | DELIVERIES)
    def come_back(self, forget: bool, changes: dict[str, Any] | None) -> None:
        """Lose the connection, and ask for the same with the last cursor, by another contract if so wished."""
        self.take_in()
        cursor = "e0-7" if forget else self.client.cursor
        asked = [
            (a.ch, a.symbols, changes or wish(a.delivery), bool(self.snapshots[n]))
            for n, a in self.accounts.items()
        ]
        self.client.disconnect()
        if cursor is not None and not forget:
            self.check_cursor(cursor)
        self.connect()
        self.offset = 0
        for ch, symbols, delivery, is_incomplete in asked:
            self.open(ch, symbols, delivery, cursor, is_incomplete)
        if forget:
            self.offset = 0

    # ── what came ────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def whatever_came_is_right(self) -> None:
        if hasattr(self, "client"):
            self.take_in()

    def take_in(self) -> None:
        for message in self.client.messages[self.read :]:
            match message["type"]:
                case "update":
                    for tick in message["data"]:
                        self.take_in_tick(tick)
                case "snapshot":
                    for tick in message["data"]:
                        self.take_in_snapshot(message["sub"], tick)
                case "gap":
                    self.take_in_gap(message)
                case "notice":
                    self.take_in_notice(message)
        self.read = len(self.client.messages)

    def take_in_tick(self, tick: dict[str, Any]) -> None:
        key, seq = (tick["ch"], tick["sym"]), tick["seq"]
        assert seq > self.high[key], f"{key}: {seq} behind {self.high[key]}"
        self.high[key] = seq
        found = [(a, item) for a in self.accounts.values() if (item := a.find(key, seq)) is not None]
        assert len(found) == 1, f"{key}: {seq} was not waiting"
        account, item = found[0]
        covered = account.deliver(item, seq, self.market.now)
        published = self.record.get(key, seq)
        self.offset = max(self.offset, published.offset)
        self.check_content(key, tick, covered)
        self.check_rate(account, item)

    def check_content(self, key: Key, tick: dict[str, Any], covered: list[int]) -> None:
        parts = [self.record.get(key, seq).tick for seq in covered]
        last = parts[-1]
        assert (int(tick["ts"]), int(tick["rts"])) == (last.ts, last.rts)
        assert all(tick[name] == getattr(last, name) for name in TEXTS[key[0]])
        if key[0] == "trade":
            assert tick.get("count", 1) == len(parts)
            sides = {part.side for part in parts}
            assert tick["side"] == (sides.pop() if len(sides) == 1 else None)
            same = [tick["size"]] == [part.size for part in parts]
            assert same or Decimal(tick["size"]) == sum(Decimal(part.size) for part in parts)
        if key[0] == "status":
            assert len({part.state for part in parts}) == 1, "a change of state was conflated away"
        if key[0] == "book":
            self.take_in_book(key, tick, covered[0])

    def take_in_book(self, key: Key, tick: dict[str, Any], first: int) -> None:
        if tick["kind"] == "snapshot":
            self.book[key] = {"bids": {}, "asks": {}}
        elif self.book_at[key] != first - 1:
            self.book_at[key] = 0
            return
        apply_levels(self.book.setdefault(key, {"bids": {}, "asks": {}}), tick)
        self.book_at[key] = tick["seq"]
        assert self.book[key] == self.record.get(key, tick["seq"]).book

    def check_rate(self, account: Account, item: Item) -> None:
        rate, key = account.delivery["max_rate"], item.key
        if rate is None or item.is_replayed or key in account.unsteady or key[0] in ("bar", "status"):
            return
        if not self.record.can_be_merged(key, item.seqs[-1]) or key[0] == "trade":
            return
        times = account.sent[key]
        times.append(self.market.now)
        assert all(later - earlier >= 0.5 / rate - 1e-9 for earlier, later in pairwise(times[-2:]))
        assert len(times) < 4 or times[-1] - times[-4] >= 2 / rate - 1e-9

    def take_in_snapshot(self, number: int, tick: dict[str, Any]) -> None:
        key, seq = (tick["ch"], tick["sym"]), tick["seq"]
        assert key in self.snapshots[number]
        assert not self.gaps[number].get(key)
        newest = self.record.get(key, seq)
        assert seq >= self.high[key] or key[0] == "bar"
        self.high[key] = max(self.high[key], seq)
        if key[0] == "book":
            self.book[key] = {"bids": {}, "asks": {}}
            apply_levels(self.book[key], tick)
            self.book_at[key] = seq
            assert self.book[key] == newest.book
            return
        assert int(tick["ts"]) == newest.tick.ts
        assert all(tick[name] == getattr(newest.tick, name) for name in TEXTS[key[0]])

    def take_in_gap(self, gap: dict[str, Any]) -> None:
        key, number = (gap["ch"], gap["sym"]), gap["sub"]
        if gap["reason"] == "cursor_too_old" or gap["from"] is None:
            assert gap["from"] is None
            assert gap["to"] == self.gaps[number].pop(key)
            return
        assert gap["reason"] in ("overflow", "stale")
        self.accounts[number].drop(key, gap["from"], gap["to"], gap["reason"], self.market.now)

    def take_in_notice(self, notice: dict[str, Any]) -> None:
        states = self.accounts[notice["sub"]].states
        now = states[-1] if states else "recovered"
        allowed = {
            "recovered": {"pressed", "degraded"},
            "pressed": {"degraded", "recovered"},
            "degraded": {"recovered"},
        }
        assert notice["state"] in allowed[now]
        states.append(notice["state"])

    def come_to_rest(self) -> None:
        """In the end everything has come or was told, though no other tick follows."""
        for _ in range(4):
            self.client.take()
            self.take_in()
            self.market.now += 4.0
        self.hear()
        for number, account in self.accounts.items():
            assert account.items == []
            assert account.states[-1:] in ([], ["recovered"])
            assert not self.gaps[number]
            mailbox = self.client.session.subscriptions[number].mailbox
            assert mailbox.is_clear
            assert mailbox.bytes == 0
        assert self.client.heartbeat()["cursor"] == self.market.tape.cursor()


def wish(delivery: dict[str, Any]) -> dict[str, Any]:
    """Return what to ask for, to get a contract again."""
    return {name: value for name, value in delivery.items() if value is not None}


# Shrinking several at a time takes minutes; the first one found is enough.
SessionMachine.TestCase.settings = settings(
    max_examples=max(200, settings().max_examples), stateful_step_count=50, report_multiple_bugs=False
)
TestSessions = SessionMachine.TestCase
