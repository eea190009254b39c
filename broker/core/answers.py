"""What a venue answers over HTTP, as an adapter gets it. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.core.errors import FeedError

#: Prices are never floats: what has a point or an exponent stays text, with its digits.
_JSON = msgspec.json.Decoder(float_hook=str)


def json_of(url: str, body: bytes) -> Any:
    """Return what a body of JSON says; see `feeds.base.FeedContext.get_json`.

    Raises:
        FeedError: it is not JSON.
    """
    try:
        return _JSON.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FeedError(f"GET {url}: not JSON: {error}: {body[:80]!r}") from None
