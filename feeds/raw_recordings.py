"""A recorded feed (`broker.core.raw_recording`) as a recording that can be played: its ticks, or its frames.

Its ticks need no adapter; they are what the feed made when it was recorded. Its frames go to a parser, as those of any
recorder do. `feeds.raw_playback` gives all that came in to the adapter itself.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from broker.core.errors import FrameError
from broker.core.raw_recording import (
    MAGIC,
    VERSION,
    Answered,
    Begun,
    Event,
    Hole,
    Lost,
    Missing,
    Opened,
    Published,
    Received,
    read_blocks,
)
from broker.core.ticks import Bar, Book, Channel, Quote, Status, Tick, Trade, is_symbol
from feeds.frames import canonical, checked_ns
from feeds.recording_records import Record, opened
from feeds.venue import VenueParser

_PEEK = 4096
_BEGINS = MAGIC + bytes((VERSION, 0, 0, 0))
_TICK = msgspec.msgpack.Decoder(Quote | Trade | Book | Bar | Status)
#: What a record of ticks says, by its first byte.
_IS_TICK, _IS_GAP = b"t", b"g"


def is_raw(head: bytes) -> bool:
    """Tell whether a file that begins so is a recorded feed; the first bytes of it may be damaged."""
    return head.startswith(MAGIC) or _BEGINS in head


def first_of(path: Path) -> Begun | None:
    """Return what a file says of its feed; ``None`` if it is no recorded feed, or no block of it can be read.

    Raises:
        OSError: it can't be read.
    """
    with opened(path) as file, suppress(EOFError, zlib.error, gzip.BadGzipFile):
        if is_raw(file.peek(_PEEK)[:_PEEK]):
            for event in events_of(read_blocks(file.read1)):
                if isinstance(event, Begun):
                    return event
    return None


def read_raw(file: io.BufferedReader, source: int, *, of_ticks: bool) -> Generator[Record]:
    """Yield the records of one file; ``line`` is the event's number, from 1.

    Args:
        of_ticks: the ticks and gaps, each of kind ``tick``; else what came in: ``frame``, ``body``, ``opened``.
            Either way, ``hole`` and ``broken``.
    """
    at = 0
    for number, event in enumerate(events_of(read_blocks(file.read1)), 1):
        at = getattr(event, "at", at) if not isinstance(event, Hole) else at
        if isinstance(event, Hole | Lost | Begun):
            # What another recorder appended has not seen what was between the two.
            if not isinstance(event, Begun):
                yield Record("broken", at, _about(event), "", source, number)
            yield Record("hole", at, b"", "", source, number)
        else:
            made = (_tick_record if of_ticks else _frame_record)(event, at, source, number)
            if made is not None:
                yield made


def events_of(blocks: Iterator[list[Event] | Hole]) -> Iterator[Event | Hole]:
    for found in blocks:
        if isinstance(found, Hole):
            yield found
        else:
            yield from found


def _about(hole: Hole | Lost) -> bytes:
    if isinstance(hole, Lost):
        return f"{hole.events} events were lost when it was recorded".encode()
    return f"damaged: {hole.reason}; {hole.length} bytes from byte {hole.at} on are left out".encode()


def _tick_record(event: Event, at: int, source: int, number: int) -> Record | None:
    if isinstance(event, Published):
        return Record("tick", at, _IS_TICK + event.tick, "", source, number)
    if isinstance(event, Missing):
        return Record("tick", at, _IS_GAP + f"{event.ch} {event.sym}".encode(), "", source, number)
    return None


def _frame_record(event: Event, at: int, source: int, number: int) -> Record | None:
    match event:
        case Received(frame=frame):
            return Record("frame", at, frame, "", source, number)
        case Answered(url=url, body=body):
            return Record("body", at, body, url, source, number)
        case Opened(url=url):
            return Record("opened", at, b"", url, source, number)
    return None


class RawTicksParser(VenueParser):
    """The ticks of one recorded feed. A book is served from a snapshot on, up to the next hole.

    Args:
        venue: instead of the one recorded.
    """

    def __init__(self, venue: str | None = None) -> None:
        self._venue = venue
        self._books: set[str] = set()
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`; ``frame`` is the payload of a record of the kind ``tick``."""
        assert isinstance(frame, bytes)
        if frame[:1] == _IS_GAP:
            channel, _, symbol = frame[1:].decode("utf-8", "replace").partition(" ")
            self._lose(channel, symbol)  # type: ignore[arg-type]  # checked when the block was read
        else:
            tick = self._tick(frame[1:])
            if not isinstance(tick, Book) or self._continues(tick):
                return [tick]
        return []

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: what an answer brought is among the ticks."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        self._gaps += [("book", sym) for sym in sorted(self._books)]
        self._books.clear()

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _tick(self, packed: bytes) -> Tick:
        try:
            tick: Tick = _TICK.decode(packed)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise FrameError(f"not a tick: {exc}", packed, kind=f"not a tick: {exc}") from None
        checked_ns(tick.ts)
        checked_ns(tick.rts)
        if not is_symbol(tick.sym):
            raise FrameError(f"sym: {tick.sym!r:.80} is not VENUE:SYMBOL", packed, kind="not a symbol")
        tick.sym, tick.seq = self._symbol(tick.sym), 0
        return tick

    def _lose(self, channel: Channel, recorded: str) -> None:
        symbol = self._symbol(recorded)
        if channel == "book":
            self._books.discard(symbol)
        self._gaps.append((channel, symbol))

    def _continues(self, book: Book) -> bool:
        if book.kind == "snapshot":
            self._books.add(book.sym)
        return book.sym in self._books

    def _symbol(self, recorded: str) -> str:
        if self._venue is None:
            return recorded
        return canonical(self._venue, recorded.partition(":")[2])
