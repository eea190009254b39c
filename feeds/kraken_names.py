"""Names of Kraken's pairs, theirs and ours. Pure.

The v1 API calls Bitcoin ``XBT`` and Dogecoin ``XDG`` (``XBT/USD``), v2 calls them ``BTC`` and ``DOGE`` as everybody
does (``BTC/USD``); see https://docs.kraken.com/exchange/api-reference/spot-websocket (excerpt, 2026-11-21). Ours
is ``BTC-USD`` for both. Tokenised shares have a small ``x`` behind their base (``AAPLx/USD``), ours has a large one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from broker.core.errors import FrameError
from feeds.frames import canonical

Api = Literal["v1", "v2"]

_OURS = {"XBT": "BTC", "XDG": "DOGE"}
_V1 = {ours: theirs for theirs, ours in _OURS.items()}
_PAIR = re.compile(r"([A-Z0-9][A-Z0-9.]{0,18}x?)[-/]([A-Z0-9][A-Z0-9.]{0,18})")


@lru_cache(maxsize=16_384)
def symbol_of(venue: str, pair: str) -> str:
    """Return our symbol for a pair of either API: ``XBT/USD`` is ``KRAKEN:BTC-USD``.

    Raises:
        FrameError: it is no pair.
    """
    base, _, quote = pair.partition("/")
    if not base or not quote:
        raise FrameError(f"not a pair: {pair[:80]!r}")
    return canonical(venue, f"{_OURS.get(base, base)}-{_OURS.get(quote, quote)}".upper())


def venue_pair(name: str, api: Api) -> str:
    """Return how an API spells a pair that is written in any of the known ways.

    Args:
        name: ``BTC-USD``, ``XBT-USD``, or either with a slash.
        api: whose spelling is wanted.

    Raises:
        ValueError: it is no pair.
    """
    match = _PAIR.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no pair of Kraken: write it like 'BTC-USD'")
    assets = [_OURS.get(asset, asset) for asset in match.groups()]
    return "/".join(_V1.get(asset, asset) for asset in assets) if api == "v1" else "/".join(assets)
