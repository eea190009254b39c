"""Recordings with damaged frames: a book that is still served at the end is the venue's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from broker.core.books import BookState
from broker.core.errors import FrameError
from broker.core.ticks import Book, Tick
from feeds.binance_frames import BinanceParser
from feeds.bitstamp_frames import BitstampParser
from feeds.coinbase import CoinbaseParser
from feeds.gemini_frames import GeminiParser
from feeds.kraken_v1_frames import KrakenV1Parser
from feeds.recordings import Record, find_files, read_merged
from feeds.venue import VenueParser
from tests.feeds.fakes import recording


def damaged(rng: random.Random, frame: bytes) -> bytes:
    """Cut, hole or garble a frame; it is JSON no more, or is left as it was."""
    at = rng.randrange(len(frame))
    changed = rng.choice(
        [
            frame[:at],
            frame[at:],
            frame[:at] + frame[at + rng.randrange(1, 40) :],
            frame[:at] + bytes([rng.randrange(256)]) + frame[at + 1 :],
            frame + frame,
        ]
    )
    with suppress(ValueError):
        json.loads(changed)
        return frame
    return changed


def ticks_of(parser: VenueParser, record: Record, payload: bytes) -> list[Tick]:
    if record.kind == "body":
        return parser.parse_body(record.url, payload, record.at)
    return parser.parse(payload, record.at) if record.kind == "frame" else []


def served(
    parser: VenueParser, records: list[Record], rng: random.Random | None, rate: float = 0.0
) -> dict[str, BookState]:
    """Return the books that are served at the end; ``rate``: of the frames that are damaged."""
    books: dict[str, BookState] = {}
    for record in records:
        is_hit = rng is not None and record.kind == "frame" and rng.random() < rate
        payload = damaged(rng, record.payload) if rng is not None and is_hit else record.payload
        ticks: list[Tick] = []
        try:
            ticks = ticks_of(parser, record, payload)
        except FrameError:
            assert payload is not record.payload
        for ch, symbol in parser.take_gaps():
            if ch == "book":
                books.pop(symbol)
        for tick in ticks:
            if isinstance(tick, Book):
                assert tick.kind == "snapshot" or tick.sym in books
                books.setdefault(tick.sym, BookState()).apply(tick)
    return books


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("binance-spot-2021-10-12", BinanceParser),
        ("bitstamp-2022-01-05", BitstampParser),
        ("coinbase-exchange-2021-04-17", CoinbaseParser),
        ("gemini-2021-06-24", GeminiParser),
        ("kraken-v1-2021-04-17", KrakenV1Parser),
    ],
)
def test_book_that_is_served_in_spite_of_damaged_frames_is_right(
    name: str, make: Callable[[], VenueParser]
) -> None:
    with read_merged(find_files(str(recording(name)))) as merged:
        records = list(merged)
    # What is damaged late leaves books from before, so some seeds have some at the end.
    compared = 0
    for seed in range(24):
        cut = records[: 100 + 25 * seed]
        right = served(make(), cut, None)
        # Not every venue sends a book anew within a recording.
        rate = 0.02 if seed % 2 else 0.004
        for symbol, book in served(make(), cut, random.Random(seed), rate).items():
            assert book.levels() == right[symbol].levels()
            compared += 1
    assert compared > 20
