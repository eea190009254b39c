"""Ticks in files: one JSON object a line, or a row of a table that was made one (`feeds.tables`). Pure.

A line is as `broker.core.tick_lines` says, but that ``ts`` has to be there, and that times may also be RFC 3339
(``"2024-08-08T23:55:00.25Z"``). ``rts``, where it is there, is when it is played; else that is ``ts``. What
``tapecast watch --json`` writes between ticks may stand between them.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from broker.core.errors import FrameError
from broker.core.requests import show
from broker.core.tick_lines import LineError, TickLines
from broker.core.ticks import Channel, Tick, iso_to_ns
from feeds.frames import canonical, decode
from feeds.venue import VenueParser

# Safe on any JSON: within a string a quote is escaped, so this can only be a key.
_ISO = re.compile(rb'"(ts|rts|start)"(\s*:\s*)"([0-9]{4}-[^"\\]{1,60})"')
_MESSAGE = re.compile(rb'\{\s*"type"\s*:')
_HAS_TS = re.compile(rb'"ts"\s*:\s*(?!null)')
_RTS, _TS = (re.compile(rb'"%b"\s*:\s*"?([^",}\s]{1,60})' % name) for name in (b"rts", b"ts"))
_LAST_NS = 2**63 - 1
TIME_WANTED = (
    'nanoseconds since 1970, e.g. "1700000000000000000", or RFC 3339, e.g. "2024-08-08T23:55:00.25Z"'
)


class _Message(Struct):
    type: str
    ch: str | None = None
    sym: str | None = None


_GAP = msgspec.json.Decoder(_Message)


class TickFileParser(VenueParser):
    """The ticks of one file.

    Args:
        venue: instead of those in the file; ``None`` keeps them, several in one file too.
    """

    def __init__(self, venue: str | None = None) -> None:
        self._venue = venue
        self._lines = TickLines(None)

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`; a tick's ``rts`` is when it was received, as far as the file says."""
        line = frame.encode() if isinstance(frame, str) else frame
        if _MESSAGE.match(line):
            self._take_message(line)
            return []
        try:
            tick = self._lines.parse(_with_plain_times(line), 0, 0)
        except LineError as error:
            # Where it is, who reads the file knows.
            text = f"{error.field}{': ' if error.field else ''}{error.problem}"
            raise FrameError(text, frame, kind=error.kind) from None
        if not _HAS_TS.search(line):
            raise FrameError(f"ts: is missing; in a file it must be {TIME_WANTED}", frame, kind="no ts")
        tick.rts = time_of(line, tick.ts)
        if self._venue is not None:
            tick.sym = canonical(self._venue, tick.sym.partition(":")[2])
        return [tick]

    def _take_message(self, line: bytes) -> None:
        """Look at a line of ``tapecast watch --json`` that is no tick: a gap breaks its book."""
        told = decode(_GAP, line)
        if told.type == "gap" and told.ch == "book" and told.sym is not None:
            self._lines.lose({told.sym})

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: such a file has no HTTP answers."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        self._lines.reset()

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps = self._lines.take_gaps()
        if self._venue is None:
            return gaps
        return [(channel, canonical(self._venue, sym.partition(":")[2])) for channel, sym in gaps]


def time_of(line: bytes, otherwise: int) -> int:
    """Return when a line was received, or happened, in nanoseconds; ``otherwise`` where it doesn't say that."""
    found = _RTS.search(line) or _TS.search(line)
    if found is None:
        return otherwise
    text = found[1].decode("utf-8", "replace")
    try:
        at = int(text) if text.isascii() and text.isdigit() else iso_to_ns(text)
    except (ValueError, OverflowError):
        return otherwise
    return at if 0 <= at <= _LAST_NS else otherwise


def _with_plain_times(line: bytes) -> bytes:
    """Return the line with its RFC 3339 times as nanoseconds.

    Raises:
        FrameError: what looks like one is none.
    """
    return _ISO.sub(_plain, line) if b"-" in line else line


def _plain(match: re.Match[bytes]) -> bytes:
    text = match[3].decode("utf-8", "replace")
    try:
        at = iso_to_ns(text)
    except (ValueError, OverflowError):
        field = match[1].decode()
        raise FrameError(
            f"{field}: {show(text)} is not right: it must be {TIME_WANTED}", match.string, kind=field
        ) from None
    return b'"%b"%b"%d"' % (match[1], match[2], at)
