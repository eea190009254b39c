"""The feed that is checked: where it comes from, its options, its golden frames."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import SecretStr, ValidationError

from broker.core.errors import FrameError
from broker.core.requests import nearest
from broker.core.ticks import CHANNELS, Channel
from feeds.base import Feed, FeedOptions
from feeds.plugins import BrokenFeed, PluginError, Source, class_missing, find_feed, known_feeds, make_feed
from feeds.testing.golden import Golden, GoldenError, frames_beside, read_golden
from feeds.testing.recorded import read_recorded, recorded_options
from feeds.testing.verdicts import one_line
from feeds.venue import VenueFeed

#: Frames of the feeds that come with Tapecast, by type.
OWN_FRAMES = Path(__file__).parent / "frames"
#: Feeds of no venue: what they read is the user's own, and their tests are Tapecast's.
NO_ADAPTERS = frozenset({"replay", "process", "ingest"})


class SubjectError(Exception):
    """There is nothing to check; the text says why."""


class Subject:
    """One feed under check.

    Attributes:
        kind: as a ``[[feeds]] type``.
        folder: what a file in ``kind`` is relative to.
        golden: its frames.
        ticks_path: where the ticks that they make are kept; ``None``: nowhere.
    """

    def __init__(
        self,
        kind: str,
        settings: Mapping[str, Any] | None = None,
        *,
        folder: Path = Path(),
        frames: Path | None = None,
        recording: Path | None = None,
        golden_ticks: Path | None = None,
        skips: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is imported yet; `load` does.

        Args:
            kind: a type's name, ``package.module:Class`` or ``file.py:Class``.
            settings: keys of its ``[[feeds]]`` table, over those that the golden frames name.
            folder: see above.
            frames: golden frames, if they are not where the adapter is.
            recording: of the venue, in place of golden frames.
            golden_ticks: see `ticks_path`; ``ticks.jsonl`` beside the frames, if not given.
            skips: reasons not to make a check, by its name.

        Raises:
            SubjectError: there is no such feed.
        """
        self.kind = kind
        self.folder = folder
        self.skips = dict(skips or {})
        self.golden = Golden()
        self.ticks_path = golden_ticks
        self._settings = dict(settings or {})
        self._frames = frames
        self._recording = recording
        self._options: FeedOptions | None = None
        self._feed: type[Feed] | None = None
        if kind in NO_ADAPTERS:
            raise SubjectError(f"{kind}: has no venue that could be scripted; only adapters are checked")
        try:
            self.source: Source = find_feed(kind, folder)
        except LookupError:
            hint = class_missing(kind) or nearest(kind, known_feeds()) or "; see tapecast feed list"
            raise SubjectError(f"{kind}: there is no such feed{hint}") from None

    def load(self) -> None:
        """Import the feed, find its frames, and validate its options.

        Raises:
            SubjectError: it can't be used, or made with these options.
        """
        if self._feed is not None:
            return
        try:
            feed = self.source.load()
            self.golden = self._find_golden(feed)
        except (PluginError, GoldenError) as error:
            raise SubjectError(f"{self.kind}: {error}") from None
        self.skips = {**self.golden.skips, **self.skips}
        self._options = self._read_options(feed)
        made = make_feed(feed, self._options)
        if isinstance(made, BrokenFeed):
            raise SubjectError(f"{self.kind}: {made.reason}")
        if self._recording is not None:
            try:
                self.golden = read_recorded(self._recording, _refuser(made))
            except GoldenError as error:
                raise SubjectError(f"{self.kind}: {error}") from None
        self._feed = feed

    def make(self) -> Feed:
        """Return a new feed."""
        assert self._options is not None, "load() comes first"
        return self.feed(self._options)

    @property
    def is_loaded(self) -> bool:
        """Whether `load` has found nothing wrong."""
        return self._feed is not None

    @property
    def feed(self) -> type[Feed]:
        """The class that is checked; `load` comes first."""
        assert self._feed is not None, "load() comes first"
        return self._feed

    def names(self) -> tuple[str, ...]:
        """Return the names that the option ``symbols`` lists, if it has one; without the venue."""
        names = getattr(self._options, "symbols", ())
        return tuple(names) if isinstance(names, list | tuple) else ()

    def wanted(self, feed: Feed) -> list[tuple[Channel, str]]:
        """Return what subscribers want of the feed: what the frames say, or else all that it has."""
        declared = [(ch, sym) for sym in feed.symbols or () for ch in CHANNELS]
        return list(self.golden.wanted) or declared

    def _find_golden(self, feed: type[Feed]) -> Golden:
        path = self._frames or self._frames_of(feed)
        if self._recording is not None:
            # What the venue doesn't do is so in a recording, too; and its symbols may well be the same.
            golden = Golden() if path is None else read_golden(path)
            options = recorded_options(self._recording, self.kind, feed) or golden.options
            return Golden(skips=golden.skips, options=options)
        if path is None:
            return Golden()
        self.ticks_path = self.ticks_path or _ticks_beside(path)
        return read_golden(path)

    def _frames_of(self, feed: type[Feed]) -> Path | None:
        own = OWN_FRAMES / f"{self.kind}.jsonl"
        if self.source.origin == "built-in":
            return own if own.is_file() else None
        try:
            return frames_beside(Path(inspect.getfile(feed)))
        except (TypeError, OSError):
            return None

    def _read_options(self, feed: type[Feed]) -> FeedOptions:
        fields = feed.Options.model_fields
        settings = {**self.golden.options, **self._settings}
        default = fields["type"].default
        settings["type"] = default if isinstance(default, str) else self.kind
        spelt = {key: _spelt(value) for key, value in settings.items()}
        try:
            return feed.Options.model_validate(spelt)
        except ValidationError as error:
            mistakes = "; ".join(_mistake(each, feed.Options) for each in error.errors(include_url=False))
            raise SubjectError(f"{self.kind}: its options: {one_line(mistakes)}") from None


def _mistake(error: Mapping[str, Any], options: type[FeedOptions]) -> str:
    key = ".".join(map(str, error["loc"]))
    field = options.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    if error["type"] == "missing":
        example = "BTC-USD,ETH-USD" if key == "symbols" else "VALUE"
        return (
            f"{key}: is missing; name it with --option {key}={example}, "
            f"or with a line `//! option {key} = JSON` in a frames.jsonl beside the adapter"
        )
    if field is None or field.annotation is SecretStr:
        return f"{key}: {error['msg']}"
    return f"{key} = {one_line(repr(error['input']), 80)}: {error['msg']}"


def _ticks_beside(frames: Path) -> Path:
    """``frames.jsonl`` makes ``ticks.jsonl``, ``x.frames.jsonl`` and ``x.jsonl`` make ``x.ticks.jsonl``."""
    stem = frames.name.removesuffix(".jsonl").removesuffix("frames").rstrip(".")
    return frames.with_name(f"{stem}.ticks.jsonl" if stem else "ticks.jsonl")


def _refuser(feed: Feed) -> Callable[[str | bytes], str]:
    """Return what tells why a feed refuses a frame, such as one of a symbol that it isn't to bring; empty: not."""
    if not isinstance(feed, VenueFeed):
        return lambda frame: ""
    parser = feed.new_parser()

    def refusal_of(frame: str | bytes) -> str:
        try:
            parser.parse(frame, time.time_ns())
        except FrameError as error:
            return one_line(error, 80) or "refused"
        return ""

    return refusal_of


def _spelt(value: Any) -> Any:
    # What comes from JSON is a list, where strict options want a tuple.
    return tuple(value) if isinstance(value, list) else value


def read_setting(text: str) -> tuple[str, Any]:
    """Read ``key=value``: JSON, a list with commas, or a text.

    Raises:
        ValueError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{text!r}: must be key=value")
    key = key.strip()
    if key == "symbols" and not value.lstrip().startswith("["):
        return key, [each.strip() for each in value.split(",")]
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value
