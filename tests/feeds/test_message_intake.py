"""Payloads of messages: whatever comes, it is ticks or it is refused with where and why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from broker.core.lines import MOST_LINE_BYTES
from broker.core.tick_lines import TickLines
from broker.core.ticks import Book, Trade
from feeds.addresses import Address, AddressPattern
from feeds.message_intake import Format, MessageIntake, Source
from tests.feeds.fakes import NOW, FakeContext

TRADE: dict[str, Any] = {"price": "101.50", "size": "3", "side": "buy", "id": "7"}
FULL = {"ch": "trade", "sym": "LAB:ACME", **TRADE}
HERE = Source("md.trade.ACME", Address("trade", "ACME"), "LAB")
ANYWHERE = Source("md", Address(), "LAB")


def book(kind: str, **changes: Any) -> dict[str, Any]:
    return {"ch": "book", "sym": "LAB:ACME", "kind": kind, "bids": [["1", "1"]], "asks": [], **changes}


def put(intake: MessageIntake, source: Source, payload: bytes) -> None:
    trio.run(intake.take, source, payload)


def take(*payloads: object, source: Source = HERE, payload_format: Format = "json") -> FakeContext:
    ctx = FakeContext()
    intake = MessageIntake(ctx, TickLines("LAB"), payload_format)
    encode = msgspec.json.encode if payload_format == "json" else msgspec.msgpack.encode
    for payload in payloads:
        put(intake, source, payload if isinstance(payload, bytes) else encode(payload))
    return ctx


def ids(ctx: FakeContext) -> list[str]:
    return [tick.id for tick in ctx.ticks if isinstance(tick, Trade)]


def refusals(ctx: FakeContext) -> list[str]:
    return [str(error) for error in ctx.refusals]


def test_address_says_what_the_tick_leaves_out() -> None:
    want = Trade(sym="LAB:ACME", ts=NOW, rts=NOW, price="101.50", size="3", side="buy", id="7")
    for payload in (TRADE, {"ch": "trade", **TRADE}, {**TRADE, "sym": "LAB:ACME"}, FULL):
        ctx = take(payload)
        assert ctx.ticks == [want], refusals(ctx)
    assert take(FULL, source=ANYWHERE).ticks == [want]


def test_tick_must_say_what_its_address_does_not() -> None:
    assert refusals(take(TRADE, source=ANYWHERE))[0].startswith("md: ch: is missing")


def test_value_that_reads_like_a_key_is_no_key() -> None:
    ctx = take({**TRADE, "id": "sym"}, {**TRADE, "id": '"sym":'}, {**TRADE, "id": "ch"})
    assert ids(ctx) == ["sym", '"sym":', "ch"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sym": "LAB:OTHER"}, "md.trade.ACME: sym: 'LAB:OTHER' is not right: md.trade.ACME is for LAB:ACME"),
        ({"sym": "ELSE:ACME"}, "md.trade.ACME: sym: 'ELSE:ACME' is not right"),
        ({"price": 101.5}, "md.trade.ACME: price: 101.5 is not right: it must be a decimal number as text"),
        ({"colour": "red"}, "md.trade.ACME: colour: 'red' is for a field that a trade does not have"),
    ],
)
def test_tick_that_is_not_right_is_refused_with_where_and_why(changes: dict[str, Any], text: str) -> None:
    ctx = take({**TRADE, **changes}, TRADE)
    assert len(ctx.ticks) == 1
    assert refusals(ctx)[0].replace('"', "'").startswith(text)


def test_tick_of_another_channel_than_its_address_is_refused() -> None:
    quote = {"ch": "quote", "bid": "1", "bid_size": "1", "ask": None, "ask_size": None}
    ctx = take(quote)
    assert ctx.ticks == []
    assert "is for trade" in refusals(ctx)[0]


def test_symbol_of_an_address_that_is_none_is_refused() -> None:
    ctx = take(TRADE, source=Source("md.trade.acme", Address("trade", "acme"), "LAB"))
    assert "LAB:acme" in refusals(ctx)[0]
    assert "upper case" in refusals(ctx)[0]


@pytest.mark.parametrize(
    "payload",
    [
        b"\n".join(msgspec.json.encode({**TRADE, "id": each}) for each in "123"),
        b"\r\n".join(msgspec.json.encode({**TRADE, "id": each}) for each in "123") + b"\r\n\r\n",
        [{**TRADE, "id": each} for each in "123"],
    ],
)
def test_message_may_have_several_ticks(payload: object) -> None:
    assert ids(take(payload)) == ["1", "2", "3"]


async def test_long_message_gives_others_a_turn_and_is_taken_whole_if_cancelled() -> None:
    ctx = FakeContext()
    intake = MessageIntake(ctx, TickLines("LAB"), "json")
    seen: list[int] = []

    async def other() -> None:
        while len(ctx.ticks) < 1000:
            seen.append(len(ctx.ticks))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with trio.CancelScope() as scope:
            scope.cancel()
            await intake.take(HERE, msgspec.json.encode([TRADE] * 1000))
    assert len(ctx.ticks) == 1000
    assert len(seen) > 5


def test_object_may_be_written_over_several_lines() -> None:
    assert ids(take(msgspec.json.format(msgspec.json.encode(TRADE), indent=2))) == ["7"]


def test_bad_tick_among_several_is_told_by_its_number() -> None:
    ctx = take([TRADE, {**TRADE, "size": "-1"}, TRADE])
    assert len(ctx.ticks) == 2
    assert (
        refusals(ctx)[0].startswith("md.trade.ACME: line 2: size: '-1'") or "line 2: size" in refusals(ctx)[0]
    )


def test_messagepack_has_the_same_fields() -> None:
    ctx = take({**TRADE, "ts": 1_700_000_000_000_000_000}, [TRADE, FULL], payload_format="msgpack")
    assert len(ctx.ticks) == 3, refusals(ctx)
    assert ctx.ticks[0].ts == 1_700_000_000_000_000_000
    snapshot = take(book("snapshot"), source=ANYWHERE, payload_format="msgpack")
    assert isinstance(snapshot.ticks[0], Book)


@pytest.mark.parametrize("payload", [b"\xc1", b"", b"\x01", msgspec.msgpack.encode({"price": b"101"})])
def test_what_is_no_messagepack_of_texts_is_refused(payload: bytes) -> None:
    ctx = take(payload, TRADE, payload_format="msgpack")
    assert len(ctx.ticks) == 1
    assert refusals(ctx)[0].startswith("md.trade.ACME: not ticks in MessagePack")


def test_price_as_a_float_is_refused_in_messagepack_too() -> None:
    ctx = take({**TRADE, "price": 101.5}, payload_format="msgpack")
    assert ctx.ticks == []
    assert "price: 101.5" in refusals(ctx)[0]


def test_message_too_long_is_refused_and_the_next_is_read() -> None:
    ctx = take(b"[" + b" " * MOST_LINE_BYTES + b"]", TRADE)
    assert len(ctx.ticks) == 1
    assert "too long" in refusals(ctx)[0]


def test_refused_part_of_a_book_is_a_gap_and_nothing_follows_before_the_snapshot() -> None:
    bad = book("delta", bids=[["x", "1"]])
    ctx = take(book("snapshot"), book("delta"), bad, book("delta"), book("snapshot"), source=ANYWHERE)
    story = [each[0] if isinstance(each, tuple) else each.kind for each in ctx.story]  # type: ignore[union-attr]
    assert story == ["snapshot", "delta", "gap", "snapshot"]


@pytest.mark.parametrize(
    ("source", "breaks"),
    [
        (ANYWHERE, True),
        (Source("md.book.ACME", Address("book", "ACME"), "LAB"), True),
        (Source("md.book.OTHER", Address("book", "OTHER"), "LAB"), False),
        (Source("md.trade.ACME", Address("trade", "ACME"), "LAB"), False),
    ],
)
def test_garbage_breaks_the_books_that_its_address_may_be_of(source: Source, breaks: bool) -> None:
    ctx = FakeContext()
    intake = MessageIntake(ctx, TickLines("LAB"), "msgpack")
    put(intake, ANYWHERE, msgspec.msgpack.encode(book("snapshot")))
    put(intake, source, b"\xc1")
    assert ctx.gaps == [("book", "LAB:ACME")] * breaks


def test_book_that_came_from_another_address_than_its_own_is_a_gap() -> None:
    ctx = FakeContext()
    intake = MessageIntake(ctx, TickLines("LAB"), "json")
    put(intake, ANYWHERE, msgspec.json.encode(book("snapshot")))
    put(intake, Source("md.book.OTHER", Address("book", "OTHER"), "LAB"), msgspec.json.encode(book("delta")))
    put(intake, ANYWHERE, msgspec.json.encode(book("delta")))
    assert [tick.kind for tick in ctx.ticks if isinstance(tick, Book)] == ["snapshot"]
    assert ctx.gaps == [("book", "LAB:ACME")]


def test_abandoned_intake_tells_a_gap_for_each_topic_once() -> None:
    ctx = FakeContext()
    intake = MessageIntake(ctx, TickLines("LAB"), "json")
    quote = {"ch": "quote", "sym": "LAB:ACME", "bid": "1", "bid_size": "1", "ask": None, "ask_size": None}
    for each in (quote, FULL, FULL, book("snapshot"), {**FULL, "sym": "LAB:OTHER"}):
        put(intake, ANYWHERE, msgspec.json.encode(each))
    intake.abandon()
    acme = [("book", "LAB:ACME"), ("quote", "LAB:ACME"), ("trade", "LAB:ACME")]
    assert sorted(ctx.gaps) == sorted([*acme, ("trade", "LAB:OTHER")])
    intake.abandon()
    assert len(ctx.gaps) == 4, "nothing has been served since"
    put(intake, ANYWHERE, msgspec.json.encode(book("delta")))
    assert not isinstance(ctx.story[-1], Book), "a book is served again from its snapshot on"


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.just([["1", "1"]])
)
OBJECTS = st.dictionaries(st.sampled_from([*FULL, "kind", "bids", "asks", "ts", "x"]), VALUES, max_size=8)


@given(
    st.lists(st.binary(max_size=40) | OBJECTS.map(lambda each: {**FULL, **each}) | OBJECTS, max_size=6),
    st.sampled_from([HERE, ANYWHERE]),
    st.sampled_from(["json", "msgpack"]),
)
def test_any_payload_is_well_formed_ticks_or_refused(
    payloads: list[object], source: Source, kind: Format
) -> None:
    ctx = take(*payloads, source=source, payload_format=kind)
    for tick in ctx.ticks:
        assert msgspec.convert(msgspec.to_builtins(tick), type(tick)) == tick
        assert 0 <= tick.ts < 2**63
        assert tick.seq == 0
    assert all(str(error).startswith(source.name) for error in ctx.refusals)
    if source is HERE:
        assert all((tick.ch, tick.sym) == ("trade", "LAB:ACME") for tick in ctx.ticks)


# ── addresses ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "address", "found"),
    [
        ("md.{ch}.{symbol}", "md.trade.ACME", Address("trade", "ACME")),
        ("md.{ch}.{symbol}", "md.trade.BRK.B", Address("trade", "BRK.B")),
        ("md.{ch}.{symbol}", "md.TRADE.ACME", None),
        ("md.{ch}.{symbol}", "mdxtrade.ACME", None),
        ("{symbol}.{ch}", "ACME.trade", Address("trade", "ACME")),
        ("{symbol}.{ch}", "BRK.B.trade", None),
        ("md.*.{ch}.>", "md.eu.quote.x.y", Address("quote", None)),
        ("md", "md", Address(None, None)),
        ("md", "md2", None),
    ],
)
def test_address_is_taken_apart_as_its_template_says(
    template: str, address: str, found: Address | None
) -> None:
    assert AddressPattern(template, ".", {"*": "[^.]+", ">": ".+"}).match(address) == found


@pytest.mark.parametrize("template", ["{sym}", "{ch}{symbol}", "{ch}.{ch}", "{", "a}", "{}", "{symbol"])
def test_template_that_can_not_be_taken_apart_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"must have|may have"):
        AddressPattern(template)
