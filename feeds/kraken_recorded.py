"""Kraken's frames as a recording holds them: of either API, which the frames themselves show. Pure."""

from __future__ import annotations

import re

from broker.core.ticks import Channel, Tick
from feeds.kraken_parser import KrakenParser
from feeds.kraken_v1_frames import KrakenV1Parser
from feeds.kraken_v2_frames import KrakenV2Parser
from feeds.venue import VenueParser

#: How much of a frame is looked at; the names of an array are at its end.
_ENOUGH = 4096
_V1 = re.compile(
    rb'"event"\s*:\s*"(?:systemStatus|subscriptionStatus|heartbeat)"'
    rb'|\A\s*\[\s*\d.*"(?:ticker|trade|spread|book(?:-\d+)?|ohlc(?:-\d+)?)"\s*,\s*"[A-Za-z0-9.]+\\?/[A-Za-z0-9.]+"\s*\]\s*\Z',
    re.DOTALL,
)
_V2 = re.compile(rb'"channel"\s*:\s*"(?:status|heartbeat|instrument|book|ticker|trade|ohlc)"')
_V2_NEWS = re.compile(rb'"type"\s*:\s*"(?:snapshot|update)"')
_V2_PAIR = re.compile(rb'"(?:symbol|connection_id|quote_precision)"\s*:')


def is_v1(frame: bytes) -> bool:
    """Tell whether a frame can only be one of Kraken's v1 API."""
    return _V1.search(_ends(frame)) is not None


def is_v2(frame: bytes) -> bool:
    """Tell whether a frame can only be one of Kraken's v2 API; a heartbeat or an answer alone doesn't show it."""
    ends = _ends(frame)
    return all(mark.search(ends) for mark in (_V2, _V2_NEWS, _V2_PAIR))


def _ends(frame: bytes) -> bytes:
    return frame if len(frame) <= 2 * _ENOUGH else frame[:_ENOUGH] + frame[-_ENOUGH:]


class RecordedKrakenParser(VenueParser):
    """The frames of one recorded connection; the first one that shows its API decides for the connection."""

    def __init__(self, venue: str = "KRAKEN") -> None:
        self._venue = venue
        self._parser: KrakenParser = KrakenV2Parser(venue)
        self._is_decided = False

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        if not self._is_decided:
            self._decide(frame if isinstance(frame, bytes) else frame.encode("utf-8", "replace"))
        return self._parser.parse(frame, rts)

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: this venue sends its snapshots over the WebSocket."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        self._parser.reset()

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        return self._parser.take_gaps()

    def _decide(self, frame: bytes) -> None:
        if is_v1(frame):
            self._parser = KrakenV1Parser(self._venue)
            self._is_decided = True
        elif is_v2(frame):
            self._is_decided = True
