"""Kraken's v2 API: its frames with numbers as sent, and the books that they make."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState
from broker.core.errors import FrameError
from broker.core.ticks import Book, Level, Quote, Tick, Trade, iso_to_ns
from feeds.kraken_v1_frames import KrakenV1Parser
from feeds.kraken_v2_frames import KrakenV2Parser
from feeds.recordings import read_file
from feeds.venue import VenueRefused
from tests.feeds.fakes import assert_well_formed, golden, recording
from tests.feeds.kraken_frames import RTS, PlainBook, checksum, v2_book
from tests.feeds.mutations import frames

SYM = "KRAKEN:BTC-USD"
BIDS: list[Level] = [("9.0", "1.00"), ("8.0", "2.00")]
ASKS: list[Level] = [("10.0", "1.00"), ("11.0", "2.00")]
SNAPSHOT = v2_book("snapshot", BIDS, ASKS, checksum(BIDS, ASKS))


def live() -> KrakenV2Parser:
    """Return a parser whose one book is served."""
    parser = KrakenV2Parser(symbols=[SYM, "KRAKEN:ETH-USD"], depth=10)
    assert len(parser.parse(SNAPSHOT, RTS)) == 1
    return parser


def update(check: int | None = None, *, symbol: str = "BTC/USD") -> str:
    after: list[Level] = [("9.0", "5.00"), BIDS[1]]
    return v2_book(
        "update", [("9.0", "5.00")], [], checksum(after, ASKS) if check is None else check, symbol=symbol
    )


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = KrakenV2Parser()
    ticks = [tick for frame in golden("kraken-v2.jsonl") for tick in parser.parse(frame, RTS)]
    assert_well_formed(ticks)
    snapshot, *_ = [tick for tick in ticks if isinstance(tick, Book)]
    assert snapshot.bids[0] == ("45283.5", "0.10000000")
    assert snapshot.asks[-1] == ("45299.5", "0.18772827")
    assert (len(snapshot.bids), len(snapshot.asks), snapshot.kind) == (10, 10, "snapshot")
    ticks.remove(snapshot)
    assert ticks == [
        Quote(
            sym=SYM,
            ts=iso_to_ns("2023-10-06T17:35:55.000001Z"),
            rts=RTS,
            bid="45283.5",
            bid_size="0.10000000",
            ask="45285.2",
            ask_size="0.00100000",
        ),
        Book(
            sym=SYM,
            ts=iso_to_ns("2023-10-06T17:35:56.440295Z"),
            rts=RTS,
            kind="delta",
            bids=[("45284.0", "2.00000000"), ("45276.6", "0")],
            asks=[],
        ),
        Book(
            sym=SYM,
            ts=iso_to_ns("2023-10-06T17:35:57.440295Z"),
            rts=RTS,
            kind="delta",
            bids=[("45284.0", "0"), ("45276.6", "0.15445238")],
            asks=[("45285.2", "0"), ("45300.0", "0.00000500")],
        ),
        Trade(
            sym=SYM,
            ts=iso_to_ns("2023-09-25T07:49:37.708706Z"),
            rts=RTS,
            price="45284.0",
            size="0.50000000",
            side="sell",
            id="4665906",
        ),
        Trade(
            sym=SYM,
            ts=iso_to_ns("2023-09-25T07:49:37.708707Z"),
            rts=RTS,
            price="45286.4",
            size="1",
            side="buy",
            id="4665907",
        ),
        Quote(
            sym="KRAKEN:DOGE-USD",
            ts=RTS,
            rts=RTS,
            bid="0.0600000",
            bid_size="1500.00000000",
            ask=None,
            ask_size=None,
        ),
    ]


@pytest.mark.parametrize(
    "number", ["0.10000000", "105944.20", "7", "12345678901234567890.12345678", "1e-05", "1.50E+3"]
)
def test_digits_are_kept_exactly_as_sent(number: str) -> None:
    frame = (
        f'{{"channel":"trade","type":"update","data":[{{"symbol":"BTC/USD","side":"buy","price":{number},'
        f'"qty":{number},"trade_id":1,"timestamp":"2023-09-25T07:49:37.708706Z"}}]}}'
    )
    for sent in (frame, frame.replace(f":{number},", f':"{number}",')):
        (trade,) = KrakenV2Parser().parse(sent, RTS)
        assert isinstance(trade, Trade)
        assert (trade.price, trade.size) == (number, number)


@pytest.mark.parametrize("number", ["true", "null", "[]", '""', "-1", '"1,2"', "1" * 80, '"NaN"', "1e9999"])
def test_what_is_no_number_is_refused(number: str) -> None:
    with pytest.raises(FrameError):
        live().parse(update().replace('"qty":5.00', f'"qty":{number}'), RTS)


def test_names_with_a_small_letter_become_symbols() -> None:
    frame = '{"channel":"ticker","type":"update","data":[{"symbol":"AAPLx/USD","bid":1.5,"bid_qty":2}]}'
    assert [tick.sym for tick in KrakenV2Parser().parse(frame, RTS)] == ["KRAKEN:AAPLX-USD"]


def test_snapshot_that_fails_its_checksum_is_not_served() -> None:
    parser = KrakenV2Parser(symbols=[SYM])
    with pytest.raises(FrameError, match="does not match its checksum"):
        parser.parse(v2_book("snapshot", BIDS, ASKS, 7), RTS)
    assert parser.take_gaps() == []
    assert parser.take_lost() == {SYM}
    assert parser.parse(update(), RTS) == []


def test_checksum_that_differs_stops_the_book_until_the_next_snapshot() -> None:
    parser = live()
    with pytest.raises(FrameError, match="the book of KRAKEN:BTC-USD does not match its checksum"):
        parser.parse(update(7), RTS)
    assert parser.take_gaps() == [("book", SYM)]
    assert parser.take_lost() == {SYM}
    assert parser.parse(update(), RTS) == []
    assert [len(parser.parse(frame, RTS)) for frame in (SNAPSHOT, update())] == [1, 1]


BOOK_ANSWER = (
    '{"method":"subscribe","result":{"channel":"book","depth":25,"symbol":"BTC/USD"},"success":true}'
)
OTHER_ANSWER = '{"method":"subscribe","result":{"channel":"ticker","symbol":"BTC/USD"},"success":true}'


@pytest.mark.parametrize(
    ("answer", "asked", "depth"),
    [(BOOK_ANSWER, 10, 25), (BOOK_ANSWER, None, 25), (OTHER_ANSWER, 25, 25), (OTHER_ANSWER, None, 10)],
)
def test_depth_is_what_the_venue_confirmed_or_was_asked_for_or_the_snapshot_shows(
    answer: str, asked: int | None, depth: int
) -> None:
    venue, parser, client = PlainBook(depth), KrakenV2Parser(depth=asked), BookState()
    venue.change([(f"{price}.0", "1.00") for price in range(1, 11)], [])
    frames = [answer, v2_book("snapshot", venue.bids, [], venue.checksum())]
    for price in range(11, 31):
        venue.change([(f"{price}.0", "1.00")], [])
        frames.append(v2_book("update", [(f"{price}.0", "1.00")], [], venue.checksum()))
    for frame in frames:
        for tick in parser.parse(frame, RTS):
            assert isinstance(tick, Book)
            client.apply(tick)
    assert client.levels()[0] == venue.bids
    assert len(venue.bids) == depth


@pytest.mark.parametrize(
    "frame",
    [
        update().replace("5.00", '"x"'),
        update().replace(',"checksum"', ',"check"'),
        update().replace('"update"', '"upd"'),
        update().replace("2023-10-06", "2023-13-06"),
        update().replace("BTC/USD", "BTC\\/USD").replace("5.00", "-5.00"),
        update()[:-20],
        update()[:60],
        '{"channel":"bo',
        '{"cha',
        "{}",
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
        '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":true}]}',
        '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD"',
        '{"method":"subscribe","result":{"channel":"book","depth":"x","symbol":"BTC/USD"}}',
        update(symbol="ETH/USD").replace("5.00", '"x"'),
    ],
)
def test_unreadable_frame_that_is_no_change_of_a_book_leaves_it_alone(frame: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == []
    assert len(parser.parse(update(), RTS)) == 1


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = live()
    parser.reset()
    assert parser.take_gaps() == [("book", SYM)]
    assert parser.parse(update(), RTS) == []


def test_frame_of_a_pair_that_nobody_subscribed_to_is_refused() -> None:
    with pytest.raises(FrameError, match="nobody subscribed to 'XRP/USD'"):
        live().parse(update(symbol="XRP/USD"), RTS)


@pytest.mark.parametrize(
    ("error", "is_permanent"),
    [
        ("Currency pair not supported FOO/BAR", True),
        ("Subscription depth not supported", True),
        ("Symbol(s) not found", True),
        ("Already subscribed", False),
        ("Exceeded msg rate", False),
        ("Rate limit for snapshot requests exceeded", False),
        ("Service:Unavailable", False),
        ("EGeneral:Internal error", False),
        ("Something else", False),
    ],
)
def test_error_of_the_venue_is_a_refusal(error: str, is_permanent: bool) -> None:
    frame = {"error": error, "method": "subscribe", "success": False, "symbol": "FOO/BAR"}
    with pytest.raises(VenueRefused, match=r"the venue says: .*FOO/BAR") as caught:
        live().parse(json.dumps(frame), RTS)
    assert caught.value.permanent is is_permanent


def test_error_without_a_request_is_a_refusal_too() -> None:
    with pytest.raises(VenueRefused, match="Exceeded msg rate"):
        live().parse('{"Error":"Exceeded msg rate"}', RTS)
    with pytest.raises(VenueRefused, match="without a text"):
        live().parse('{"method":"subscribe","success":false}', RTS)


def test_book_that_the_venue_ends_unasked_is_lost() -> None:
    parser = live()
    ended = '{"method":"unsubscribe","result":{"channel":"book","symbol":"BTC/USD"},"success":true}'
    assert parser.parse(ended, RTS) == []
    assert parser.take_lost() == {SYM}
    assert parser.parse(ended, RTS) == []
    assert parser.take_lost() == set()


@pytest.mark.parametrize(
    "frame",
    [
        '{"channel":"status","type":"update","data":[{"system":"maintenance"}]}',
        '{"channel":"heartbeat"}',
        '{"method":"pong","req_id":42}',
        '{"method":"unsubscribe","success":false,"error":"Subscription Not Found"}',
    ],
)
def test_what_is_no_market_data_is_no_news(frame: str) -> None:
    assert live().parse(frame, RTS) == []


@given(st.lists(frames(golden("kraken-v2.jsonl")), max_size=6))
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(sent: list[bytes | str]) -> None:
    parser = KrakenV2Parser()
    ticks: list[Tick] = []
    for frame in [*golden("kraken-v2.jsonl")[:6], *sent]:
        try:
            ticks += parser.parse(frame, RTS)
        except FrameError:
            continue
    assert_well_formed(ticks)
    assert {ch for ch, _ in parser.take_gaps()} <= {"book"}


def test_example_frames_are_understood_and_the_made_up_book_is_not_served() -> None:
    folder = recording("current-single-frames/kraken-v2")
    parser = KrakenV2Parser()
    ticks: list[Tick] = []
    failed: list[str] = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        try:
            ticks += parser.parse(path.read_bytes(), RTS)
        except FrameError as error:
            failed.append(f"{path.name}: {error}")
    assert_well_formed(ticks)
    assert [tick.ch for tick in ticks] == ["quote", "trade", "trade"]
    assert failed == ["ws_book_snapshot.json: the book of KRAKEN:BTC-USD does not match its checksum"]


def as_v2(frame: list[object]) -> str:
    """Rewrite a recorded v1 book as v2 sends it, with the same digits and so with the same checksum."""
    sides = {key: value for part in frame[1:-2] for key, value in part.items()}  # type: ignore[attr-defined]
    kind = "snapshot" if "as" in sides else "update"
    bids, asks = (
        [(price, size) for price, size, *_ in sides.get(key, sides.get(f"{key}s", []))] for key in "ba"
    )
    check = int(sides["c"]) if "c" in sides else checksum(bids, asks)
    return v2_book(kind, bids, asks, check, symbol=str(frame[-1]).replace("XBT", "BTC"))


def test_recording_of_v1_rewritten_as_v2_gives_the_same_books() -> None:
    path = recording("kraken-v1-2021-04-17/KRAKEN.ws.50.0.gz")
    old, new = KrakenV1Parser(), KrakenV2Parser()
    served: list[list[tuple[str, list[Level], list[Level]]]] = [[], []]
    for record in read_file(path):
        if record.kind == "frame" and record.payload.startswith(b"["):
            frames = (record.payload, as_v2(json.loads(record.payload)))
            for parser, frame, into in zip((old, new), frames, served, strict=True):
                books = [tick for tick in parser.parse(frame, record.at) if isinstance(tick, Book)]
                into += [(book.sym, book.bids, book.asks) for book in books]
    assert len(served[0]) == 4279
    assert served[0] == served[1]
