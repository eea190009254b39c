"""Lines of other programs: what is a tick comes through, what is none says what would have been right."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.encoding import tick_to_json
from broker.core.tick_lines import WANTED, LineError, TickLines
from broker.core.ticks import TICK_TYPES, Bar, Book, Quote, Status, Tick, Trade
from tests.strategies import TICKS

QUOTE = {"ch": "quote", "sym": "LAB:A", "bid": "1.50", "bid_size": "2", "ask": None, "ask_size": None}
TRADE = {"ch": "trade", "sym": "LAB:A", "price": "-1.50", "size": "2", "side": "buy", "id": ""}
BOOK = {"ch": "book", "sym": "LAB:A", "kind": "snapshot", "bids": [["1", "2"]], "asks": []}
DELTA = {**BOOK, "kind": "delta"}
BAR = {
    "ch": "bar", "sym": "LAB:A", "interval": "1m", "start": "60", "open": "1", "high": "2", "low": "1",
    "close": "2", "volume": "5", "count": 2, "final": True,
}  # fmt: skip
STATUS = {"ch": "status", "sym": "LAB:A", "state": "halted"}


def line(fields: dict[str, Any], **changes: Any) -> bytes:
    return orjson.dumps({**fields, **changes})


def refused(raw: bytes, lines: TickLines | None = None) -> LineError:
    with pytest.raises(LineError) as caught:
        (lines or TickLines("LAB")).parse(raw, 5, 12)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "kind"), [(QUOTE, Quote), (TRADE, Trade), (BOOK, Book), (BAR, Bar), (STATUS, Status)]
)
def test_each_channel_is_read_and_time_is_now_where_none_is_given(fields: Any, kind: type) -> None:
    tick = TickLines("LAB").parse(line(fields), 5, 1)
    assert (type(tick), tick.ts, tick.rts, tick.seq) == (kind, 5, 5, 0)


@pytest.mark.parametrize("ts", ["1700000000000000001", 1700000000000000001])
def test_venue_time_is_taken_as_text_and_as_number(ts: str | int) -> None:
    assert TickLines("LAB").parse(line(QUOTE, ts=ts), 5, 1).ts == 1700000000000000001


def test_numbers_that_are_the_brokers_to_give_are_not_looked_at() -> None:
    tick = TickLines("LAB").parse(line(QUOTE, seq="x", rts=[]), 5, 1)
    assert (tick.seq, tick.rts) == (0, 5)


@given(TICKS)
def test_whatever_the_broker_sends_can_be_read(sent: Tick) -> None:
    lines = TickLines(sent.sym.partition(":")[0])
    if isinstance(sent, Book):
        lines.parse(line(BOOK, sym=sent.sym), 5, 1)
    read = lines.parse(tick_to_json(sent), 5, 2)
    expected = msgspec.structs.replace(sent, seq=0, rts=5)
    if isinstance(expected, Book):
        expected.bids.sort(key=lambda level: Decimal(level[0]), reverse=True)
        expected.asks.sort(key=lambda level: Decimal(level[0]))
    assert read == expected


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        (line(QUOTE, bid=1.5), "bid", "1.5 is not right"),
        (line(QUOTE, bid="1,5"), "bid", "'1,5' is not right"),
        (line(QUOTE, bid="1.5\n"), "bid", r"'1.5\n' is not right"),
        (line(QUOTE, bid_size="-1"), "bid_size", "'-1' is not right"),
        (line(QUOTE, ts="yesterday"), "ts", "'yesterday' is not right"),
        (line(QUOTE, ts=-1), "ts", "-1 is not right"),
        (line(QUOTE, ts=2**63), "ts", f"{2**63} is not right"),
        (line(QUOTE, sym="lab:a"), "sym", "'lab:a' is not right"),
        (line(QUOTE, sym="OTHER:A"), "sym", "'OTHER:A' is not right"),
        (line(QUOTE, ch="quotes"), "ch", "'quotes' is not right"),
        (line(TRADE, side="Buy"), "side", "'Buy' is not right"),
        (line(TRADE, id=7), "id", "7 is not right"),
        (line(TRADE, count=0), "count", "0 is not right"),
        (line(BOOK, kind="full"), "kind", "'full' is not right"),
        (line(BOOK, bids=[["1", "2"], ["1", 2]]), "bids[1][1]", "2 is not right"),
        (line(BOOK, bids=[["x", "2"]]), "bids[0][0]", "'x' is not right"),
        (line(BOOK, bids=[["1"]]), "bids[0]", "list of 1 is not right"),
        (line(BOOK, bids={}), "bids", "dict of 0 is not right"),
        (line(BAR, interval="1x"), "interval", "'1x' is not right"),
        (line(BAR, start="-1"), "start", "-1 is not right"),
        (line(STATUS, state="fine"), "state", "'fine' is not right"),
    ],
)
def test_wrong_value_is_named_with_line_field_and_what_is_right(raw: bytes, field: str, value: str) -> None:
    error = refused(raw)
    assert (error.line, error.field) == (12, field)
    assert str(error).startswith(f"line 12: {field}: {value}: it must be ")
    assert error.kind == field.replace("0", "").replace("1", "")


def test_missing_field_is_named_with_what_belongs_there() -> None:
    without = {name: QUOTE[name] for name in QUOTE if name != "ask"}
    assert str(refused(line(without))) == f"line 12: ask: is missing; it must be {WANTED['ask']}"
    assert "line 12: ch: is missing" in str(refused(b'{"type": "update", "data": []}'))


def test_unknown_field_is_named_with_the_nearest_one() -> None:
    text = str(refused(line(QUOTE, bidsize="1")))
    assert text.startswith("line 12: bidsize: '1' is for a field that a quote does not have")
    assert text.endswith("did you mean 'bid_size'?")


@pytest.mark.parametrize("raw", [b"hello", b"", b"\xff\xfe", b"[1]", b"null", b"[" * 3000, b'{"ch":"quote"'])
def test_what_is_no_object_is_shown(raw: bytes) -> None:
    error = refused(raw)
    assert error.field == ""
    assert error.kind in ("not JSON", "not a tick")


@given(st.binary(max_size=200) | st.sampled_from([QUOTE, TRADE, BOOK, BAR, STATUS]).flatmap(
    lambda fields: st.dictionaries(
        st.sampled_from(sorted(fields)) | st.text(max_size=5),
        st.none() | st.integers() | st.text(max_size=5) | st.booleans() | st.lists(st.text(max_size=3), max_size=3),
        max_size=3,
    ).map(lambda changes: msgspec.json.encode({**fields, **changes}))
))  # fmt: skip
def test_any_line_is_a_well_formed_tick_or_a_line_error(raw: bytes) -> None:
    try:
        tick = TickLines("LAB").parse(raw, 5, 1)
    except LineError:
        return
    assert msgspec.convert(msgspec.to_builtins(tick), type(tick)) == tick
    assert type(tick) in TICK_TYPES


def test_levels_are_put_in_order() -> None:
    raw = line(BOOK, bids=[["9", "1"], ["10", "1"]], asks=[["12", "1"], ["11.5", "1"]])
    book = TickLines("LAB").parse(raw, 5, 1)
    assert isinstance(book, Book)
    assert book.bids == [("10", "1"), ("9", "1")]
    assert book.asks == [("11.5", "1"), ("12", "1")]


def test_only_symbols_that_were_named_may_come_where_some_were() -> None:
    lines = TickLines("LAB", ["LAB:A", "LAB:B"])
    lines.parse(line(QUOTE), 5, 1)
    assert "none of the 2 symbols" in str(refused(line(QUOTE, sym="LAB:C"), lines))


def test_symbols_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.tick_lines.MOST_SYMBOLS", 2)
    lines = TickLines("LAB")
    for name in ("A", "B", "A"):
        lines.parse(line(QUOTE, sym=f"LAB:{name}"), 5, 1)
    assert "is one more than 2 symbols" in str(refused(line(QUOTE, sym="LAB:C"), lines))


# ── books ────────────────────────────────────────────────────────────────────────────────────────


def whole_books(*symbols: str) -> TickLines:
    lines = TickLines("LAB")
    for sym in symbols:
        lines.parse(line(BOOK, sym=sym), 5, 1)
    return lines


def test_delta_before_any_snapshot_is_refused() -> None:
    assert "has come" in str(refused(line(DELTA)))
    assert isinstance(whole_books("LAB:A").parse(line(DELTA), 5, 2), Book)


def test_refused_line_breaks_its_book_and_no_other() -> None:
    lines = whole_books("LAB:A", "LAB:B")
    refused(line(DELTA, bids=[["x", "1"]]), lines)
    assert lines.take_gaps() == [("book", "LAB:A")]
    assert lines.take_gaps() == []
    assert isinstance(lines.parse(line(DELTA, sym="LAB:B"), 5, 3), Book)
    assert refused(line(DELTA), lines).kind == "a delta without a snapshot"
    lines.parse(line(BOOK), 5, 4)
    assert isinstance(lines.parse(line(DELTA), 5, 5), Book)


@pytest.mark.parametrize("raw", [b'{"ch":"book","sym":"LAB:', b'{"ch":"book","bids":[]}', b'"book'])
def test_line_that_may_have_been_a_part_of_any_book_breaks_all(raw: bytes) -> None:
    lines = whole_books("LAB:A", "LAB:B")
    refused(raw, lines)
    assert lines.take_gaps() == [("book", "LAB:A"), ("book", "LAB:B")]


@pytest.mark.parametrize("raw", [b"hello", line(QUOTE, bid=1), line(TRADE, price="x")])
def test_line_of_anything_else_breaks_no_book(raw: bytes) -> None:
    lines = whole_books("LAB:A")
    refused(raw, lines)
    assert lines.take_gaps() == []


def test_line_too_long_breaks_books_unless_it_says_that_it_is_something_else() -> None:
    lines = whole_books("LAB:A")
    error = lines.overlong(b'{"ch":"quote","sym":"LAB:A",', 7)
    assert (error.line, error.kind, lines.take_gaps()) == (7, "too long", [])
    lines.overlong(b'{"bids":[[', 8)
    assert lines.take_gaps() == [("book", "LAB:A")]


def test_source_that_begins_anew_has_no_whole_book() -> None:
    lines = whole_books("LAB:B", "LAB:A")
    lines.reset()
    assert lines.take_gaps() == [("book", "LAB:A"), ("book", "LAB:B")]
    refused(line(DELTA), lines)
