"""Replay: recorded venue traffic through the very parsers that live traffic goes through.

``ts`` stays the recorded one. ``rts`` is when this broker received the tick, as it says everywhere else; the
recorded receive time only paces the replay, and stands in for ``ts`` where the venue sends no time.

Each file is one recorded connection with a parser of its own; HTTP answers go to all of them, as recorders
keep them in files of their own. Every round of a loop begins with new parsers, so with a snapshot of each
book.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import trio
from pydantic import Field

from broker.core.errors import FeedPermanentError, FrameError
from broker.core.ticks import Tick
from feeds.base import Feed, FeedContext, FeedOptions
from feeds.recording_formats import DEFAULT_VENUES, OF_TICKS, Format, Origin, new_parser, origin_of_file
from feeds.recordings import MAX_FILES, Record, find_files, read_merged
from feeds.venue import VenueParser

#: Ticks published before backpressure is felt.
_BATCH = 256
#: Lines read before others get their turn: a recording may have long stretches without a tick.
_LINES_PER_TURN = 100


class Replay(Feed):
    """Plays a recording at the speed it was recorded at, at another one, or as fast as it is taken."""

    can_pause = True

    class Options(FeedOptions):
        """Keys of a feed of the type ``replay``."""

        type: Literal["replay"] = "replay"
        #: A file, a folder (all its files) or a glob; several files are merged by time. Gzip is recognised.
        path: Annotated[str, Field(min_length=1)]
        format: Literal["auto", Format] = "auto"
        #: Times the recorded speed, or ``"max"``: as fast as the broker takes it.
        speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["max"] = 1.0
        #: Begin again at the end.
        loop: bool = False
        #: Another venue for the symbols than the recording's own.
        venue: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9_]{0,31}\z")] | None = None

    def __init__(self, options: Options) -> None:
        self.options = options
        # Looked at now, as clients can subscribe before it runs. What is wrong with it is for `run` to say.
        self._origins = _origins(options.path)
        self.venue = options.venue or self._recorded_venue()

    async def run(self, ctx: FeedContext) -> None:
        """Play the recording, once or for ever; returns at its end.

        Raises:
            FeedPermanentError: there is no such file, nothing to play in it, or of no known venue.
        """
        paths, form = self.what_to_play()
        for each in self._origins.keys() - set(paths):
            ctx.log.warning("file left out: not of this recording", file=str(each), format=form)
        while True:
            round_ = _Round(
                ctx,
                paths,
                self.options.speed,
                lambda: self._new_parser(form),
                of_ticks=form == "raw",
            )
            await round_.play(self.options.path)
            if not self.options.loop:
                return
            ctx.rewind()

    def _new_parser(self, form: Format) -> VenueParser:
        return new_parser(form, self.venue, is_override=self.options.venue is not None)

    def _recorded_venue(self) -> str:
        wanted = self.options.format
        for origin in self._origins.values():
            if origin is not None and origin.format is not None and wanted in ("auto", origin.format):
                return origin.venue
        return "REPLAY" if wanted == "auto" else DEFAULT_VENUES[wanted]

    def what_to_play(self) -> tuple[list[Path], Format]:
        """Return the files that hold something of the format, and the format.

        Raises:
            FeedPermanentError: as `run` does, but for files without a single frame.
        """
        path, wanted = self.options.path, self.options.format
        origins = self._origins = _origins(path)
        if not origins:
            raise FeedPermanentError(f"{path}: no such file")
        if len(origins) > MAX_FILES:
            raise FeedPermanentError(f"{path}: {len(origins)} files, and at most {MAX_FILES} can be merged")
        if wanted != "auto":
            # Its lines may be of this format even where the first ones don't show it.
            chosen = [each for each, origin in origins.items() if _may_hold(origin, wanted)]
            form: Format = wanted
        else:
            form = self._only_format(origins)
            chosen = [
                each for each, origin in origins.items() if origin is not None and origin.format == form
            ]
        if not chosen:
            raise FeedPermanentError(f"{path}: no recorded traffic of {form} in it")
        return chosen, form

    def _only_format(self, origins: dict[Path, Origin | None]) -> Format:
        """Return the one format that the files are of; one venue too, unless it is overridden."""
        known = {origin for origin in origins.values() if origin is not None and origin.format is not None}
        formats = {origin.format for origin in known if origin.format is not None}
        if not formats:
            strangers = sorted({origin.venue for origin in origins.values() if origin is not None})
            of = f"traffic of {', '.join(strangers)}" if strangers else "nothing recognised"
            choices = ", ".join(DEFAULT_VENUES)
            raise FeedPermanentError(f"{self.options.path}: {of}; a replay can play {choices}")
        venues = sorted({origin.venue for origin in known})
        if len(formats) > 1 or (len(venues) > 1 and self.options.venue is None and not formats <= OF_TICKS):
            found = ", ".join(venues)
            raise FeedPermanentError(
                f"{self.options.path}: several venues ({found}); give each a feed of its own"
            )
        return formats.pop()


class _Round:
    """One pass through the files."""

    def __init__(
        self,
        ctx: FeedContext,
        paths: list[Path],
        speed: float | Literal["max"],
        new_parser: Callable[[], VenueParser],
        *,
        of_ticks: bool,
    ) -> None:
        self._ctx = ctx
        self._paths = paths
        self._speed = speed
        self._of_ticks = of_ticks
        self._parsers = [new_parser() for _ in paths]
        self._is_connected = [False] * len(paths)
        self._unflushed = 0
        self._frames = 0
        #: Recorded time and trio's time of the first frame.
        self._began: tuple[int, float] | None = None

    async def play(self, path: str) -> None:
        """Play it all; a file without a single frame or message is a `FeedPermanentError`."""
        try:
            with read_merged(self._paths, of_ticks=self._of_ticks) as records:
                for number, record in enumerate(records, 1):
                    await self._play_record(record)
                    if number % _LINES_PER_TURN == 0:
                        await self._flush()
        except OSError as error:
            raise FeedPermanentError(f"{path}: {error}") from error
        await self._flush()
        if not self._frames:
            what = "ticks" if self._of_ticks else "frames"
            raise FeedPermanentError(f"{path}: no {what} in it")

    async def _play_record(self, record: Record) -> None:
        match record.kind:
            case "frame" | "tick":
                await self._wait_until_due(record.at)
                await self._take(record, [self._parsers[record.source]])
            case "message":
                await self._take(record, [self._parsers[record.source]])
            case "body":
                await self._take(record, self._parsers)
            case "opened":
                self._open(record.source)
            case "hole":
                self._parsers[record.source].reset()
                self._pass_on_gaps(self._parsers[record.source])
            case "broken":
                self._refuse(record, FrameError(record.payload.decode("utf-8", "replace")))

    async def _wait_until_due(self, at: int) -> None:
        """Wait until what was recorded at ``at`` is due, counted from the first so that no delay adds up."""
        if self._speed == "max":
            return
        if self._began is None:
            self._began = (at, trio.current_time())
        first_at, started = self._began
        due = started + (at - first_at) / 1e9 / self._speed
        if due > trio.current_time():
            await self._flush()
            await trio.sleep_until(due)

    async def _take(self, record: Record, parsers: list[VenueParser]) -> None:
        for parser in parsers:
            try:
                if record.kind == "body":
                    ticks = parser.parse_body(record.url, record.payload, record.at)
                else:
                    self._frames += 1
                    ticks = parser.parse(record.payload, record.at)
            except FrameError as error:
                ticks = []
                self._refuse(record, error)
            self._pass_on_gaps(parser)
            if ticks and record.kind == "message":
                await self._wait_until_due(max(tick.rts for tick in ticks))
            await self._publish(ticks)

    async def _publish(self, ticks: list[Tick]) -> None:
        for tick in ticks:
            tick.rts = self._ctx.time_ns()
            self._ctx.publish(tick)
            self._unflushed += 1
            if self._unflushed >= _BATCH:
                await self._flush()

    async def _flush(self) -> None:
        self._unflushed = 0
        await self._ctx.flush()

    def _open(self, source: int) -> None:
        """Note that the recorder connected; the second time in a file the venue begins anew."""
        if self._is_connected[source]:
            self._parsers[source].reset()
            self._pass_on_gaps(self._parsers[source])
        self._is_connected[source] = True

    def _pass_on_gaps(self, parser: VenueParser) -> None:
        for channel, symbol in parser.take_gaps():
            self._ctx.gap(channel, symbol)

    def _refuse(self, record: Record, error: FrameError) -> None:
        # Where it is goes with the frame: refusals are counted by their text, and one kind is logged once.
        where = f"{self._paths[record.source].name}:{record.line}: "
        self._ctx.refused(FrameError(str(error), where.encode() + record.payload[:400], kind=error.kind))


def _may_hold(origin: Origin | None, wanted: Format) -> bool:
    # A recorded feed has frames too.
    return origin is None or origin.format in (wanted, "raw")


def _origins(path: str) -> dict[Path, Origin | None]:
    """Look at the files of a path, if there are any; one that can't be read is of no known origin."""
    origins: dict[Path, Origin | None] = {}
    for each in find_files(path):
        try:
            origins[each] = origin_of_file(each)
        except OSError:
            origins[each] = None
    return origins
