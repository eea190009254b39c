"""Ticks that wait as bytes, beside the same ticks as entries: nobody can tell the difference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core import outbox
from broker.core.codecs import CODECS, JSON, MSGPACK, Codec
from broker.core.encoded import Recall
from broker.core.encoding import head_reader, pack_tick, read_tick, tick_to_json
from broker.core.history import HistoryLimits
from broker.core.ticks import Tick
from tests.core.pair import Client, Market, quote, trade
from tests.core.test_sessions import CHANNELS, SPECS, tick_of

#: Writes of a few ticks, so that a short run has many of them. By bytes they may differ: an entry is measured by its
#: first encoding, bytes by themselves.
SMALL = {"WRITE_TICKS": 4, "WRITE_BOOKS": 3}

DELIVERIES: list[dict[str, Any]] = [
    {"mode": "every", "queue": 3},
    {"mode": "every", "queue": 1},
    {"mode": "every", "queue": 1000},
    {"mode": "every", "queue": 4, "overflow": "evict"},
    {"mode": "every", "queue": 4, "overflow": "degrade"},
    {"mode": "every", "queue": 5, "max_age_ms": 500},
    {"mode": "latest"},
]
BURSTS = st.lists(SPECS, min_size=1, max_size=8)
STEPS = st.one_of(
    st.tuples(st.just("publish"), BURSTS),
    st.tuples(st.just("publish"), BURSTS),
    st.tuples(st.just("take"), st.sampled_from([1, 2, 1000])),
    st.tuples(st.just("take"), st.just(1000)),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("beat"), st.none()),
    st.tuples(st.just("gap"), st.sampled_from(["SIM:A", "SIM:B"])),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 0.6])),
    st.tuples(st.just("modify"), st.sampled_from(DELIVERIES)),
    st.tuples(st.just("second"), st.sampled_from([None, "resume"])),
    st.tuples(st.just("end"), st.integers(1, 3)),
)


@given(st.sampled_from(CHANNELS), SPECS)
def test_tick_is_read_back_from_either_codec_as_it_was(ch: str, spec: dict[str, Any]) -> None:
    tick = tick_of(ch, spec)
    tick.seq = 7
    for encoded in (tick_to_json(tick), pack_tick(tick)):
        assert read_tick(encoded) == tick
        head = head_reader(encoded)(encoded)
        assert (head.ch, head.sym, head.seq) == (ch, tick.sym, 7)


class Both:
    """Two clients who do the same; one's ticks never wait as bytes."""

    def __init__(self, market: Market, codec: Codec) -> None:
        self.market = market
        self.fast, self.plain = Client(market, codec), Client(market, codec)
        self.plain.session.hasten = lambda: None  # type: ignore[method-assign]

    def do(self, name: str, *args: Any, **kwargs: Any) -> None:
        for client in (self.fast, self.plain):
            getattr(client, name)(*args, **kwargs)
        self.compare()

    def compare(self) -> None:
        assert self.fast.messages == self.plain.messages
        assert self.fast.session.ledger() == self.plain.session.ledger()
        evicted = [client.outbox.evicted is not None for client in (self.fast, self.plain)]
        assert evicted[0] == evicted[1]

    @property
    def is_over(self) -> bool:
        return self.fast.outbox.evicted is not None


def run(codec: Codec, history: HistoryLimits, ch: str, delivery: dict[str, Any], steps: list[Any]) -> bool:
    """Run the steps; return whether ticks ever came as bytes."""
    market = Market(history, symbols=["SIM:A", "SIM:B"])
    market.now = 1.0
    both = Both(market, codec)
    both.do("subscribe", ch, "SIM:A", "SIM:B", delivery=delivery, snapshot=False)
    both.do("take")
    was_encoded = False
    for step, what in steps:
        subs = both.fast.session.subscriptions
        was_encoded |= any(sub.mailbox.is_encoded for sub in subs.values())
        match step:
            case "publish":
                market.publish(*[tick_of(ch, spec) for spec in what])
            case "take":
                both.do("take", what)
            case "wait":
                both.do("wait")
            case "beat":
                both.do("heartbeat")
            case "gap":
                market.router.gap(ch, what)  # type: ignore[arg-type]  # a channel
            case "pass":
                market.now += what
            case "modify":
                both.do("request", "modify", sub=next(iter(subs), 1), delivery=what)
            case "second":
                cursor = {"cursor": both.fast.cursor} if what else {}
                both.do("request", "subscribe", ch=ch, symbols=["SIM:B", "OTHER:N"], **cursor)
            case "end":
                both.do("request", "unsubscribe", sub=what)
        if both.is_over:
            return was_encoded
        both.compare()
    both.do("take")
    return was_encoded


@settings(max_examples=max(300, settings().max_examples))
@given(
    st.sampled_from(CODECS),
    st.sampled_from([HistoryLimits(), HistoryLimits(ticks=5), HistoryLimits(ticks=0)]),
    st.sampled_from(CHANNELS),
    st.sampled_from(DELIVERIES),
    st.lists(STEPS, max_size=25),
)
def test_messages_and_accounts_are_the_same_as_if_ticks_waited_as_entries(
    codec: Codec, history: HistoryLimits, ch: str, delivery: dict[str, Any], steps: list[Any]
) -> None:
    before = {name: getattr(outbox, name) for name in SMALL}
    try:
        for name, value in SMALL.items():
            setattr(outbox, name, value)
        run(codec, history, ch, delivery, steps)
    finally:
        for name, value in before.items():
            setattr(outbox, name, value)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_only_subscription_of_every_tick_comes_as_bytes_until_somebody_has_to_look(codec: Codec) -> None:
    market = Market()
    client = Client(market, codec)
    client.subscribe("quote", "SIM:A", delivery={"mode": "every"})
    mailbox = client.session.subscriptions[1].mailbox
    assert not mailbox.is_encoded
    client.take()
    assert mailbox.is_encoded
    market.quotes("SIM:A", "SIM:A")
    assert {type(item) for item in mailbox.inbox} == {bytes}
    client.subscribe("trade", "SIM:A")
    assert not mailbox.is_encoded
    market.quotes("SIM:A")
    client.take()
    assert client.seqs("quote", "SIM:A") == [1, 2, 3]
    client.request("unsubscribe", sub=2)
    client.take()
    assert mailbox.is_encoded


def test_neighbours_get_one_tick_in_either_codec_and_as_an_entry() -> None:
    market = Market()
    clients = [Client(market, JSON), Client(market, MSGPACK), Client(market, JSON)]
    for client, mode in zip(clients, ["every", "every", "latest"], strict=True):
        client.subscribe("quote", "SIM:A", delivery={"mode": mode})
        client.take()
    market.publish(quote("SIM:A", "7"))
    for client in clients:
        client.take()
    assert [client.ticks["quote", "SIM:A"][0]["bid"] for client in clients] == ["7", "7", "7"]


def test_forgotten_tick_has_the_first_place_and_no_time() -> None:
    market = Market(HistoryLimits(ticks=1))
    recall = Recall(market.tape)
    ticks: list[Tick] = [quote("SIM:B"), trade("SIM:A"), trade("SIM:A")]
    market.now = 5.0
    market.publish(*ticks)
    market.tape.history.trim(market.topics.get("trade", "SIM:A"))
    named = recall.name([pack_tick(tick) for tick in ticks[1:]])
    assert [(each.topic.sym, each.seq) for each in named] == [(tick.sym, tick.seq) for tick in ticks[1:]]
    offsets = list(map(recall.offset, named))
    assert offsets == [1, 3]
    assert list(map(recall.time_of, offsets)) == [0.0, 5.0]
    assert not recall.is_reliable


def test_tick_that_waits_longer_than_the_history_reaches_keeps_its_place() -> None:
    market = Market(HistoryLimits(age_s=10.0))
    client = Client(market)
    client.subscribe("quote", "SIM:A", delivery={"mode": "every"})
    client.take()
    market.quotes("SIM:B", "SIM:A", "SIM:B", "SIM:A")
    client.wait()
    assert client.session.subscriptions[1].mailbox.is_encoded
    market.now = 60.0
    market.quotes("SIM:B")
    assert market.tape.history.kept_ticks == 1
    assert client.heartbeat()["cursor"] == "e1-1"
    client.take()
    assert client.cursor == "e1-5"
    assert client.seqs("quote", "SIM:A") == [1, 2]


def test_stalled_reader_is_told_exactly_what_it_missed_though_most_of_it_was_only_counted() -> None:
    market = Market(symbols=["SIM:A", "SIM:B", "SIM:C"])
    client = Client(market)
    client.subscribe(
        "trade", "SIM:A", "SIM:B", "SIM:C", delivery={"mode": "every", "queue": 4}, snapshot=False
    )
    market.trades("SIM:A", "SIM:A")
    client.take()
    market.trades("SIM:C")
    client.take()
    mailbox = client.session.subscriptions[1].mailbox
    assert mailbox.is_encoded
    for _ in range(20):
        market.trades("SIM:A", "SIM:B", "SIM:A")
        client.wait()
    assert mailbox._queue.has_unnamed  # type: ignore[attr-defined]  # it is an EncodedQueue
    assert mailbox.ledger(1).dropped == 56
    assert mailbox.ledger(1).pending == 4
    client.take()
    told = {(gap["sym"], gap["from"], gap["to"], gap["reason"]) for gap in client.gaps}
    assert told == {("SIM:A", 3, 39, "overflow"), ("SIM:B", 1, 19, "overflow")}
    assert client.seqs("trade", "SIM:A") == [1, 2, 40, 41, 42]
    assert client.seqs("trade", "SIM:B") == [20]
    assert not mailbox._queue.has_unnamed  # type: ignore[attr-defined]


def test_topic_that_begins_while_nothing_is_named_is_told_from_its_first_tick() -> None:
    market = Market(symbols=["SIM:A"])
    client = Client(market)
    client.subscribe("trade", "OTHER:*", delivery={"mode": "every", "queue": 2}, snapshot=False)
    market.trades("OTHER:X")
    client.take()
    client.take()
    for _ in range(5):
        market.trades("OTHER:X", "OTHER:X")
        client.wait()
    for _ in range(5):
        market.trades("OTHER:Y", "OTHER:X")
        client.wait()
    client.take()
    told = {(gap["sym"], gap["from"], gap["to"]) for gap in client.gaps}
    assert told == {("OTHER:X", 2, 15), ("OTHER:Y", 1, 4)}
    assert client.seqs("trade", "OTHER:X") == [1, 16]
    assert client.seqs("trade", "OTHER:Y") == [5]
