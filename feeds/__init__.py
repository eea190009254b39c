"""Feeds: one venue or source per file, behind the interface of `feeds.base`."""

from __future__ import annotations

from feeds.base import Feed
from feeds.binance import Binance
from feeds.binance_usdm import BinanceUsdm
from feeds.bitstamp import Bitstamp
from feeds.coinbase import Coinbase
from feeds.coinbase_advanced import CoinbaseAdvanced
from feeds.gemini import Gemini
from feeds.ingest import Ingest
from feeds.kraken import Kraken
from feeds.nats import Nats
from feeds.process import Process
from feeds.redis import Redis
from feeds.replay import Replay
from feeds.simulated import Simulated

#: The feeds that come with Tapecast, by the ``type`` of a ``[[feeds]]`` table.
FEEDS: dict[str, type[Feed]] = {
    "simulated": Simulated,
    "replay": Replay,
    "coinbase": Coinbase,
    "coinbase_advanced": CoinbaseAdvanced,
    "binance": Binance,
    "process": Process,
    "ingest": Ingest,
    "nats": Nats,
    "redis": Redis,
    "binance_usdm": BinanceUsdm,
    "bitstamp": Bitstamp,
    "gemini": Gemini,
    "kraken": Kraken,
}

__all__ = ["FEEDS", "Feed"]
