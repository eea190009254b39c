"""The file that a feed is recorded into: appended to, and followed by a new one when it is full. May block."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from broker.core.books import BookState
from broker.core.encoding import pack_tick
from broker.core.raw_recording import MAGIC, Begun, Event, Lost, Missing, Published, Started, encode_block
from broker.core.ticks import Book

#: How a book begins as MessagePack, behind the head of its map.
_BOOK_HEAD = b"\xa2ch\xa4book"
_unpack = msgspec.msgpack.Decoder(Book).decode
Open = Callable[[Path], BinaryIO]


def _append(path: Path) -> BinaryIO:
    return path.open("ab", buffering=0)


class RawFile:
    """Appends blocks of events to one file; call it in a thread.

    With a bound, a file that has half of it is renamed to ``NAME.1``, in place of the one that was called so, and a new
    one is begun, with a snapshot of each book that goes on in it.

    Attributes:
        path: of the file that is written.
        size: of it, in bytes; 0 while it is not open.
    """

    def __init__(
        self, path: Path, head: Callable[[], Begun], *, most_bytes: int | None = None, open_: Open = _append
    ) -> None:
        """Open nothing yet.

        Args:
            head: makes the first event of each file.
            most_bytes: of both files together; ``None``: no bound.
        """
        self.path = path
        self.size = 0
        self._head = head
        self._half = None if most_bytes is None else most_bytes // 2
        self._open = open_
        self._books = _Books()
        self._handle: BinaryIO | None = None

    def write(self, events: Sequence[Event]) -> int:
        """Append a block; return how many bytes were written.

        Raises:
            OSError: the disk does not take it, or the file is something else. What was written of the block is taken
                back where the disk allows it; where not, a reader skips it.
        """
        block = encode_block(events)
        written = 0
        if self._half is not None and self._handle is not None and self.size + len(block) > self._half:
            self._turn_over()
            written = self._begin(self._books.snapshots())
        elif self._handle is None:
            # A book that was open when something was lost is whole again with the feed's next snapshot.
            self._books = _Books()
            written = self._begin([])
        written += self._write(block)
        if self._half is not None:
            self._books.note(events)
        return written

    def close(self) -> None:
        """Be done with the file; harmless when repeated."""
        handle, self._handle, self.size = self._handle, None, 0
        if handle is not None:
            with suppress(OSError):
                handle.close()

    def _begin(self, books: Sequence[Event]) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not is_raw_file(self.path):
            raise FileExistsError(
                errno.EEXIST, "is there, and no recording of a feed: nothing is written to it", str(self.path)
            )
        self._handle = self._open(self.path)
        self.size = os.path.getsize(self.path)
        if self._half is not None and self.size > self._half:
            self._turn_over()
            self._handle = self._open(self.path)
        block = encode_block([self._head(), *books])
        if self._half is not None and len(block) > self._half // 2:
            # More of books than there is room for ticks.
            block = encode_block([self._head()])
        return self._write(block)

    def _turn_over(self) -> None:
        self.close()
        os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))

    def _write(self, block: bytes) -> int:
        assert self._handle is not None
        left = memoryview(block)
        try:
            while left:
                left = left[self._handle.write(left) :]
        except OSError:
            with suppress(OSError):
                self._handle.truncate(self.size)
            self.close()
            raise
        self.size += len(block)
        return len(block)


class _Books:
    """The books of a recorded feed, as its ticks leave them."""

    def __init__(self) -> None:
        self._books: dict[str, BookState] = {}

    def note(self, events: Sequence[Event]) -> None:
        """Take in what was recorded."""
        for event in events:
            if isinstance(event, Published):
                if _BOOK_HEAD in event.tick[:16]:
                    self._apply(event.tick)
            elif isinstance(event, Started | Lost):
                self._books.clear()
            elif isinstance(event, Missing) and event.ch == "book":
                self._books.pop(event.sym, None)

    def _apply(self, packed: bytes) -> None:
        try:
            tick = _unpack(packed)
            if tick.kind == "snapshot":
                self._books[tick.sym] = BookState()
            if tick.sym in self._books:
                self._books[tick.sym].apply(tick)
        except (msgspec.MsgspecError, ValueError, TypeError):
            # An adapter's mistake, which the broker refuses; no part of a book.
            return

    def snapshots(self) -> list[Event]:
        """Return a tick for each book that is whole."""
        made: list[Event] = []
        for sym, book in self._books.items():
            bids, asks = book.levels()
            tick = Book(sym=sym, ts=book.ts, rts=book.rts, kind="snapshot", bids=bids, asks=asks)
            made.append(Published(pack_tick(tick)))
        return made


def is_raw_file(path: Path) -> bool:
    """Tell whether a file is a recording of a feed, or empty.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return file.read(len(MAGIC)) in (MAGIC, b"")
