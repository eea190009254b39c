"""What is wrong with an adapter, said so that whoever wrote it can mend it: the name, the value, what is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from inspect import isasyncgenfunction, iscoroutinefunction, signature
from typing import Any

from broker.core.errors import FrameError
from broker.core.tick_lines import WANTED
from broker.core.ticks import TICK_TYPES, is_symbol, venue_of

_CHANNELS = ("quote", "trade", "book")
_PATH = re.compile(r"`\$\.(\w+)[^`]*`$")
_TIME = "an int, in nanoseconds of Unix time; see feeds.frames.epoch_to_ns and text_to_ns"
#: Where a tick of Python's differs from a line of JSON, for which `WANTED` is.
_OWN_WANTED = {
    "ts": _TIME,
    "rts": f"{_TIME}; it is parse()'s own argument",
    "start": _TIME,
    "side": "'buy' or 'sell', whoever took, or None if it is not known",
    "bids": "a list of (price, size), both as text, best first",
    "asks": "a list of (price, size), both as text, best first",
}


def mistake_in_venue(venue: object) -> str:
    """Return what is wrong with the name of a venue, empty if nothing is."""
    if isinstance(venue, str) and len(venue) <= 32 and is_symbol(f"{venue}:A"):
        return ""
    return f"venue = {venue!r:.80}: must be 1 to 32 capital letters, digits and _, like 'SIM'"


def mistake_in_url(url: object) -> str:
    """Return what is wrong with an adapter's address, empty if nothing is."""
    if isinstance(url, str) and re.match(r"wss?://[^/\s]", url):
        return ""
    return f"url = {url!r:.80}: must be where the venue's WebSocket is, like 'wss://stream.acme.example/v1'"


def mistake_in_parse(parse: Any, inherited: Any) -> str:
    """Return what is wrong with an adapter's function, empty if nothing is.

    Args:
        parse: of the class, not of an object.
        inherited: the one that it has to replace.
    """
    if parse is inherited:
        return "parse: is missing: def parse(self, frame, rts), which returns the ticks of one frame"
    if iscoroutinefunction(parse) or isasyncgenfunction(parse):
        return "parse: must be a plain function, as it waits for nothing: def, not async def"
    try:
        signature(parse).bind(None, "", 0)
    except TypeError as error:
        return f"parse: must take a frame and the time of its receipt, def parse(self, frame, rts): {error}"
    return ""


def mistake_in_subscribe(table: object) -> str:
    """Return what is wrong with what is sent, empty if nothing is: a table by channel has nothing but channels."""
    if not isinstance(table, Mapping) or not set(_CHANNELS) & set(table):
        return ""
    odd = next((key for key in table if key not in _CHANNELS), None)
    return "" if odd is None else f"subscribe: {odd!r:.40} is no channel; there are {', '.join(_CHANNELS)}"


def symbol_of(venue: str, name: str) -> str:
    """Return the canonical symbol of a name in the options.

    Raises:
        ValueError: it can't be one.
    """
    symbol = f"{venue}:{name}"
    if is_symbol(symbol):
        return symbol
    raise ValueError(
        f"symbols: {name!r:.80} must be capital letters, digits and ._/+-, like 'BTC-USD'; "
        "how the venue writes it is for venue_name() to say"
    )


def no_ticks(made: object, error: Exception) -> str:
    """Return what is wrong with what ``parse`` returned, or raised."""
    if isinstance(made, TICK_TYPES):
        return f"parse() returned one {type(made).__name__}: it must return a list of ticks, or yield each"
    if not isinstance(made, Iterable):
        return f"parse() returned {made!r:.80}: it must return a list of ticks, or yield each"
    return f"{type(error).__name__}: {error}"[:200]


def wrong_tick(tick: object, error: Exception, venue: str) -> FrameError:
    """Return the refusal of a frame for one of its ticks, which ``msgspec`` does not take."""
    if not isinstance(tick, TICK_TYPES):
        what = type(tick).__name__
        text = f"not a tick: {tick!r:.80} is a {what}; make a Quote, a Trade or a Book of broker.core.ticks"
        return FrameError(text, kind=f"not a tick: a {what}")
    found = _PATH.search(str(error))
    if found is None:
        return FrameError(f"not a tick: {error}: {tick!r:.200}", kind=f"not a tick: {error}")
    if found[1] == "sym":
        return wrong_symbol(getattr(tick, "sym", None), venue)
    return wrong_value(tick, found[1], getattr(tick, found[1], None))


def wrong_value(tick: Any, field: str, value: object) -> FrameError:
    """Return the refusal of a frame for a field of one of its ticks.

    Args:
        field: its name, maybe with indices behind it.
    """
    name = field.partition("[")[0]
    wanted = _OWN_WANTED.get(name) or WANTED.get(name, "something else").replace("null", "None")
    text = f"not a tick: {field} = {value!r:.80} of a {type(tick).__name__}: it must be {wanted}"
    return FrameError(text, kind=f"not a tick: {field}")


def wrong_symbol(sym: object, venue: str) -> FrameError:
    """Return the refusal of a frame for the symbol of one of its ticks."""
    text = f"not a tick: sym = {sym!r:.80}: it must be {venue}:SYMBOL, upper case, as self.symbol(name) returns it"
    return FrameError(text, kind="not a symbol")


def is_symbol_of(sym: object, venue: str) -> bool:
    """Tell whether this is a symbol of the venue."""
    return isinstance(sym, str) and is_symbol(sym) and venue_of(sym) == venue
