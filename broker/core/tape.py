"""The tape: every tick gets its number, its place, and is kept for a while.

``seq`` counts the ticks of one topic, ``offset`` those of the whole tape; both start at 1. A cursor is
``<epoch>-<offset>``: everything up to and including that offset has been seen. ``<epoch>-<offset>~<n>`` makes an
exception of the last n: what of them a ``max_rate`` held back may not have been seen, all else has. The epoch is
new with each tape, so a cursor of an earlier life is never mistaken for one of this.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from broker.core.conflation import conflation_key
from broker.core.encoding import JSON_OPENS, pack_tick, read_tick, tick_to_json
from broker.core.history import History, HistoryLimits
from broker.core.ticks import Bar, Book, Tick
from broker.core.topics import Topic, Topics


class Entry(msgspec.Struct, gc=False, eq=False):
    """A tick on the tape, shared by all mailboxes that hold it. Treated as immutable.

    Attributes:
        key: what a newer entry must share to take this one's place in a queue.
        at: when it was put on the tape, in seconds of the broker's clock.
        size: of the first encoding, in bytes; by this queues and frames are measured, whatever the codec.
        packed: the tick as MessagePack; empty until it is needed.
        json: the tick as JSON; empty until it is needed. One of the two is there from the start.
    """

    # First, beside the reference count: a delivery looks at nothing else.
    json: bytes
    packed: bytes
    topic: Topic
    key: Hashable
    seq: int
    offset: int
    at: float
    tick: Tick
    size: int


#: Ticks that were put on the tape: whose they are, and each as an entry or, if the topic is plain, as its bytes.
Appended: TypeAlias = tuple[list[Topic], list[Entry | bytes]]


class Tape:
    """Numbers ticks, keeps the newest state of each topic and a bounded history. Pure."""

    def __init__(self, epoch: str, topics: Topics, limits: HistoryLimits) -> None:
        """``epoch`` must never have been used before, and has no ``-`` in it."""
        self.epoch = epoch
        self.topics = topics
        self.history = History(limits, topics.everything)
        self.offset = 0
        #: Ticks that an adapter filled with what no codec can carry; they are not on the tape.
        self.malformed = 0
        self._cursor_offset, self._cursor = 0, f"{epoch}-0"

    def append(self, ticks: Iterable[Tick], at: float) -> Appended:
        """Number a batch, in order, and return it.

        Args:
            ticks: their ``seq`` is set here.
            at: now, in seconds of the broker's clock; never earlier than the last call's.
        """
        items: list[Entry | bytes] = []
        topics: list[Topic] = []
        kept: list[bytes] = []
        by_type, offset, keeps = self.topics.by_type, self.offset, self.history.keeps
        for tick in ticks:
            topic = None
            packed = json = b""
            try:
                topic = by_type[type(tick)].get(tick.sym) or self._new_topic(tick)
                seq = tick.seq = topic.seq + 1
                if topic.wants_json:
                    json = tick_to_json(tick)
                else:
                    packed = pack_tick(tick)
                if topic.book is not None:
                    topic.book.apply(tick)  # type: ignore[arg-type]  # a topic of ch "book" gets Books
                    topic.rendered = None
            except (TypeError, ValueError, OverflowError, AttributeError, LookupError):
                # Before anything has been counted: an adapter's mistake costs this tick only.
                self.malformed += 1
                if topic is not None:
                    self.topics.discard_unused(topic)
                continue
            if seq == 1:
                self.topics.learn(topic)
            offset += 1
            topic.seq = seq
            topic.offset = offset
            encoded = json or packed
            if topic.is_plain:
                topic.newest = None
                topic.encoded = encoded
                items.append(encoded)
            else:
                entry = Entry(json, packed, topic, topic, seq, offset, at, tick, len(encoded))
                items.append(_keep_newest(topic, entry))
            topics.append(topic)
            if keeps:
                kept.append(encoded)
                topic.offsets.append(offset)
            else:
                topic.forgotten = offset
        self.offset = offset
        if keeps:
            self.history.add(kept, topics, at)
        else:
            self.history.skip(offset)
        return topics, items

    def _new_topic(self, tick: Tick) -> Topic:
        if not isinstance(tick.sym, str):
            raise TypeError(f"sym: {tick.sym!r} is not text")
        return self.topics.get(tick.ch, tick.sym)

    def snapshot(self, topic: Topic, at: float) -> list[Entry]:
        """Return the topic's whole present state: none before its first tick, usually one entry.

        None of a book that is not known (see `reset`): an old one would be wrong, and an empty one as well.
        The book of a topic is one tick of kind ``snapshot`` with the ``seq`` it is valid at; made once
        between two changes, so that a crowd that arrives together shares it.
        """
        if not topic.seq or topic.is_lost:
            return []
        if topic.book is None:
            return (
                [topic.newest or self._recall_newest(topic)]
                if topic.is_single
                else list(topic.current.values())
            )
        if topic.rendered is None:
            bids, asks = topic.book.levels()
            ts, rts = topic.book.ts, topic.book.rts
            tick = Book(sym=topic.sym, seq=topic.seq, ts=ts, rts=rts, kind="snapshot", bids=bids, asks=asks)
            packed = pack_tick(tick)
            topic.rendered = Entry(b"", packed, topic, topic, topic.seq, topic.offset, at, tick, len(packed))
        return [topic.rendered]

    def reset(self, topic: Topic) -> None:
        """Note that the feed has missed something of a topic, behind all that is on the tape; it matters for books.

        From here to the feed's next snapshot the book is not known. Deltas in between, which a feed should not
        publish, are ticks like others: numbered, kept, and handed to who wants every tick; but they make no book.
        """
        if topic.book is None:
            return
        topic.book.lose()
        topic.rendered = None
        resets = topic.resets
        # Nothing has come since the last one: nobody can have resumed in between with a book.
        if not resets or resets[-1] < topic.offset:
            self.history.trim(topic)
            del resets[: bisect_left(resets, topic.forgotten)]
            resets.append(self.offset)

    def resets_since(self, topic: Topic, offset: int) -> Sequence[int]:
        """Return where on the tape a topic's book was lost, oldest first, for who knows the tape up to ``offset``.

        A reset at that very offset is among them: it came behind the tick, and may not have been told.
        """
        resets = topic.resets
        return resets[bisect_left(resets, offset) :]

    def _recall_newest(self, topic: Topic) -> Entry:
        """Make the entry of a plain topic's newest tick; a crowd that arrives together shares it."""
        encoded, offset = topic.encoded, topic.offset
        json, packed = (encoded, b"") if encoded[0] == JSON_OPENS else (b"", encoded)
        at, tick = self.history.time_of(offset), read_tick(encoded)
        topic.newest = Entry(json, packed, topic, topic, topic.seq, offset, at, tick, len(encoded))
        return topic.newest

    def cursor(self, offset: int | None = None, since: int | None = None) -> str:
        """Return the cursor of an offset, of the newest one without.

        Args:
            offset: everything up to it has been sent.
            since: but for ticks behind this one, if that is less, which a ``max_rate`` holds back.
        """
        if offset is None:
            offset = self.offset
        if since is not None and since < offset:
            return f"{self.epoch}-{offset}~{offset - since}"
        if offset != self._cursor_offset:
            # One round of the fan-out sends the same cursor to everybody.
            self._cursor_offset, self._cursor = offset, f"{self.epoch}-{offset}"
        return self._cursor

    def parse_cursor(self, cursor: str) -> int | None:
        """Return a cursor's offset, or ``None`` for one that this tape did not give out."""
        place = self.parse_place(cursor)
        return None if place is None else place[0]

    def parse_place(self, cursor: str) -> tuple[int, int] | None:
        """Return a cursor's offset, and since when ticks up to there may not have been sent: see `cursor`."""
        epoch, dash, number = cursor.rpartition("-")
        number, tilde, held = number.partition("~")
        numbers = [number, held] if tilde else [number]
        if not dash or epoch != self.epoch or not all(map(_is_number, numbers)):
            return None
        offset = int(number)
        since = offset - int(held or 0)
        return (offset, since) if 0 <= since <= offset <= self.offset else None

    def first_after(self, topic: Topic, offset: int) -> int | None:
        """Return the ``seq`` of the topic's first tick behind ``offset``: ``seq + 1`` if there is none yet.

        Returns:
            ``None`` if the history no longer says: ticks behind ``offset`` have been forgotten.
        """
        self.history.trim(topic)
        if topic.forgotten > offset:
            return None
        return topic.seq + 1 - len(topic.offsets) + bisect_right(topic.offsets, offset)


def _keep_newest(topic: Topic, entry: Entry) -> Entry:
    """Have the topic show its newest tick; return it, with what it shares with those it may replace."""
    if topic.is_single:
        topic.newest = entry
    else:
        tick = entry.tick
        entry.key = conflation_key(topic, tick)
        topic.current[tick.interval if type(tick) is Bar else ""] = entry
    return entry


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19
