"""A subscription's replay: what has been read of a recording and not been sent yet. Pure.

The reader puts in (`put`), and waits while `is_full`; the outbox takes out as fast as the wire takes it. So the file
is read at the subscriber's own speed, and nothing is ever dropped here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from msgspec import Struct

from broker.core.mailbox import GapReason
from broker.core.topics import Topic

if TYPE_CHECKING:
    from broker.core.messages import ReplayRequest
    from broker.core.subscription import Subscription

#: What may be read ahead of the subscriber; a single larger tick is let in nevertheless.
AHEAD_TICKS = 2048
AHEAD_BYTES = 256 << 10


#: Behind everything on any tape.
END = 2**63


class Played(Struct, gc=False):
    """A tick of the recording, encoded; ``at`` is its recorded time, in nanoseconds of Unix time."""

    offset: int
    sym: str
    seq: int
    at: int
    tick: bytes


class Skipped(Struct):
    """Ticks that the recording does not have, or (nothing known) a place where the counting begins anew.

    ``offset`` is right behind what it has before them.
    """

    offset: int
    sym: str
    first: int | None
    last: int | None
    reason: GapReason


class Shown(Struct):
    """What a snapshot shows at this place: the state of symbols, as (symbol, seq, encoded tick)."""

    offset: int
    states: list[tuple[str, int, bytes]]


class Turned(Struct):
    """From here on it is a tape of another epoch; nothing of it has been played yet."""

    offset: int
    epoch: str


Item: TypeAlias = Played | Skipped | Shown | Turned


class Plan(Struct, frozen=True):
    """What a subscriber asked for, checked.

    Attributes:
        recording: its name.
        speed: times the recorded one; ``None``: as fast as the subscriber reads.
        since: begin at what was received then, nanoseconds of Unix time; ``None``: with the first tick.
        after: (epoch, offset) behind which to go on, instead; the subscriber has what is before.
        venues: symbols of these may be named, whether the broker knows them or not; ``None``: of any.
        is_over: whether the subscriber has seen it to its end already: it is live that it resumes.
    """

    recording: str
    speed: float | None
    since: int | None
    after: tuple[str, int] | None
    venues: frozenset[str] | None = None
    is_over: bool = False

    def covers(self, venue: str) -> bool:
        """Tell whether symbols of a venue may be in the recording."""
        return self.venues is None or venue == "*" or venue in self.venues


class Replays(Protocol):
    """What a session needs of those who read recordings."""

    def plan(self, request: ReplayRequest, cursor: str | None) -> Plan:
        """Check what is asked for.

        Args:
            cursor: where the subscriber resumes, if it does: within the replay, or live behind it.

        Raises:
            RequestError: there is no such recording, or no more can be played at a time.
        """

    def start(self, sub: Subscription, plan: Plan, wants: Callable[[str], bool]) -> Replay:
        """Begin to read for a subscription; ``wants`` tells whether a symbol is the subscription's."""


def _ignore() -> None:
    return None


class Replay:
    """One subscription's replay, between its reader and the outbox.

    Attributes:
        plan: what is played.
        turn: how many tapes have been begun; those of one recording are played one after the other.
        epoch: of the tape that is being played; empty before the first.
        position: the offset up to which everything has been sent.
        sent: that of the last tick that was.
        ahead: the offset up to which everything has been read.
        heard: the ``seq`` of the last tick sent of each symbol, by a topic that stands for it in gaps.
        is_read: whether the reader has come to the end: what follows is live, unless more is recorded before.
        is_final: whether nothing can be recorded behind that end.
        begin: where the broker's tape stood when it began.
        on_room: called when something has been taken.
        cancel: ends the reading.
    """

    def __init__(self, plan: Plan, begin: int, own_epoch: str) -> None:
        """``own_epoch`` is that of the broker's tape."""
        self.plan = plan
        self._own_epoch = own_epoch
        self.turn = 0
        self.epoch = ""
        self.position = self.ahead = self.sent = 0
        self.heard: dict[str, int] = {}
        self.is_read = self.is_final = False
        self.begin = begin
        self.on_room: Callable[[], None] = _ignore
        self.cancel: Callable[[], None] = _ignore
        self._items: deque[Item] = deque()
        self._topics: dict[str, Topic] = {}
        self._bytes = 0

    @property
    def live_position(self) -> int:
        """The offset on the broker's tape up to which everything has been sent, or was there before it began."""
        return self.position if self.epoch == self._own_epoch else self.begin

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait."""
        return len(self._items) >= AHEAD_TICKS or self._bytes >= AHEAD_BYTES

    def put(self, item: Item) -> None:
        """Add what has been read, in order."""
        self._items.append(item)
        self._bytes += _size(item)
        self.ahead = max(self.ahead, item.offset) if not isinstance(item, Turned) else item.offset

    def read_to(self, offset: int) -> None:
        """Note that there is nothing for this subscription up to ``offset``, inclusive, but what was put in."""
        self.ahead = max(self.ahead, offset)
        self._advance()

    def pass_by(self, turn: int, offset: int) -> None:
        """Note that another replay of the recording has sent the tick of a place: nothing here can have it.

        Else the cursor they share would stay before it, and a resume would bring it twice.
        """
        if turn == self.turn and not self._items and self.ahead == offset - 1:
            self.read_to(offset)

    def head(self) -> Item | None:
        """Return the next item, leaving it there."""
        return self._items[0] if self._items else None

    def next_place(self) -> tuple[int, int]:
        """Return (turn, offset) of what is sent next; by it replays of one recording are merged."""
        if not self._items:
            return self.turn, END if self.is_final else self.ahead + 1
        item = self._items[0]
        return self.turn, END if isinstance(item, Turned) else item.offset

    def pop(self) -> Item:
        """Take the next item, as sent."""
        item = self._items.popleft()
        self._bytes -= _size(item)
        if isinstance(item, Turned):
            self.turn += 1
            self.epoch, self.position = item.epoch, item.offset
            self.heard.clear()
        elif isinstance(item, Played):
            self.heard[item.sym] = item.seq
            self.sent = item.offset
            # What is next may be a state that is valid right there.
            self.position = max(self.position, item.offset)
        elif isinstance(item, Shown):
            self.heard.update((sym, seq) for sym, seq, _ in item.states)
        elif item.last is not None:
            self.heard[item.sym] = item.last
        self._advance()
        self.on_room()
        return item

    def _advance(self) -> None:
        """Say how far everything has been sent: before the next item, or as far as was read."""
        if not self._items:
            self.position = max(self.position, self.ahead)
        elif not isinstance(self._items[0], Turned):
            self.position = max(self.position, self._items[0].offset - 1)

    def take(self, ticks: int, size: int, upto: tuple[int, int]) -> list[bytes]:
        """Take ticks up to the next item that is none, at most so many, and bytes but for a single one.

        Args:
            upto: (turn, offset), inclusive; what lies behind it has to wait for another replay.
        """
        taken: list[bytes] = []
        while self._items and len(taken) < ticks:
            item = self._items[0]
            if not isinstance(item, Played) or (self.turn, item.offset) > upto:
                break
            size -= len(item.tick)
            if size < 0 and taken:
                break
            taken.append(item.tick)
            self.pop()
        return taken

    def topic(self, ch: str, sym: str) -> Topic:
        """Return what stands for a symbol in gaps; the broker itself may not know the symbol."""
        topic = self._topics.get(sym)
        if topic is None:
            topic = self._topics[sym] = Topic(ch, sym)  # type: ignore[arg-type]  # a checked channel
        return topic


def _size(item: Item) -> int:
    if isinstance(item, Played):
        return len(item.tick)
    return sum(len(tick) for _, _, tick in item.states) if isinstance(item, Shown) else 0
