"""Numbers, history and cursors, beside a list of everything that was appended."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.backlog import Backlog
from broker.core.codecs import JSON, MSGPACK
from broker.core.delivery import Delivery, DeliveryLimits
from broker.core.encoding import pack_tick, tick_to_json
from broker.core.history import OVERHEAD_BYTES, HistoryLimits
from broker.core.mailbox import Mailbox
from broker.core.tape import Entry, Tape
from broker.core.ticks import Bar, Book, Quote, Tick, Trade
from broker.core.topics import Topic, Topics
from tests.core.pair import quote, trade
from tests.fakes import put

SYMBOLS = ("SIM:A", "SIM:B", "SIM:C")
BATCHES = st.lists(st.lists(st.sampled_from(SYMBOLS), max_size=6), max_size=12)


def a_tape(**limits: Any) -> Tape:
    return Tape("e1", Topics(), HistoryLimits(**limits))


def append(tape: Tape, *symbols: str, at: float = 0.0) -> list[Entry]:
    return put(tape, [trade(sym) for sym in symbols], at)


def topic(tape: Tape, sym: str) -> Topic:
    return tape.topics.get("trade", sym)


def kept_offsets(tape: Tape) -> list[int]:
    return sorted(offset for topic in topics_of(tape) for offset in topic.offsets)


def topics_of(tape: Tape) -> list[Topic]:
    """Return all topics, with no offsets but those of kept ticks."""
    topics = tape.topics.everything()
    for each in topics:
        tape.history.trim(each)
    return topics


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


def test_seq_counts_a_topic_and_offset_the_tape() -> None:
    tape = a_tape()
    entries = append(tape, "SIM:A", "SIM:B", "SIM:A") + put(tape, [quote("SIM:A")])
    assert [(entry.seq, entry.offset) for entry in entries] == [(1, 1), (1, 2), (2, 3), (1, 4)]
    assert [entry.tick.seq for entry in entries] == [1, 1, 2, 1]
    assert tape.offset == 4


@pytest.mark.parametrize("wants_json", [True, False])
def test_newest_tick_of_a_plain_topic_is_shown_as_any_other(wants_json: bool) -> None:
    level = [("9", "1")]
    ticks: list[Tick] = [
        trade("SIM:A"),
        Trade(sym="SIM:B", ts=5, rts=6, price="1.50", size="2", side="sell", id="x", count=3),
        Quote(sym="SIM:A", ts=2**60, rts=2**60 + 1, bid="1.10", bid_size="2", ask=None, ask_size=None),
        Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=level, asks=[]),
    ]
    tapes = a_tape(), a_tape()
    for plain, tape in zip((True, False), tapes, strict=True):
        for tick in ticks:
            each = tape.topics.get(tick.ch, tick.sym)
            each.is_plain, each.wants_json = plain, wants_json
        for at in (1.0, 2.0):
            _, items = tape.append([copy(tick) for tick in ticks], at)
            assert all(isinstance(item, bytes) is plain for item in items)
    for tick in ticks:
        one, other = (tape.snapshot(tape.topics.get(tick.ch, tick.sym), 3.0) for tape in tapes)
        (shown,), (wanted,) = one, other
        fields = set(Entry.__struct_fields__) - {"topic", "key", "at"}
        assert {name: getattr(shown, name) for name in fields} == {
            name: getattr(wanted, name) for name in fields
        }
        assert shown.key is shown.topic
        assert shown.at == wanted.at or tick.ch == "book"
        assert tapes[0].snapshot(shown.topic, 3.0)[0] is shown, "a crowd shares it"


def test_topic_is_plain_only_while_all_who_get_it_get_the_same_bytes() -> None:
    topic = Topic("trade", "SIM:A")
    assert not topic.is_plain, "nobody has looked"
    topic.list_routes()
    assert topic.is_plain, "nobody wants anything"
    boxes = [Mailbox("trade", Delivery("every", None, 0, 8, "gap", None), DeliveryLimits()) for _ in range(3)]
    for mailbox, is_encoded, wants_json, is_plain in zip(
        boxes, (True, True, False), (True, False, False), (True, False, False), strict=True
    ):
        mailbox.is_encoded, mailbox.wants_json = is_encoded, wants_json
        topic.attach(mailbox)
        assert not topic.is_plain, "who gets it has changed"
        topic.list_routes()
        assert topic.is_plain is is_plain
    topic.detach(boxes[0])
    topic.detach(boxes[2])
    topic.list_routes()
    assert topic.is_plain, "all want MessagePack"
    assert not Topic("bar", "SIM:A").list_routes()[0]


def test_empty_batch_changes_nothing() -> None:
    tape = a_tape()
    assert put(tape, []) == []
    assert (tape.offset, tape.history.kept_ticks) == (0, 0)


def malformed(**changes: Any) -> Tick:
    tick = trade("SIM:A")
    for name, value in changes.items():
        setattr(tick, name, value)
    return tick


@pytest.mark.parametrize(
    "odd",
    [
        malformed(id="\ud800"),
        malformed(price=object()),
        malformed(ts=2**64),
        malformed(sym=None),
        malformed(sym=["SIM:A"]),
        malformed(sym=5),
        Book(sym="SIM:A", ts=1, rts=1, kind="delta", bids=[("1",)], asks=[]),  # type: ignore[list-item]
        Book(sym="SIM:A", ts=1, rts=1, kind="delta", bids=[(None, "1")], asks=[]),  # type: ignore[list-item]
        Book(sym="SIM:A", ts=1, rts=1, kind="delta", bids=[("1.5", "1"), (1.5, "1")], asks=[]),  # type: ignore[list-item]
    ],
    ids=range(9),
)
def test_malformed_tick_costs_itself_and_nothing_else(odd: Tick) -> None:
    tape = a_tape()
    entries = put(tape, [trade("SIM:A"), odd, trade("SIM:A"), quote("SIM:A")])
    assert [(entry.seq, entry.offset) for entry in entries] == [(1, 1), (2, 2), (1, 3)]
    assert tape.malformed == 1
    assert tape.history.kept_ticks == 3
    assert tape.topics.on_channel("book") == {}


def test_half_a_delta_is_not_applied() -> None:
    tape = a_tape()
    levels = [("9", "1"), ("8", "1")]
    tape.append([Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=levels, asks=[])], 0.0)
    bad = Book(sym="SIM:A", ts=2, rts=2, kind="snapshot", bids=[("7", "1"), ("6",)], asks=[])  # type: ignore[list-item]
    assert put(tape, [bad]) == []
    (entry,) = tape.snapshot(tape.topics.get("book", "SIM:A"), 0.0)
    assert (entry.seq, entry.tick.bids) == (1, levels)  # type: ignore[union-attr]


def test_snapshot_is_the_newest_tick_of_each_kind() -> None:
    tape = a_tape()
    assert tape.snapshot(topic(tape, "SIM:A"), 0.0) == []
    second = append(tape, "SIM:A", "SIM:A")[1]
    assert tape.snapshot(topic(tape, "SIM:A"), 0.0) == [second]
    ones: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), "1")
    bars: list[Tick] = [
        Bar(sym="SIM:A", ts=1, rts=1, interval=interval, start=0, count=1, final=True, **ones)
        for interval in ("1s", "1m", "1s")
    ]
    entries = put(tape, bars)
    shown = tape.snapshot(tape.topics.get("bar", "SIM:A"), 0.0)
    assert {entry.seq for entry in shown} == {entries[1].seq, entries[2].seq}


def test_snapshot_of_a_book_is_shared_until_the_book_changes() -> None:
    tape = a_tape()
    book = tape.topics.get("book", "SIM:A")
    assert tape.snapshot(book, 0.0) == []
    tape.append([Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=[("9", "1")], asks=[])], 0.0)
    assert tape.snapshot(book, 0.0)[0] is tape.snapshot(book, 1.0)[0]
    before = tape.snapshot(book, 1.0)[0]
    tape.append([Book(sym="SIM:A", ts=2, rts=2, kind="delta", bids=[("9", "0")], asks=[])], 0.0)
    assert tape.snapshot(book, 1.0)[0].tick.bids == []  # type: ignore[union-attr]
    assert before.tick.bids == [("9", "1")]  # type: ignore[union-attr]


# ── history ──────────────────────────────────────────────────────────────────────────────────────


@given(BATCHES, st.integers(0, 12))
def test_history_keeps_the_newest_ticks_up_to_its_number(batches: list[list[str]], most: int) -> None:
    tape = a_tape(ticks=most)
    for batch in batches:
        append(tape, *batch)
        assert kept_offsets(tape) == list(range(max(1, tape.offset - most + 1), tape.offset + 1))
        assert tape.history.kept_ticks == min(most, tape.offset)


@given(BATCHES, st.integers(0, 2000))
def test_history_keeps_the_newest_ticks_up_to_its_bytes(batches: list[list[str]], most: int) -> None:
    tape = a_tape(bytes=most)
    sizes: list[int] = []
    for batch in batches:
        sizes += [entry.size + OVERHEAD_BYTES for entry in append(tape, *batch)]
        kept = next(n for n in range(len(sizes) + 1) if sum(sizes[n:]) <= most)
        assert kept_offsets(tape) == list(range(kept + 1, tape.offset + 1))
        assert tape.history.kept_bytes == sum(sizes[kept:]) <= most


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=15), st.integers(0, 8))
def test_history_forgets_what_is_older_than_its_age(steps: list[tuple[int, int]], age: int) -> None:
    tape = a_tape(age_s=float(age))
    now = 0
    when: list[int] = []
    for pause, count in steps:
        now += pause
        append(tape, *["SIM:A"] * count, at=float(now))
        when += [now] * count
        assert kept_offsets(tape) == [n + 1 for n, at in enumerate(when) if at > now - age]


@pytest.mark.parametrize("limit", ["ticks", "bytes", "age_s"])
def test_limit_of_nothing_keeps_nothing(limit: str) -> None:
    tape = a_tape(**{limit: 0})
    append(tape, "SIM:A", "SIM:B")
    assert (tape.history.kept_ticks, tape.history.kept_bytes) == (0, 0)
    assert tape.first_after(topic(tape, "SIM:A"), 0) is None
    assert tape.first_after(topic(tape, "SIM:A"), 1) == 2


@given(BATCHES, st.integers(0, 10), st.data())
def test_first_after_says_what_a_list_says(batches: list[list[str]], most: int, data: st.DataObject) -> None:
    tape = a_tape(ticks=most)
    everything = [entry for batch in batches for entry in append(tape, *batch)]
    oldest = tape.offset - tape.history.kept_ticks + 1
    offset = data.draw(st.integers(0, tape.offset))
    for sym in SYMBOLS:
        missed = [entry for entry in everything if entry.topic.sym == sym and entry.offset > offset]
        is_forgotten = any(entry.offset < oldest for entry in missed)
        expected = topic(tape, sym).seq - len(missed) + 1
        assert tape.first_after(topic(tape, sym), offset) == (None if is_forgotten else expected)


# ── cursors ──────────────────────────────────────────────────────────────────────────────────────


def test_cursor_of_any_offset_is_read_back() -> None:
    tape = a_tape()
    append(tape, "SIM:A", "SIM:A")
    assert tape.cursor() == "e1-2"
    assert [tape.parse_cursor(tape.cursor(offset)) for offset in (0, 1, 2, 1)] == [0, 1, 2, 1]
    assert tape.cursor() == "e1-2"


@given(st.text(max_size=30))
def test_no_text_makes_the_cursor_parser_raise(text: str) -> None:
    tape = a_tape()
    for cursor in (text, f"e1-{text}", f"{text}-0"):
        offset = tape.parse_cursor(cursor)
        assert offset is None or (offset == 0 and cursor.startswith("e1-"))


@pytest.mark.parametrize(
    "cursor", ["", "e1", "e1-", "e1-3", "e1--1", "e1-+1", "e1- 1", "e1-1_0", "e1-¹", "E1-1", "e0-1", "-1"]
)
def test_cursor_that_was_never_given_out_is_unknown(cursor: str) -> None:
    tape = a_tape()
    append(tape, "SIM:A", "SIM:A")
    assert tape.parse_cursor(cursor) is None


# ── backlog ──────────────────────────────────────────────────────────────────────────────────────


@given(
    batches=BATCHES,
    start=st.integers(0, 20),
    reads=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 600), st.integers(0, 4)), max_size=30),
    more=st.lists(st.sampled_from(SYMBOLS), max_size=20),
    most=st.integers(5, 40),
)
def test_backlog_reads_in_the_order_of_the_tape_and_names_what_was_forgotten(
    batches: list[list[str]],
    start: int,
    reads: list[tuple[int, int, int]],
    more: list[str],
    most: int,
) -> None:
    """Beside it: all offsets behind the start, in order; each is read, or lost, before any later one."""
    tape = a_tape(ticks=most)
    everything = [entry for batch in batches for entry in append(tape, *batch)]
    start = max(min(start, tape.offset), tape.offset - tape.history.kept_ticks)
    topics = list(tape.topics.on_channel("trade").values())
    first = {each: tape.first_after(each, start) for each in topics}
    backlog = Backlog(tape, {each: seq for each, seq in first.items() if seq is not None})
    left = {(entry.topic, entry.seq): entry.offset for entry in everything if entry.offset > start}
    coming = iter(more)
    last = start
    for ticks, size, publish in reads:
        for sym in [sym for _, sym in zip(range(publish), coming, strict=False)]:
            (entry,) = append(tape, sym)
            if entry.topic in backlog:
                left[entry.topic, entry.seq] = entry.offset
        for lost, first_seq, last_seq in backlog.lost():
            for seq in range(first_seq, last_seq + 1):
                assert left.pop((lost, seq)) <= tape.offset - tape.history.kept_ticks
        assert bool(backlog) == bool(left)
        assert backlog.pending() == len(left)
        if not backlog:
            break
        assert backlog.position() == min(left.values()) - 1
        upto = min(left.values()) + 3
        taken = backlog.read(ticks, size, upto)
        assert 1 <= len(taken) <= ticks
        assert sum(len(packed) for _, _, packed in taken) <= size or len(taken) == 1
        for offset, read, _ in taken:
            assert last < offset <= upto
            assert offset == min(left.values())
            key = min(left, key=lambda item: left[item])
            assert key[0] is read
            del left[key]
            last = offset


def test_backlog_whose_ticks_have_all_been_forgotten_still_knows_its_place() -> None:
    tape = a_tape(ticks=2)
    append(tape, "SIM:A", "SIM:A")
    backlog = Backlog(tape, {topic(tape, "SIM:A"): 1})
    append(tape, "SIM:B", "SIM:B", "SIM:B")
    assert backlog.position() == 0
    assert list(backlog.lost()) == [(topic(tape, "SIM:A"), 1, 2)]
    assert not backlog


def test_topic_that_is_left_out_is_read_no_more() -> None:
    tape = a_tape()
    append(tape, "SIM:A", "SIM:B", "SIM:A", "SIM:B")
    first, second = topic(tape, "SIM:A"), topic(tape, "SIM:B")
    backlog = Backlog(tape, {first: 1, second: 1})
    assert backlog.forget(first) == 1
    assert backlog.forget(first) is None
    assert (backlog.position(), backlog.pending(), first in backlog) == (1, 2, False)
    assert [(offset, read.sym) for offset, read, _ in backlog.read(9, 9999)] == [(2, "SIM:B"), (4, "SIM:B")]
    assert not backlog
    assert backlog.read(9, 9999) == []


def test_ticks_of_the_history_are_what_was_published() -> None:
    tape = a_tape()
    ticks: list[Tick] = [trade("SIM:A", "7"), quote("SIM:A")]
    entries = put(tape, ticks)
    backlog = Backlog(tape, {entry.topic: 1 for entry in entries})
    assert [packed for _, _, packed in backlog.read(9, 9999)] == [entry.packed for entry in entries]
    assert {type(entry.tick) for entry in entries} == {Trade, Quote}


def test_topics_that_went_quiet_give_the_offsets_of_forgotten_ticks_back() -> None:
    tape = a_tape(ticks=100)
    for number in range(30):
        for _ in range(10):
            append(tape, *[f"SIM:S{number}"] * 10)
    assert sum(len(each.offsets) for each in tape.topics.everything()) <= 3 * 100


@given(BATCHES, st.integers(1, 20), st.booleans())
def test_history_gives_back_every_kept_tick_in_the_codec_it_was_wanted_in(
    batches: list[list[str]], most: int, wants_json: bool
) -> None:
    tape = a_tape(ticks=most)
    known: dict[int, Entry] = {}
    for batch in batches:
        for sym in batch:
            topic(tape, sym).wants_json = wants_json
        known |= {entry.offset: entry for entry in append(tape, *batch)}
    for each in topics_of(tape):
        for offset in each.offsets:
            entry = known[offset]
            kept = tape.history.get(offset)
            assert kept == (tick_to_json if wants_json else pack_tick)(entry.tick)
            assert (len(kept), kept) == (entry.size, entry.json or entry.packed)
            assert MSGPACK.repack([kept]) == [pack_tick(entry.tick)]
            assert JSON.repack([kept]) == [tick_to_json(entry.tick)]
