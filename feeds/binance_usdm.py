"""Binance USD-M futures: quotes, trades and books, like those of spot but for how a book's events are chained.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams, its pages
"Connect" and "Important WebSocket Change Notice", from search excerpts, 2026-11-21. What differs from spot:

* Since 2026-04-23 streams are served by category, and what is asked for in the wrong one connects and stays
  silent. ``bookTicker``, ``depth`` and ``trade`` are all of ``/public``, so one connection does.
* ``trade`` is not described by the venue (``aggTrade``, of ``/market``, is), but served: single executions, with
  those of the insurance fund and of auto-deleveraging marked, which are left out.
* A quote has a time of its own, and a depth event names the last one before it (``pu``).
* 10 messages a second from the client, 1024 streams a connection, a connection for at most 24 hours, and a REST
  budget of 2400 a minute, of which a snapshot of 1000 levels takes 20: as many snapshots a minute as with spot.

Without the venue itself it can't be checked that it still serves ``trade``, nor what it refuses and how.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from feeds.binance import Binance, native_names

#: Perpetuals like spot pairs; what is delivered on a day has the day behind it, and no dash.
_SYMBOL = re.compile(r"[A-Z0-9]{2,20}(-[A-Z0-9]{2,20})?|[A-Z0-9]{4,40}_[0-9]{6}")


class BinanceUsdm(Binance):
    """Binance USD-M futures, live."""

    venue = "BINANCE_USDM"
    depth_path = "/fapi/v1/depth"

    class Options(Binance.Options):
        """Keys of a feed of the type ``binance_usdm``."""

        type: Literal["binance_usdm"] = "binance_usdm"  # type: ignore[assignment]
        url: str = "wss://fstream.binance.com/public"
        rest_url: str = "https://fapi.binance.com"

        @field_validator("symbols")
        @classmethod
        def _are_symbols(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            for symbol in symbols:
                if _SYMBOL.fullmatch(symbol) is None:
                    raise ValueError(
                        f"{symbol!r} is no symbol of Binance USD-M: write it like 'BTC-USDT' or 'BTCUSDT_270326'"
                    )
            if len(native_names(symbols)) < len(symbols):
                raise ValueError("a symbol is listed twice, with and without a dash")
            return symbols
