"""Names of pairs that venues write without anything between base and quote asset. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from broker.core.errors import FrameError
from feeds.frames import canonical


def split_pair(native: str, quotes: Sequence[str]) -> str:
    """Turn ``BTCUSD`` into ``BTC-USD``; what ends with none of the quote assets stays as it is.

    Args:
        native: upper case.
        quotes: quote assets, upper case, in the order in which they are tried: the longer ones first.
    """
    for quote in quotes:
        if native.endswith(quote) and len(native) > len(quote):
            return f"{native[: -len(quote)]}-{quote}"
    return native


class PairNames:
    """The venue's spelling to our symbols: as subscribed to, as the venue's list says, or as it can be guessed.

    Args:
        venue: the part before the colon.
        guess: returns our name for a spelling that is in no list.
        names: the venue's spelling to ours, if it is known what was subscribed to: others are then refused.
    """

    def __init__(
        self, venue: str, guess: Callable[[str], str], names: Mapping[str, str] | None = None
    ) -> None:
        self._venue = venue
        self._guess = guess
        self._only = names is not None
        self._names = dict(names or {})

    def learn(self, native: str, base: str, quote: str) -> None:
        """Take one line of the venue's list."""
        if not self._only:
            self._names[native] = f"{base}-{quote}"

    def symbol(self, native: str) -> str:
        """Return our symbol.

        Raises:
            FrameError: it is none, or none that was subscribed to.
        """
        name = self._names.get(native)
        if name is None:
            if self._only:
                raise FrameError(f"nobody subscribed to {native[:80]!r}")
            name = self._guess(native)
        return canonical(self._venue, name)
