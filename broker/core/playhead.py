"""What of a recording a subscription is to get: from which place on, and what it has to be told there. Pure.

Before that place it keeps what a snapshot would show; from there on it passes on every tick, and says what
the recording does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from broker.core.books import BookState
from broker.core.encoding import JSON_OPENS, pack_tick
from broker.core.replay import Item, Plan, Played, Shown, Skipped, Turned
from broker.core.ticks import Book, Channel


class _Head(msgspec.Struct, gc=False):
    """What has to be known of a tick to pass it on."""

    ch: str
    sym: str
    seq: int
    rts: int
    kind: str = ""
    interval: str = ""


# Not strict: nanoseconds are text in JSON.
_json_head = msgspec.json.Decoder(_Head, strict=False).decode
_packed_head = msgspec.msgpack.Decoder(_Head).decode
_json_book = msgspec.json.Decoder(Book, strict=False).decode
_packed_book = msgspec.msgpack.Decoder(Book).decode


def _head_of(raw: bytes) -> _Head:
    return _json_head(raw) if raw[0] == JSON_OPENS else _packed_head(raw)


class _Part:
    """One symbol: where it stands, and until the replay begins what it looks like there.

    Attributes:
        seq: of the last tick, 0 if there was none.
        book: its levels, of a book that is whole.
        newest: of what is no book, the newest tick; of bars one for each interval.
        is_whole: whether the subscriber can make sense of a delta.
    """

    __slots__ = ("book", "is_whole", "newest", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.book: BookState | None = None
        self.newest: dict[str, bytes] = {}
        self.is_whole = False

    def keep(self, head: _Head, raw: bytes) -> None:
        """Take a tick in without passing it on."""
        if head.ch != "book":
            self.newest[head.interval] = raw
        else:
            if head.kind == "snapshot":
                self.book = BookState()
            elif self.seq and head.seq != self.seq + 1:
                self.book = None
            elif head.seq == 1:
                self.book = BookState()
            if self.book is not None:
                self.book.apply(_json_book(raw) if raw[0] == JSON_OPENS else _packed_book(raw))
            self.is_whole = self.book is not None
        self.seq = head.seq

    def shown(self, sym: str) -> Iterable[tuple[str, int, bytes]]:
        """Return the state as a snapshot shows it, and hold it no longer."""
        book, newest, self.book, self.newest = self.book, self.newest, None, {}
        for raw in newest.values():
            yield sym, self.seq, raw
        if book is not None:
            bids, asks = book.levels()
            tick = Book(
                sym=sym, seq=self.seq, ts=book.ts, rts=book.rts, kind="snapshot", bids=bids, asks=asks
            )
            yield sym, self.seq, pack_tick(tick)


class Playhead:
    """Goes over one recording for one subscription.

    Attributes:
        is_playing: whether the place has been reached where the subscriber begins.
    """

    def __init__(self, ch: Channel, wants: Callable[[str], bool], plan: Plan) -> None:
        """``wants`` tells whether a symbol is the subscription's."""
        self.is_playing = False
        self._ch = ch
        self._wants = wants
        self._since, self._after = plan.since, plan.after
        self._parts: dict[str, _Part | None] = {}
        self._epoch = ""
        self._offset = 0

    def turn(self, epoch: str, offset: int) -> list[Item]:
        """Begin a tape of another epoch, behind ``offset``: its ticks are numbered anew."""
        items: list[Item] = []
        if not self.is_playing and self._after is not None and self._epoch == self._after[0]:
            items += self._begin(self._after[1])
        if self.is_playing:
            items += [
                Skipped(self._offset + 1, sym, None, None, "feed_reset")
                for sym, part in self._parts.items()
                if part is not None and part.seq
            ]
        self._parts.clear()
        self._epoch, self._offset = epoch, offset
        if self.is_playing:
            items.append(Turned(offset, epoch))
        elif self._since is None and self._after is None:
            items += self._begin(offset)
        return items

    def _begin(self, offset: int) -> list[Item]:
        """Play from here on: all up to ``offset`` is in the snapshot, or known to the subscriber."""
        self.is_playing = True
        items: list[Item] = [Turned(offset, self._epoch)]
        states = [state for sym, part in self._parts.items() if part is not None for state in part.shown(sym)]
        if self._after is not None:
            return items
        for part in self._parts.values():
            if part is not None and self._ch == "book" and not part.is_whole:
                part.seq = 0  # the subscriber can't make sense of it before its state comes along
        if states:
            items.append(Shown(offset, states))
        return items

    def _part(self, sym: str) -> _Part | None:
        """Return a symbol's part, ``None`` for one that is not wanted."""
        part = self._parts.get(sym)
        if part is None and sym not in self._parts:
            part = self._parts[sym] = _Part() if self._wants(sym) else None
        return part

    def tick(self, offset: int, raw: bytes, at: int | None = None) -> Sequence[Item]:
        """Go over one tick.

        Args:
            offset: its place on the tape.
            raw: it, encoded.
            at: its time in nanoseconds; ``None``: when it was received.

        Raises:
            msgspec.DecodeError: it is not a tick.
        """
        head = _head_of(raw)
        part = self._part(head.sym) if head.ch == self._ch else None
        at = head.rts if at is None else at
        items: list[Item] = []
        # Also by ticks that are not wanted: replays of several channels begin at the same place.
        if not self.is_playing and self._has_come(offset, at):
            items += self._begin(offset - 1 if self._after is None else self._after[1])
        if part is not None and self.is_playing:
            self._pass_on(Played(offset, head.sym, head.seq, at, raw), head, part, items)
        elif part is not None:
            part.keep(head, raw)
        self._offset = offset
        return items

    def _has_come(self, offset: int, at: int) -> bool:
        if self._after is not None:
            return self._epoch == self._after[0] and offset > self._after[1]
        return self._since is None or at >= self._since

    def _pass_on(self, tick: Played, head: _Head, part: _Part, items: list[Item]) -> None:
        if tick.seq <= part.seq:
            return  # in a snapshot already
        if part.seq and tick.seq > part.seq + 1:
            items.append(self._miss(tick.sym, part, tick.seq - 1))
        elif not part.seq and head.ch == "book" and not self._makes_sense(head):
            return  # until the state of the book comes along
        elif not part.seq:
            part.is_whole = True
        if head.kind == "snapshot":
            part.is_whole = True
        part.seq = tick.seq
        items.append(tick)

    def _miss(self, sym: str, part: _Part, last: int) -> Skipped:
        """Say that a symbol's ticks up to ``last`` are not there.

        Right behind what was recorded before: a cursor that is behind the missing ticks means that they were told.
        """
        missing = Skipped(self._offset + 1, sym, part.seq + 1, last, "overflow")
        part.seq, part.is_whole = last, False
        return missing

    def _makes_sense(self, head: _Head) -> bool:
        # Whoever resumes has the book.
        return head.kind == "snapshot" or head.seq == 1 or self._after is not None

    def states(self, offset: int, ticks: Iterable[bytes]) -> Sequence[Item]:
        """Go over what a snapshot would have shown at ``offset``; it helps where ticks are missing before it.

        Raises:
            msgspec.DecodeError: one of them is not a tick.
        """
        items: list[Item] = []
        shown: list[tuple[str, int, bytes]] = []
        if not self.is_playing and self._after is not None and self._has_come(offset, 0):
            # Else what is missing between that place and here would be taken for known.
            items += self._begin(self._after[1])
        for raw in ticks:
            head = _head_of(raw)
            part = self._part(head.sym) if head.ch == self._ch else None
            if part is None:
                continue
            if not self.is_playing:
                if head.seq >= part.seq:
                    part.keep(head, raw)
                continue
            if part.seq and head.seq > part.seq:
                items.append(self._miss(head.sym, part, head.seq))
            if not part.seq or (head.ch == "book" and not part.is_whole):
                shown.append((head.sym, head.seq, raw))
                part.seq, part.is_whole = max(part.seq, head.seq), True
        if shown:
            items.append(Shown(offset, shown))
        return items

    def lose(self, offset: int, ch: Channel, sym: str) -> Sequence[Item]:
        """Note that ticks were missed when this was recorded; nobody knows how many."""
        part = self._part(sym) if ch == self._ch else None
        return (
            [Skipped(offset, sym, None, None, "feed_reset")] if part is not None and self.is_playing else ()
        )

    def end(self) -> list[Item]:
        """Come to the end; whoever wanted to begin behind it begins here."""
        if self.is_playing or not self._epoch:
            return []
        return self._begin(self._offset if self._after is None else self._after[1])
