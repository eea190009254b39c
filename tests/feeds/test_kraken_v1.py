"""Kraken's v1 API: its arrays and events, and the books that they make."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState
from broker.core.errors import FrameError
from broker.core.ticks import Book, Level, Quote, Tick, Trade
from feeds.kraken_v1_frames import KrakenV1Parser
from feeds.recordings import read_merged
from feeds.venue import VenueRefused
from tests.feeds.fakes import assert_well_formed, golden, recording
from tests.feeds.kraken_frames import RTS, PlainBook, checksum, v1_snapshot, v1_update
from tests.feeds.mutations import frames

SYM = "KRAKEN:BTC-USD"
BIDS: list[Level] = [("9.0", "1.0"), ("8.0", "2.0")]
ASKS: list[Level] = [("10.0", "1.0"), ("11.0", "2.0")]
STATUS = {"event": "subscriptionStatus", "channelName": "book-10", "pair": "XBT/USD", "channelID": 1}


def status(**fields: object) -> str:
    return json.dumps({**STATUS, **fields})


def live() -> KrakenV1Parser:
    """Return a parser whose one book is served."""
    parser = KrakenV1Parser(symbols=[SYM, "KRAKEN:ETH-USD"])
    assert len(parser.parse(v1_snapshot(BIDS, ASKS), RTS)) == 1
    return parser


def good_update() -> str:
    return v1_update([("9.0", "5.0")], [], checksum([("9.0", "5.0"), BIDS[1]], ASKS))


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = KrakenV1Parser()
    ticks = [tick for frame in golden("kraken-v1.jsonl") for tick in parser.parse(frame, RTS)]
    assert_well_formed(ticks)
    lot = "0.00000500"
    prices = (5000, 4995, 4990, 4980, 4975, 4970, 4965, 4960, 4955, 4950)
    assert ticks == [
        Book(
            sym=SYM,
            ts=1_582_905_487_684_110_000,
            rts=RTS,
            kind="snapshot",
            bids=[(f"0.0{price}", lot) for price in prices],
            asks=[(f"0.0{price}", lot) for price in range(5005, 5055, 5)],
        ),
        Book(
            sym=SYM,
            ts=1_582_905_489_000_002_000,
            rts=RTS,
            kind="delta",
            bids=[],
            asks=[("0.05003", "0.25000000"), ("0.05050", "0")],
        ),
        Book(
            sym=SYM,
            ts=1_582_905_489_500_000_000,
            rts=RTS,
            kind="delta",
            bids=[],
            asks=[("0.05005", "0"), ("0.05050", lot)],
        ),
        Quote(
            sym=SYM,
            ts=1_542_057_299_545_897_000,
            rts=RTS,
            bid="5698.40000",
            bid_size="1.01234567",
            ask="5700.00000",
            ask_size="0.98765432",
        ),
        Trade(
            sym=SYM,
            ts=1_534_614_057_321_597_000,
            rts=RTS,
            price="5541.20000",
            size="0.15850568",
            side="sell",
            id="",
        ),
        Trade(
            sym=SYM,
            ts=1_534_614_057_324_998_000,
            rts=RTS,
            price="6060.00000",
            size="0.02455000",
            side="buy",
            id="",
        ),
        Quote(
            sym="KRAKEN:DOGE-EUR",
            ts=RTS,
            rts=RTS,
            bid="5525.10000",
            bid_size="1.000",
            ask="5525.40000",
            ask_size="1.000",
        ),
    ]


def test_side_that_is_missing_in_a_ticker_is_missing_in_the_quote() -> None:
    frame = '[1,{"a":["0.00000",0,"0.00000000"],"b":["1.5",1,"2.5"]},"ticker","XBT/USD"]'
    (quote,) = KrakenV1Parser().parse(frame, RTS)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("1.5", "2.5", None, None)


def test_ticker_makes_no_quotes_once_there_is_a_spread() -> None:
    parser = KrakenV1Parser()
    ticker = '[1,{"a":["2",1,"1"],"b":["1",1,"1"]},"ticker","XBT/USD"]'
    spread = '[1,["1","2","1542057299.545897","1","1"],"spread","XBT/USD"]'
    assert [len(parser.parse(frame, RTS)) for frame in (ticker, spread, ticker)] == [1, 1, 0]
    assert len(parser.parse(ticker.replace("XBT", "ETH"), RTS)) == 1


def test_fifty_trades_that_a_subscription_begins_with_are_no_news() -> None:
    trade = ["5541.2", "0.1", "1534614057.3", "s", "l", ""]
    parser = KrakenV1Parser()
    history, one = (json.dumps([1, [trade] * count, "trade", "XBT/USD"]) for count in (50, 1))
    assert [len(parser.parse(frame, RTS)) for frame in (history, one, history)] == [0, 1, 50]
    parser.reset()
    assert parser.parse(history, RTS) == []


def test_checksum_that_differs_stops_the_book_until_the_next_snapshot() -> None:
    parser = live()
    with pytest.raises(FrameError, match="the book of KRAKEN:BTC-USD does not match its checksum"):
        parser.parse(v1_update([("9.5", "1.0")], [], 12345), RTS)
    assert parser.take_gaps() == [("book", SYM)]
    assert parser.take_lost() == {SYM}
    assert parser.parse(good_update(), RTS) == []
    assert len(parser.parse(v1_snapshot(BIDS, ASKS), RTS)) == 1
    assert len(parser.parse(good_update(), RTS)) == 1
    assert parser.take_gaps() == []


def test_change_that_was_lost_is_noticed_with_the_next_one() -> None:
    parser = live()
    venue = PlainBook(10)
    venue.change(BIDS, ASKS)
    venue.change([("8.5", "1.0")], [])
    venue.change([("9.0", "5.0")], [])
    with pytest.raises(FrameError, match="checksum"):
        parser.parse(v1_update([("9.0", "5.0")], [], venue.checksum()), RTS)
    assert not parser.is_live(SYM)


def test_changes_before_the_snapshot_are_not_served() -> None:
    parser = KrakenV1Parser()
    assert parser.parse(good_update(), RTS) == []
    assert parser.take_gaps() == []


def test_change_without_a_checksum_is_served() -> None:
    assert len(live().parse(v1_update([("9.0", "5.0")], [], None), RTS)) == 1


def test_second_depth_of_one_book_is_left_out() -> None:
    parser = live()
    assert parser.parse(v1_snapshot(BIDS, ASKS, depth=100), RTS) == []
    assert parser.parse(v1_update([("9.0", "7.0")], [], 1, depth=100), RTS) == []
    assert len(parser.parse(good_update(), RTS)) == 1


@pytest.mark.parametrize(
    "frame",
    [
        v1_update([("9.0", "x")], [], 1),
        v1_update([("9.0", "-1")], [], 1),
        v1_update([("9,0", "1")], [], 1),
        v1_update([("9.0", "1")], [], 1).replace("1582905488.25", "yesterday"),
        v1_update([("9.0", "1")], [], 1).replace('"b"', '"x"'),
        v1_update([("9.0", "1")], [], 1).replace("XBT/", "XBT\\/").replace('"1"', "1"),
        v1_update([("9.0", "1")], [], 1)[:-30],
        '[1,{"b":[["9.0","1',
        "[7,{",
        "[",
    ],
)
def test_unreadable_change_stops_the_book(frame: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == [("book", SYM)]
    assert SYM in parser.take_lost()


@pytest.mark.parametrize(
    "frame",
    [
        "not a frame",
        '{"event":7}',
        '{"event":"heartb',
        '[1,{"a":["x",1,"1"],"b":["1",1,"1"]},"ticker","XBT/USD"]',
        '[1,[["1","1","x","s","l",""]],"trade","XBT/USD"]',
        v1_update([("9.0", "x")], [], 1, pair="ETH/USD"),
        '[2,{"b":[["9.0","1',
    ],
)
def test_unreadable_frame_that_is_no_change_of_a_book_leaves_it_alone(frame: str) -> None:
    parser = live()
    parser.parse(status(status="subscribed", channelID=2, channelName="trade"), RTS)
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == []
    assert len(parser.parse(good_update(), RTS)) == 1


def test_torn_frame_is_told_by_its_number_where_the_venue_has_given_one() -> None:
    parser = live()
    parser.parse(v1_snapshot(BIDS, ASKS, pair="ETH/USD"), RTS)
    for number, pair in ((1, "XBT/USD"), (3, "ETH/USD")):
        parser.parse(status(status="subscribed", channelID=number, pair=pair), RTS)
    with pytest.raises(FrameError):
        parser.parse('[3,{"b":[["9.0","1', RTS)
    assert parser.take_gaps() == [("book", "KRAKEN:ETH-USD")]


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = live()
    parser.reset()
    assert parser.take_gaps() == [("book", SYM)]
    assert parser.take_lost() == set()
    assert parser.parse(good_update(), RTS) == []


def test_book_that_the_venue_ends_unasked_is_lost() -> None:
    parser = live()
    parser.parse(status(status="unsubscribed"), RTS)
    assert parser.take_gaps() == [("book", SYM)]
    assert parser.take_lost() == {SYM}
    # The answer to our own request finds the book broken already.
    parser.parse(status(status="unsubscribed"), RTS)
    assert parser.take_lost() == set()


def test_trades_that_the_venue_ends_unasked_are_a_gap_and_told_to_have_ended() -> None:
    parser = live()
    ended = status(status="unsubscribed", channelName="trade")
    parser.parse(ended, RTS)
    assert (parser.take_ended(), parser.take_gaps()) == ({("trade", SYM)}, [])
    parser.parse('[2,[["10.5","1.0","1600000000.5","b","l",""]],"trade","XBT/USD"]', RTS)
    parser.parse(ended, RTS)
    assert (parser.take_ended(), parser.take_gaps()) == ({("trade", SYM)}, [("trade", SYM)])


def test_frame_of_a_pair_that_nobody_subscribed_to_is_refused() -> None:
    with pytest.raises(FrameError, match="nobody subscribed to 'XRP/USD'"):
        live().parse(v1_snapshot(BIDS, ASKS, pair="XRP/USD"), RTS)


@pytest.mark.parametrize(
    ("frame", "is_permanent"),
    [
        (status(status="error", errorMessage="Currency pair not supported FOO/BAR"), True),
        (status(status="error", errorMessage="Subscription depth not supported"), True),
        (status(status="error", errorMessage="Pair(s) not found"), True),
        (status(status="error", errorMessage="Exceeded msg rate"), False),
        (status(status="error", errorMessage="Already subscribed"), False),
        (status(status="error", errorMessage="Service:Unavailable"), False),
        (status(status="error"), False),
        ('{"event":"error","errorMessage":"Malformed request"}', True),
        ('{"event":"error","errorMessage":"Exceeded msg rate","reqid":42}', False),
    ],
)
def test_error_of_the_venue_is_a_refusal(frame: str, is_permanent: bool) -> None:
    with pytest.raises(VenueRefused, match="the venue says: ") as caught:
        live().parse(frame, RTS)
    assert caught.value.permanent is is_permanent


@pytest.mark.parametrize(
    "frame",
    [
        '{"event":"systemStatus","status":"maintenance","version":"1.9.2"}',
        '{"event":"systemStatus","status":"cancel_only"}',
        '{"event":"heartbeat"}',
        '{"event":"pong"}',
        status(status="error", errorMessage="Subscription Not Found"),
    ],
)
def test_what_is_no_market_data_is_no_news(frame: str) -> None:
    assert live().parse(frame, RTS) == []


@given(st.lists(frames(golden("kraken-v1.jsonl")), max_size=6))
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(sent: list[bytes | str]) -> None:
    parser = KrakenV1Parser()
    ticks: list[Tick] = []
    for frame in [*golden("kraken-v1.jsonl")[:6], *sent]:
        try:
            ticks += parser.parse(frame, RTS)
        except FrameError:
            continue
    assert_well_formed(ticks)
    assert {ch for ch, _ in parser.take_gaps()} <= {"book"}


_LEVELS = st.tuples(
    st.integers(1, 40).map(lambda price: f"{price / 10:.1f}"), st.sampled_from(["0.00", "1.00", "2.50"])
)
_MESSAGES = st.tuples(
    st.lists(_LEVELS, max_size=3),
    st.lists(_LEVELS, max_size=3),
    st.sampled_from(["sent", "sent", "sent", "lost", "torn", "resent"]),
)


@given(st.lists(_MESSAGES, max_size=12))
def test_book_is_the_venues_or_is_not_served_whatever_is_lost_or_torn(
    messages: list[tuple[list[Level], list[Level], str]],
) -> None:
    """Ten levels on each side at most, so the checksum is over the whole book."""
    venue, parser, client = PlainBook(10), KrakenV1Parser(), BookState()

    def hear(frame: str) -> None:
        was_live = parser.is_live(SYM)
        try:
            for tick in parser.parse(frame, RTS):
                assert isinstance(tick, Book)
                client.apply(tick)
        except FrameError:
            assert not parser.is_live(SYM)
        assert parser.take_gaps() == ([("book", SYM)] if was_live and not parser.is_live(SYM) else [])

    hear(v1_snapshot(venue.bids, venue.asks))
    for bids, asks, fate in messages:
        venue.change(bids, asks)
        update = v1_update(bids, asks, venue.checksum())
        if fate == "sent":
            hear(update)
            assert not parser.is_live(SYM) or client.levels() == (venue.bids, venue.asks)
        elif fate == "torn":
            hear(update[:-20])
            assert not parser.is_live(SYM)
        elif fate == "resent":
            hear(v1_snapshot(venue.bids, venue.asks))
            assert client.levels() == (venue.bids, venue.asks)


def test_recording_comes_out_whole_and_every_checksum_holds() -> None:
    parsers = [KrakenV1Parser() for _ in range(3)]
    paths = [recording(f"kraken-v1-2021-04-17/KRAKEN.ws.{number}.0.gz") for number in (48, 49, 50)]
    counts: Counter[str] = Counter()
    checked = 0
    books: dict[str, BookState] = {}
    with read_merged(paths) as records:
        for record in (each for each in records if each.kind == "frame"):
            for tick in parsers[record.source].parse(record.payload, record.at):
                assert_well_formed([tick])
                counts[tick.ch] += 1
                if isinstance(tick, Book):
                    state = books.setdefault(tick.sym, BookState())
                    state.apply(tick)
                    if tick.kind == "delta":
                        assert str(checksum(*state.levels())) in record.payload.decode()
                        checked += 1
    assert counts == {"book": 4279, "quote": 18, "trade": 10}
    assert checked == 4269
    assert len(books) == 10
    assert not any(parser.take_gaps() for parser in parsers)
    assert all(len(side) <= 1000 for state in books.values() for side in state.levels())
