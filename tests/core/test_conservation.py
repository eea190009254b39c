"""Nothing is lost unnoticed, whatever happens: ticks, changes, reading now and then, leaving and coming back.

The broker's side is real up to the bytes. The client believes nothing: it numbers what it got, and compares.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import outbox
from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.history import HistoryLimits
from broker.core.subscription import Subscription
from broker.core.ticks import Tick
from tests.core.pair import Client, Market, account, quote, status, trade

TopicKey = tuple[str, str]

SYMBOLS = ("SIM:A", "SIM:B", "SIM:C", "OTHER:N")
TICKS = st.one_of(
    st.builds(trade, st.sampled_from(SYMBOLS)),
    st.builds(trade, st.just("SIM:A")),
    st.builds(quote, st.sampled_from(SYMBOLS)),
    st.builds(status, st.sampled_from(SYMBOLS), st.sampled_from(["live", "stale"])),
)
PATTERNS = ("SIM:*", "OTHER:*", "*")
CHANNELS = st.sampled_from(["trade", "quote", "status"])
#: Writes of a few ticks, so that a short run has many of them.
SMALL = {"WRITE_TICKS": 4, "WRITE_BYTES": 500, "WRITE_GAPS": 2}


class Subscriber(RuleBasedStateMachine):
    """One client over several connections.

    Attributes:
        number: of each subscription that it wants, in the order in which it asked: that of this connection.
        high: the highest ``seq`` of each topic that came in an update or a snapshot.
        received, told: each ``seq`` that came in an update, or that a gap named.
        floor: up to there a snapshot or a gap of unknown beginning stands for everything.
        offset: where each tick is on the tape.
        owed: the first ``seq`` of each topic that the subscriptions cover.
        conflatable: topics that were under `latest` at any time since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before = {name: getattr(outbox, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(outbox, name, value)
        self.wanted: dict[int, dict[str, Any]] = {}
        self.number: dict[int, int] = {}
        self.next_wanted = 0
        self.high: dict[TopicKey, int] = defaultdict(int)
        self.received: dict[TopicKey, set[int]] = defaultdict(set)
        self.told: dict[TopicKey, set[int]] = defaultdict(set)
        self.floor: dict[TopicKey, int] = defaultdict(int)
        self.unknown_gap: set[TopicKey] = set()
        self.owed: dict[TopicKey, int] = {}
        self.conflatable: set[TopicKey] = set()
        self.ended: list[dict[str, int]] = []
        self.live: dict[int, Subscription] = {}
        self.cursor: str | None = None
        self.offset: dict[tuple[str, str, int], int] = {}

    def teardown(self) -> None:
        for name, value in self.before.items():
            setattr(outbox, name, value)

    @initialize(
        codec=st.sampled_from([JSON, MSGPACK]),
        history=st.sampled_from([HistoryLimits(), HistoryLimits(ticks=12), HistoryLimits(bytes=1500)]),
    )
    def begin(self, codec: Codec, history: HistoryLimits) -> None:
        self.market = Market(history)
        self.codec = codec
        self.connect()

    def connect(self) -> None:
        self.client = Client(self.market, self.codec)
        self.read = 0
        self.ended = []

    # ── what happens ─────────────────────────────────────────────────────────────────────────────

    @rule(ticks=st.lists(TICKS, min_size=1, max_size=12))
    def publish(self, ticks: list[Tick]) -> None:
        before = {key: topic.seq for key, topic in self.topics().items()}
        offset = self.market.tape.offset
        self.market.publish(*ticks)
        for tick in ticks:
            offset += 1
            self.offset[tick.ch, tick.sym, tick.seq] = offset
        self.note_coverage(before)

    @rule(
        ch=CHANNELS,
        symbols=st.lists(st.sampled_from([*SYMBOLS, *PATTERNS]), min_size=1, max_size=3),
        mode=st.sampled_from(["latest", "every", None]),
        queue=st.sampled_from([1, 3, 1000]),
        snapshot=st.booleans(),
    )
    def subscribe(self, ch: str, symbols: list[str], mode: str | None, queue: int, snapshot: bool) -> None:
        delivery: dict[str, Any] = {}
        if mode == "every" or ch == "trade":
            delivery = {"mode": "every", "queue": queue}
        elif mode == "latest":
            delivery = {"mode": "latest"}
        fields = {"ch": ch, "symbols": symbols, "delivery": delivery}
        answer = self.client.request("subscribe", **fields, snapshot=snapshot)
        if answer["type"] == "ack":
            self.wanted[self.next_wanted] = {**fields, "symbols": answer["symbols"]}
            self.number[self.next_wanted] = answer["sub"]
            self.next_wanted += 1
        else:
            assert answer["code"] == "already_subscribed"
        self.note_coverage()

    @precondition(lambda self: self.wanted)
    @rule(which=st.integers(0, 5))
    def unsubscribe(self, which: int) -> None:
        key = sorted(self.wanted)[which % len(self.wanted)]
        del self.wanted[key]
        number = self.number.pop(key)
        sub = self.client.session.subscriptions[number]
        # What was queued is left behind, as the final account says.
        for topic in sub.topics:
            self.owed.pop((topic.ch, topic.sym), None)
        for entry in sub.mailbox.peek():
            # Of a topic that has gone to another subscription since, what was queued before that.
            left = entry.topic.ch, entry.topic.sym
            self.floor[left] = max(self.floor[left], entry.seq)
        entry = self.client.request("unsubscribe", sub=number)["ledger"]
        assert entry["offered"] == account(entry)
        self.ended.append(entry)
        self.note_coverage()

    @precondition(lambda self: self.wanted)
    @rule(
        which=st.integers(0, 5), mode=st.sampled_from(["latest", "every"]), queue=st.sampled_from([2, 1000])
    )
    def modify(self, which: int, mode: str, queue: int) -> None:
        key = sorted(self.wanted)[which % len(self.wanted)]
        fields = self.wanted[key]
        if fields["ch"] == "trade":
            mode = "every"
        delivery = {"mode": mode, "queue": queue} if mode == "every" else {"mode": mode}
        assert self.client.request("modify", sub=self.number[key], delivery=delivery)["type"] == "ack"
        self.wanted[key] = {**fields, "delivery": delivery}
        if mode == "latest":
            # Also what waits of a topic that has gone to another subscription since.
            self.conflatable |= {topic for topic in self.owed if topic[0] == fields["ch"]}
        self.note_coverage()

    @rule(writes=st.integers(1, 3))
    def take(self, writes: int) -> None:
        self.client.take(writes)

    @rule()
    def heartbeat(self) -> None:
        beat = self.client.heartbeat()
        assert all(entry["offered"] == account(entry) for entry in beat["ledger"])

    @rule(forget=st.sampled_from([False, False, False, True]))
    def come_back(self, forget: bool) -> None:
        self.client.disconnect()
        self.take_in()
        incomplete = {key for key, number in self.number.items() if self.live[number].snapshot is not None}
        self.cursor_is_exact()
        cursor = self.cursor
        if forget:
            cursor = "e0-7"
            for missed, topic in self.topics().items():
                # The welcome names another epoch than the cursor: what was missed can't be known.
                self.floor[missed] = topic.seq
        self.connect()
        for key, fields in self.wanted.items():
            more = {"snapshot": True} if key in incomplete else {}
            ack = self.client.request("subscribe", **fields, **more, cursor=cursor)
            assert ack["symbols"] == fields["symbols"]
            self.number[key] = ack["sub"]
        self.note_coverage()

    @rule()
    def drain(self) -> None:
        self.client.take()
        self.take_in()
        self.nothing_is_missing()
        self.accounts_are_true()

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────

    def topics(self) -> dict[TopicKey, Any]:
        found = {}
        for ch in ("trade", "quote", "status"):
            for sym, topic in self.market.topics.on_channel(ch).items():
                found[ch, sym] = topic
        return found

    def note_coverage(self, before: dict[TopicKey, int] | None = None) -> None:
        """Note which topics the subscriptions cover from now on, or from a publish on."""
        covered = set()
        for sub in self.client.session.subscriptions.values():
            for topic in sub.topics:
                key = topic.ch, topic.sym
                covered.add(key)
                if key not in self.owed:
                    seen = topic.seq if before is None else before.get(key, 0)
                    self.owed[key] = seen + 1
                    self.conflatable.discard(key)
                if sub.delivery.mode == "latest":
                    self.conflatable.add(key)
        self.owed = {key: first for key, first in self.owed.items() if key in covered}
        self.live = dict(self.client.session.subscriptions)

    def take_in(self) -> None:
        """Take in what has come since."""
        for message in self.client.messages[self.read :]:
            for tick in message.get("data", []):
                self.take_in_tick(message["type"], tick)
            if message["type"] == "gap":
                self.take_in_gap(message)
        self.read = len(self.client.messages)
        if self.client.cursor is not None:
            self.cursor = self.client.cursor

    def take_in_tick(self, kind: str, tick: dict[str, Any]) -> None:
        key, seq = (tick["ch"], tick["sym"]), tick["seq"]
        if kind == "update":
            assert seq > self.high[key], f"{key}: {seq} behind {self.high[key]}"
            assert seq not in self.told[key]
            self.received[key].add(seq)
        else:
            assert seq >= self.high[key], f"{key}: a snapshot of {seq} behind {self.high[key]}"
            if key in self.unknown_gap:
                self.unknown_gap.discard(key)
                self.floor[key] = seq
        self.high[key] = seq

    def take_in_gap(self, gap: dict[str, Any]) -> None:
        key = gap["ch"], gap["sym"]
        if gap["from"] is not None:
            seqs = set(range(gap["from"], gap["to"] + 1))
            assert not seqs & self.received[key]
            assert not seqs & self.told[key]
            self.told[key] |= seqs
        else:
            assert gap["reason"] == "cursor_too_old"
            self.unknown_gap.add(key)
            self.floor[key] = gap["to"] or self.floor[key]

    # ── what has to hold ─────────────────────────────────────────────────────────────────────────

    @invariant()
    def what_came_is_in_order_and_told_or_received_once(self) -> None:
        self.take_in()

    @invariant()
    def accounts_add_up(self) -> None:
        for entry in self.client.session.ledger():
            assert entry.offered == entry.delivered + entry.conflated + entry.dropped + entry.pending, entry

    @invariant()
    def routing_is_consistent(self) -> None:
        attached = set(self.market.router.mailboxes)
        assert attached == {sub.mailbox for sub in self.client.session.subscriptions.values()}
        for (ch, sym), topic in self.topics().items():
            owner = self.rightful_owner(ch, sym)
            owners = [sub for sub in self.client.session.subscriptions.values() if topic in sub.topics]
            assert [sub.id for sub in owners] == ([] if owner is None else [self.number[owner]])
            assert list(topic.mailboxes) == [
                sub.mailbox for sub in owners if sub.backlog is None or topic not in sub.backlog
            ]

    def rightful_owner(self, ch: str, sym: str) -> int | None:
        """Say whose a topic is: names go before patterns, the earlier before the later."""
        of_channel = [(key, fields["symbols"]) for key, fields in self.wanted.items() if fields["ch"] == ch]
        patterns = {"*", sym.partition(":")[0] + ":*"}
        named = [key for key, symbols in of_channel if sym in symbols]
        return next(iter([*named, *(key for key, symbols in of_channel if patterns & {*symbols})]), None)

    def cursor_is_exact(self) -> None:
        """Nothing behind the cursor has been sent; what a gap named too early comes with the resume."""
        upto = 0 if self.cursor is None else int(self.cursor.rpartition("-")[2])
        for (ch, sym), seqs in self.received.items():
            assert all(self.offset[ch, sym, seq] <= upto for seq in seqs)
        for (ch, sym), seqs in self.told.items():
            seqs -= {seq for seq in seqs if self.offset[ch, sym, seq] > upto}

    def nothing_is_missing(self) -> None:
        for key, first in self.owed.items():
            topic = self.topics().get(key)
            # A name that never had a tick is forgotten with its last subscriber.
            newest = 0 if topic is None else topic.seq
            owed = set(range(max(first, self.floor[key] + 1), newest + 1))
            missing = owed - self.received[key] - self.told[key]
            if key not in self.conflatable:
                assert not missing, f"{key}: {sorted(missing)} neither came nor were told"
            elif owed:
                assert newest not in missing or self.high[key] == newest, f"{key}: the newest did not come"

    def accounts_are_true(self) -> None:
        entries = [*self.ended, *self.client.request("list")["ledger"]]
        came = [
            tick
            for message in self.client.messages
            if message["type"] == "update"
            for tick in message["data"]
        ]
        assert sum(entry["delivered"] for entry in entries) == len(came)
        told = sum(gap["to"] - gap["from"] + 1 for gap in self.client.gaps if gap["from"] is not None)
        assert sum(entry["dropped"] for entry in entries) == told
        assert all(entry["pending"] == 0 for entry in entries[len(self.ended) :])
        assert self.client.heartbeat()["cursor"] == self.market.tape.cursor()


# Shrinking several at a time takes minutes; the first one found is enough.
Subscriber.TestCase.settings = settings(
    max_examples=max(300, settings().max_examples), stateful_step_count=40, report_multiple_bugs=False
)
TestSubscriber = Subscriber.TestCase
