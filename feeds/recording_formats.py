"""Which venue a recording is of, and the parser for it. Pure but for reading the files' first lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from feeds.binance_frames import BinanceParser
from feeds.bitstamp_frames import BitstampParser
from feeds.coinbase import CoinbaseParser
from feeds.coinbase_advanced_frames import CoinbaseAdvancedParser
from feeds.gemini_frames import GeminiParser
from feeds.kraken_recorded import RecordedKrakenParser, is_v1, is_v2
from feeds.own_ticks import OwnTicksParser
from feeds.raw_recordings import RawTicksParser, first_of
from feeds.recordings import Record, read_file
from feeds.tables import TableError
from feeds.tick_files import TickFileParser
from feeds.venue import VenueParser

Format = Literal[
    "coinbase", "coinbase_advanced", "binance", "bitstamp", "gemini", "kraken", "raw", "lines", "ticks"
]

#: What ticks of each format are called, where the recording doesn't say.
DEFAULT_VENUES: dict[Format, str] = {
    "coinbase": "COINBASE",
    "coinbase_advanced": "COINBASE",
    "binance": "BINANCE",
    "bitstamp": "BITSTAMP",
    "gemini": "GEMINI",
    "kraken": "KRAKEN",
    "raw": "REPLAY",
    "lines": "REPLAY",
    "ticks": "REPLAY",
}
#: Those of ticks, not of a venue's frames: several venues may be in one recording.
OF_TICKS: frozenset[Format] = frozenset({"raw", "lines", "ticks"})
#: Perpetuals and futures are other instruments than the spot pairs of the same name.
FUTURES_VENUE = "BINANCE_USDM"

_LINES = 200
_HEAD = 4096
_COINBASE = re.compile(
    rb'"type"\s*:\s*"(?:subscriptions|ticker|match|last_match|snapshot|l2update|heartbeat)"'
)
_BINANCE = re.compile(
    rb'"stream"\s*:\s*"[^"]*@|"e"\s*:\s*"(?:depthUpdate|trade|aggTrade|bookTicker)"|"lastUpdateId"'
)
_BINANCE_FUTURES = re.compile(rb'"pu"\s*:|"e"\s*:\s*"bookTicker"|"X"\s*:|"lastUpdateId"\s*:\s*\d+\s*,\s*"E"')
_ADVANCED = re.compile(
    rb'"channel"\s*:\s*"(?:l2_data|market_trades|ticker|heartbeats|subscriptions|candles)"'
)
_BITSTAMP = re.compile(rb'"channel"\s*:\s*"(?:(?:diff_|detail_)?order_book|live_trades|live_orders)_[a-z0-9]')
_GEMINI = re.compile(rb'"type"\s*:\s*"l2_updates"|"event_id"\s*:\s*\d+\s*,\s*"timestamp"')
_OURS = re.compile(rb'"type"\s*:\s*"(?:welcome|ack|snapshot|update|heartbeat|gap|notice)"')
_TICK = re.compile(rb'"ch"\s*:\s*"(?:quote|trade|book|bar|status)"')
_OUR_SYMBOL = re.compile(rb'"sym"\s*:\s*"([A-Z0-9][A-Z0-9_]*):')


@dataclass(frozen=True)
class Origin:
    """Whose traffic a file holds. ``format`` is ``None`` for a venue that there is no parser for."""

    format: Format | None
    venue: str


def new_parser(form: Format, venue: str, *, is_override: bool) -> VenueParser:
    """Return a parser for one recorded connection; ``is_override``: the venue isn't the recording's own."""
    parsers: dict[Format, Callable[[], VenueParser]] = {
        "coinbase": lambda: CoinbaseParser(venue),
        "coinbase_advanced": lambda: CoinbaseAdvancedParser(venue),
        "binance": lambda: BinanceParser(venue),
        "bitstamp": lambda: BitstampParser(venue),
        "gemini": lambda: GeminiParser(venue),
        "kraken": lambda: RecordedKrakenParser(venue),
        "raw": lambda: RawTicksParser(venue if is_override else None),
        "lines": lambda: TickFileParser(venue if is_override else None),
        "ticks": lambda: OwnTicksParser(venue if is_override else None),
    }
    return parsers[form]()


def origin_of_file(path: Path) -> Origin | None:
    """Look at a file's first lines; ``None``: they are of no known kind.

    Raises:
        OSError: it can't be read.
    """
    begun = first_of(path)
    if begun is not None:
        return Origin("raw", begun.venue)
    unknown: Origin | None = None
    reader = read_file(path)
    try:
        for record in islice(reader, _LINES):
            origin = origin_of(record)
            if origin is not None and origin.format is not None:
                return origin
            unknown = unknown or origin
    except TableError:
        # What is wrong with it is for who plays it to say.
        return Origin("lines", DEFAULT_VENUES["lines"])
    finally:
        reader.close()
    return unknown


def origin_of(record: Record) -> Origin | None:
    """Tell whose traffic one line is, by its frame or its URL; ``None`` if it doesn't show."""
    match record.kind:
        case "frame":
            return _origin_of_frame(record.payload)
        case "message":
            return _origin_of_message(record.payload)
        case "body" | "opened":
            return _origin_of_url(record.url)
    return None


def _origin_of_frame(frame: bytes) -> Origin | None:
    head = frame[:_HEAD]
    # Inside, these frames look like those of the Exchange.
    if b'"sequence_num"' in head + frame[-_HEAD:] and _ADVANCED.search(head + frame[-_HEAD:]):
        return Origin("coinbase_advanced", "COINBASE")
    if _COINBASE.search(head) and b'"product_id' in head + frame[-_HEAD:]:
        return Origin("coinbase", "COINBASE")
    if _BINANCE.search(head):
        return Origin("binance", FUTURES_VENUE if _BINANCE_FUTURES.search(head) else "BINANCE")
    if _BITSTAMP.search(head + frame[-_HEAD:]):
        return Origin("bitstamp", "BITSTAMP")
    if _GEMINI.search(head):
        return Origin("gemini", "GEMINI")
    if is_v1(frame) or is_v2(frame):
        return Origin("kraken", "KRAKEN")
    return None


def _origin_of_message(message: bytes) -> Origin | None:
    # Messages without a symbol (welcome, ack) don't show the venue yet.
    symbol = _OUR_SYMBOL.search(message)
    if symbol is None:
        return None
    venue = symbol[1].decode()
    if _OURS.search(message[:_HEAD]):
        return Origin("ticks", venue)
    return Origin("lines", venue) if _TICK.search(message[:_HEAD]) else None


def _origin_of_url(url: str) -> Origin | None:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    if host.startswith("advanced-trade-ws.") and "coinbase" in host:
        return Origin("coinbase_advanced", "COINBASE")
    if "coinbase" in host:
        return Origin("coinbase", "COINBASE")
    if "binance" in host:
        return Origin("binance", FUTURES_VENUE if host.startswith("f") else "BINANCE")
    for venue in ("bitstamp", "gemini"):
        if venue in host:
            return Origin(venue, venue.upper())
    # Futures are at futures.kraken.com, and speak otherwise.
    if host.endswith("kraken.com") and "futures" not in host:
        return Origin("kraken", "KRAKEN")
    return Origin(None, host) if host else None
