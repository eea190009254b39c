"""Messages and stream entries that other programs write, on their way to the broker: payloads to ticks.

A payload is one tick as a JSON object, several of them a line each or as an array, or the same in MessagePack: a map,
or an array of maps. What a tick has to look like is in `broker.core.tick_lines`; ``ch`` and ``sym`` may be left out
where the address of the message says them, and may not say anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec
import trio
from msgspec import Raw

from broker.core.errors import FrameError
from broker.core.lines import MOST_LINE_BYTES
from broker.core.requests import show
from broker.core.tick_lines import LineError, TickLines
from broker.core.ticks import Book, Channel, Tick
from feeds.addresses import Address
from feeds.base import FeedContext

Format: TypeAlias = Literal["json", "msgpack"]

#: Ticks of one message that are looked at in one go: about a millisecond, in which nobody else has a turn.
SLICE_TICKS = 128

#: A quotation mark within a text is escaped, so this is found in front of a value only.
_HAS_CH = re.compile(rb'"ch"\s*:').search
_HAS_SYM = re.compile(rb'"sym"\s*:').search
_ARRAY: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
_ANYTHING: msgspec.json.Decoder[Raw] = msgspec.json.Decoder(Raw)
_Fields: TypeAlias = dict[str, str | int | float | bool | None | list[list[str]]]
_MAPS: msgspec.msgpack.Decoder[_Fields | list[_Fields]] = msgspec.msgpack.Decoder(_Fields | list[_Fields])


class Source:
    """One address that messages come from, and what it says of their ticks.

    Args:
        name: for errors.
        address: what it says.
        venue: of the symbol.
    """

    __slots__ = ("ch", "head_both", "head_ch", "head_sym", "name", "sym")

    def __init__(self, name: str, address: Address, venue: str) -> None:
        self.name = name
        self.ch = address.ch
        self.sym = None if address.symbol is None else f"{venue}:{address.symbol}"
        self.head_ch = b"" if self.ch is None else b'"ch":%b,' % msgspec.json.encode(self.ch)
        self.head_sym = b"" if self.sym is None else b'"sym":%b,' % msgspec.json.encode(self.sym)
        self.head_both = self.head_ch + self.head_sym

    def completed(self, line: bytes) -> bytes:
        """Return an object's text with the fields that it leaves out because the address says them."""
        if not self.head_both:
            return line
        head = self.head_both
        if b'"ch"' in line and _HAS_CH(line):
            head = self.head_sym
        if b'"sym"' in line and _HAS_SYM(line):
            head = head.removesuffix(self.head_sym)
        if not head or not line.startswith(b"{"):
            return line
        rest = line[1:].lstrip()
        return b"{" + (head[:-1] if rest.startswith(b"}") else head) + rest


class MessageIntake:
    """Publishes what messages bring, and knows which topics they have served.

    Attributes:
        ctx: where to.
    """

    def __init__(self, ctx: FeedContext, ticks: TickLines, payload_format: Format) -> None:
        """``ticks`` remembers the books; it may be shared by several intakes of one feed."""
        self.ctx = ctx
        self._ticks = ticks
        self._format = payload_format
        self._served: set[tuple[Channel, str]] = set()

    async def take(self, source: Source, payload: bytes, place: str = "") -> None:
        """Publish the ticks of one message; what is none is refused, and the rest goes on.

        A message is taken as a whole, even if this is cancelled meanwhile; others have a turn during a long one.

        Args:
            place: within the source, for errors, such as `` 1700000000000-0``.
        """
        try:
            lines = _LINES[self._format](payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            self.refuse(source, place, f"not {_NAMES[self._format]}: {exc}", payload)
            return
        if len(lines) == 1:
            self.take_object(source, lines[0], place)
            return
        for number, line in enumerate(lines, 1):
            self.take_object(source, line, place, number)
            if number % SLICE_TICKS == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()

    def take_object(self, source: Source, line: bytes, place: str = "", number: int = 0) -> None:
        """Publish the tick of one JSON object.

        Args:
            place: as in `take`.
            number: of the object within its message; 0 if it is the only one.
        """
        ctx = self.ctx
        try:
            tick = self._ticks.parse(source.completed(line), ctx.time_ns(), number)
            if (source.sym is not None and tick.sym != source.sym) or (
                source.ch is not None and tick.ch != source.ch
            ):
                self._misplaced(source, tick, line, number)
        except LineError as error:
            within = f"line {number}: " if number else ""
            field = f"{error.field}: " if error.field else ""
            text = f"{source.name}{place}: {within}{field}{error.problem}"
            ctx.refused(FrameError(text, error.frame, kind=error.kind))
            self._tell_gaps()
        else:
            self._served.add((tick.ch, tick.sym))
            ctx.publish(tick)

    def refuse(self, source: Source, place: str, problem: str, payload: bytes) -> None:
        """Refuse a message as a whole; books that it may have been a part of are given up."""
        if source.ch is None or source.ch == "book":
            if source.sym is None:
                self._ticks.reset()
            else:
                self._ticks.lose((source.sym,))
        kind = problem.partition(":")[0]
        self.ctx.refused(FrameError(f"{source.name}{place}: {problem}", payload, kind=kind))
        self._tell_gaps()

    def abandon(self) -> None:
        """Say that ticks may be missing of everything that was served: a gap for each topic."""
        self._ticks.lose({sym for ch, sym in self._served if ch == "book"})
        for ch, sym in sorted({*self._served, *self._ticks.take_gaps()}):
            self.ctx.gap(ch, sym)
        self._served.clear()

    def _misplaced(self, source: Source, tick: Tick, line: bytes, number: int) -> None:
        """Refuse a tick of something else than its address says.

        Raises:
            LineError: always.
        """
        if type(tick) is Book:
            self._ticks.lose((tick.sym,))
        field, value, wanted = (
            ("sym", tick.sym, source.sym)
            if tick.sym != source.sym is not None
            else ("ch", tick.ch, source.ch)
        )
        problem = f"{show(value)} is not right: {source.name} is for {wanted}"
        raise LineError(number, field, problem, line, kind=f"{field} is not that of its address")

    def _tell_gaps(self) -> None:
        for topic in self._ticks.take_gaps():
            self._served.discard(topic)
            self.ctx.gap(*topic)


def _json_objects(payload: bytes) -> list[bytes]:
    """Cut a payload into the texts of its objects.

    Raises:
        ValueError: it is too long, or an array that does not end.
    """
    _check_length(payload)
    payload = payload.strip()
    if payload.startswith(b"["):
        return [bytes(each) for each in _ARRAY.decode(payload)]
    if b"\n" not in payload or _is_one(payload):
        return [payload]
    return [line.strip() for line in payload.split(b"\n") if line.strip()]


def _is_one(payload: bytes) -> bool:
    """Tell whether a payload of several lines is one object, written over them."""
    try:
        _ANYTHING.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _msgpack_objects(payload: bytes) -> list[bytes]:
    """Return the maps of a payload as JSON.

    Raises:
        ValueError: it is too long, or has something else than maps of texts, numbers and levels.
    """
    _check_length(payload)
    maps = _MAPS.decode(payload)
    return [msgspec.json.encode(each) for each in ([maps] if isinstance(maps, dict) else maps)]


def _check_length(payload: bytes) -> None:
    if len(payload) > MOST_LINE_BYTES:
        raise ValueError(f"{len(payload)} bytes are too long, {MOST_LINE_BYTES} are the most")


_LINES: dict[Format, Callable[[bytes], list[bytes]]] = {"json": _json_objects, "msgpack": _msgpack_objects}
_NAMES: dict[Format, str] = {"json": "ticks in JSON", "msgpack": "ticks in MessagePack"}
