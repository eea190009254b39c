"""Which feeds there are, and where they come from. Nothing is imported before it is asked for.

The ``type`` of a ``[[feeds]]`` table is one of

* the name of a feed that comes with Tapecast, or that an installed package brings: an entry point of the group
  ``tapecast.feeds``, e.g. in its ``pyproject.toml``::

      [project.entry-points."tapecast.feeds"]
      example = "tapecast_example:Example"

* ``package.module:Class``, of a package that can be imported;
* ``./my_feed.py:Class``, a file, relative to the one that the table stands in.

What is found may be broken in any way. That costs the feed, and nobody else: it is there, down for good, and says why.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from inspect import iscoroutinefunction
from math import isfinite
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from broker.core.errors import FeedPermanentError
from broker.core.ticks import is_symbol, venue_of
from feeds import FEEDS
from feeds.base import API_VERSION, Feed, FeedContext, FeedOptions
from feeds.mistakes import mistake_in_venue

GROUP = "tapecast.feeds"


class PluginError(Exception):
    """A feed can't be used; the text says why. Not raised for a feed that isn't there: that is a `LookupError`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A feed that is there, not imported yet.

    Attributes:
        kind: the ``type`` that names it.
        origin: where it comes from, for people: ``built-in``, a distribution and its version, a module, a file.
    """

    kind: str
    origin: str
    _load: Callable[[], object]

    def load(self) -> type[Feed]:
        """Import it, and check what can be checked without making one.

        Raises:
            PluginError: it can't be used.
        """
        try:
            # What is printed here may be read by a program.
            with redirect_stdout(sys.stderr):
                found = self._load()
        except (PluginError, KeyboardInterrupt):
            raise
        except BaseException as exc:
            # Also what is no Exception: sys.exit, or the panic of a library in Rust.
            raise PluginError(f"can't be imported: {_text(exc)}") from exc
        if self.origin != "built-in":
            _check(found)
        assert isinstance(found, type)
        return found


def known_feeds() -> dict[str, Source]:
    """Return the feeds that have a name, by it. A name that two packages use is neither's; a built-in one is ours."""
    found = {kind: Source(kind, "built-in", partial(FEEDS.__getitem__, kind)) for kind in FEEDS}
    others: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        others.setdefault(point.name, []).append(point)
    for name, points in sorted(others.items()):
        # The same package may be found twice on the path; the first one is what would be imported.
        if name not in found:
            origins = list(dict.fromkeys(map(_origin, points)))
            load = partial(_load_point, points[0]) if len(origins) == 1 else _refuse_two(origins)
            found[name] = Source(name, " and ".join(origins), load)
    return found


def hidden_feeds() -> Iterator[tuple[str, str]]:
    """Yield name and origin of what packages bring under the name of a built-in feed, which wins."""
    yield from ((point.name, _origin(point)) for point in entry_points(group=GROUP) if point.name in FEEDS)


def find_feed(kind: str, folder: Path = Path()) -> Source:
    """Return the feed that the ``type`` of a table names; nothing is imported.

    Args:
        folder: what the path of a file is relative to.

    Raises:
        LookupError: there is none of this name.
    """
    if kind in FEEDS:
        return Source(kind, "built-in", partial(FEEDS.__getitem__, kind))
    place, colon, name = kind.rpartition(":")
    if not colon:
        return known_feeds()[kind]
    if not name or not place:
        raise LookupError(kind)
    if place.endswith(".py"):
        path = (folder / Path(place).expanduser()).resolve()
        return Source(kind, str(path), lambda: _named(_module_of(path), name, str(path)))
    return Source(kind, f"module {place}", lambda: _named(importlib.import_module(place), name, place))


def class_missing(kind: object) -> str:
    """Return the end of a sentence for a type that names a file or a module, and no class in it; else nothing."""
    if not isinstance(kind, str):
        return ""
    place, colon, _ = kind.rpartition(":")
    place = place if colon else kind
    if place.endswith(".py"):
        return f"; say which class of the file it is: {place}:Class"
    try:
        # Not within a package, which would be imported for it.
        is_module = place.isidentifier() and importlib.util.find_spec(place) is not None
    except (ImportError, ValueError):
        return ""
    return f"; say which class of the module it is: {place}:Class" if is_module else ""


class BrokenFeed(Feed):
    """Stands in for a feed that can't be used: it has no symbols, is down for good, and says why."""

    api_version = API_VERSION
    venue = ""
    symbols = ()

    def __init__(self, options: FeedOptions, reason: str) -> None:
        self.reason = reason

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`; fails at once."""
        raise FeedPermanentError(self.reason)


def feed_of(options: FeedOptions) -> Feed:
    """Return a feed for options that a configuration has read, or of a built-in one; never raises, see `make_feed`."""
    maker = options.maker or partial(make_feed, FEEDS[options.type])
    return maker(options)


def make_feed(feed: type[Feed], options: FeedOptions) -> Feed:
    """Make a feed of its options; one that can't be made, or used, is a `BrokenFeed`."""
    try:
        made = feed(options)
        fault = _fault(made)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        fault = f"can't be made: {_text(exc)}"
    return BrokenFeed(options, fault) if fault else made


def _fault(made: Feed) -> str:
    """Return what is wrong with what a feed says of itself, empty if nothing is."""
    venue, symbols = getattr(made, "venue", None), made.symbols
    if mistake := mistake_in_venue(venue):
        # A recording of several venues has none of its own.
        if type(made).__module__.startswith("feeds.") and venue is not None:
            return ""
        return mistake
    if symbols is not None and (isinstance(symbols, str) or not isinstance(symbols, Collection)):
        return f"symbols: {symbols!r:.80} must be a list, or None"
    for symbol in symbols or ():
        if not isinstance(symbol, str) or not is_symbol(symbol) or venue_of(symbol) != venue:
            return f"symbols: {symbol!r:.80} is not {venue}:SYMBOL, upper case"
    return _fault_of_settings(made)


def _fault_of_settings(made: Feed) -> str:
    """Return what is wrong with what a feed says of how it is to be treated, empty if nothing is."""
    for name in ("is_checked", "can_pause"):
        if type(value := getattr(made, name)) is not bool:
            return f"{name} = {value!r:.80}: must be True or False"
    if (stale := made.stale_after_s) is not None and not (_is_number(stale) and stale > 0):
        return f"stale_after_s = {stale!r:.80}: must be a number of seconds above 0, or None"
    if not _is_number(linger := made.linger_s) or linger < 0:
        return f"linger_s = {linger!r:.80}: must be a number of seconds, at least 0"
    return ""


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and isfinite(value)  # type: ignore[arg-type]  # it is one of both


def _check(found: object) -> None:
    """Raise `PluginError` unless this is a class of feeds, written for this version."""
    if not isinstance(found, type) or not issubclass(found, Feed):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise PluginError(
            f"is not a feed: it is {what}, and must be a class that inherits from feeds.base.Feed"
        )
    # Not what a base class of ours says: that is always the version that is running.
    own = [vars(base) for base in found.__mro__ if not f"{base.__module__}.".startswith("feeds.")]
    version = next((names["api_version"] for names in own if "api_version" in names), None)
    if version is None:
        raise PluginError(
            f"does not say what it was written for: add api_version = {API_VERSION} to the class"
        )
    if type(version) is not int or version != API_VERSION:
        raise PluginError(
            f"api_version = {version!r:.40}: this Tapecast has version {API_VERSION} of the interface"
        )
    if not isinstance(found.Options, type) or not issubclass(found.Options, FeedOptions):
        raise PluginError(
            f"Options: {found.Options!r:.80} must be a class that inherits from feeds.base.FeedOptions"
        )
    if found.run is Feed.run or not iscoroutinefunction(found.run):
        raise PluginError("run: must be an async function of the class")


def _module_of(path: Path) -> ModuleType:
    """Import a file, once. Its name is made of its path, so that files of one name in two folders go together."""
    name = f"tapecast_feed_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PluginError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Before it is run: pydantic and dataclasses look their module up to understand annotations.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_point(point: EntryPoint) -> object:
    if not point.attr:
        raise PluginError(f"its entry point is {point.value!r}: must be package.module:Class")
    return _named(importlib.import_module(point.module), point.attr, point.module)


def _named(module: ModuleType, name: str, place: str) -> object:
    """Return what a module has under a name, which may have dots in it."""
    try:
        return attrgetter(name)(module)
    except AttributeError:
        own = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Feed)]
        there = ", ".join(each.__name__ for each in own if each.__module__ == module.__name__)
        raise PluginError(f"{place} has no {name!r}; its feeds are: {there or 'none'}") from None


def _refuse_two(origins: list[str]) -> Callable[[], Any]:
    def load() -> Any:
        raise PluginError(
            f"is in {' and in '.join(origins)}: uninstall one, or name it as package.module:Class"
        )

    return load


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _text(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"[:300].replace("\n", " ")
