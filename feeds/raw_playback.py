"""Gives an adapter again what it was given when it was recorded, and holds what it makes of it against the recording.

All that came in (frames, answers, failures, the time) comes in again, in the recorded order, whoever asks for it.
Trio's clock should be one that jumps (`trio.testing.MockClock`): timers of the adapter then fire where they did, and
nothing is waited for. What an adapter doesn't take within a minute of that clock is left out. `FeedContext.wanted`
wants everything.

What can't be told: a feed that gets its ticks otherwise than through its context (a simulation, a program) has
nothing to be given (`has_input`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
import trio

from broker.core.answers import json_of
from broker.core.encoding import pack_tick
from broker.core.errors import FeedError, FrameError
from broker.core.raw_recording import (
    Answered,
    Begun,
    Broke,
    Clocked,
    Ended,
    Event,
    Failed,
    Hole,
    Lost,
    Missing,
    Opened,
    Published,
    Received,
    Rewound,
    Started,
    read_blocks,
)
from broker.core.ticks import Channel, Tick
from feeds.base import Feed, Log, VenueSocket
from feeds.raw_recordings import events_of
from feeds.recording_records import opened

#: How long something that came in waits for somebody to take it.
PATIENCE_S = 60.0
_CLOCK_PATIENCE_S = 0.001
_Input: TypeAlias = Opened | Received | Answered | Failed
_Output: TypeAlias = Published | Missing | Rewound
_E = TypeVar("_E", bound=Event)


class Verdict(msgspec.Struct):
    """What came of it.

    Attributes:
        lives: of the feed that were played.
        frames: frames and answers that the adapter took.
        ticks: that it made, and that are those of the recording.
        refused: frames that it refused.
        ignored: events that it did not take.
        holes: places where the recording is damaged, or something was lost; the rest of that life is left out.
        expected, found: the first thing that is not the same; ``None`` for nothing on that side.
        differs: whether there is one.
    """

    lives: int = 0
    frames: int = 0
    ticks: int = 0
    refused: int = 0
    ignored: int = 0
    holes: int = 0
    differs: bool = False
    expected: str | None = None
    found: str | None = None


def has_input(path: Path) -> bool:
    """Tell whether there is anything to be given to an adapter.

    Raises:
        OSError: the file can't be read.
    """
    with opened(path) as file:
        return any(isinstance(event, _Input) for event in events_of(read_blocks(file.read1)))


async def verify(path: Path, feed: Feed, log: Log) -> Verdict:
    """Play a recorded feed's input to the feed, up to the first difference.

    Raises:
        OSError: the file can't be read.
    """
    with opened(path) as file:
        stage = _Stage(events_of(read_blocks(file.read1)), feed, log)
        while not stage.verdict.differs and stage.go_to_life():
            await stage.play_life()
        return stage.verdict


class _Stage:
    """The recording, read on as it is needed; and, for the feed, its context.

    What came in and what went out are two queues: an adapter may be a frame behind what the recording did.
    """

    def __init__(self, events: Iterator[Event | Hole], feed: Feed, log: Log) -> None:
        self.verdict = Verdict()
        self.log = log
        self.wanted = _Everything(feed)
        self._events = events
        self._feed = feed
        self._inputs: deque[Event] = deque()
        self._outputs: deque[_Output] = deque()
        #: What ended the life that is read; nothing behind it is.
        self._end: Event | Hole | None = None
        self._is_at_end = False
        self._next_life: Started | None = None
        self._scope = trio.CancelScope()
        self._moved = trio.Event()
        self._at = 0
        self._began: tuple[int, float] | None = None

    # ── lives ────────────────────────────────────────────────────────────────────────────────────

    def go_to_life(self) -> bool:
        """Go to where the next life of the feed begins; tells whether there is one."""
        self._inputs.clear()
        self._outputs.clear()
        while self._next_life is None:
            event = next(self._events, None)
            if event is None:
                return False
            self._note_hole(event)
            if isinstance(event, Started):
                self._next_life = event
        self._at = self._next_life.at
        self._next_life = self._end = None
        return True

    async def play_life(self) -> None:
        """Run the feed until the life has no more to give it, or it ends."""
        self.verdict.lives += 1
        self._began = None
        self.wanted.begin_anew()
        with trio.CancelScope() as self._scope:
            try:
                await self._feed.run(self)
            except Exception as exc:
                # As its supervisor would: whatever an adapter raises ends this life, and the next one is played.
                self.log.info("the feed's life ended", error=f"{type(exc).__name__}: {exc}")
        if not self.verdict.differs and (rest := self._peek_output()) is not None and not self._is_torn:
            self._differ(rest, None)

    @property
    def _is_torn(self) -> bool:
        return isinstance(self._end, Hole | Lost)

    @property
    def _may_go_on(self) -> bool:
        """Whether the adapter may have had something to make that was not recorded any more."""
        was_ended = isinstance(self._end, Ended) and self._end.how == "cancelled"
        return self._is_torn or self._is_at_end or was_ended

    def _note_hole(self, event: Event | Hole) -> None:
        self.verdict.holes += isinstance(event, Hole | Lost)

    def _read_on(self) -> bool:
        """Read one more event of this life; tells whether there was one."""
        if self._end is not None or self._is_at_end:
            return False
        event = next(self._events, None)
        if event is None:
            self._is_at_end = True
            return False
        if isinstance(event, Hole | Lost | Ended | Started | Begun):
            self._note_hole(event)
            self._end = event
            self._next_life = event if isinstance(event, Started) else None
            return False
        (self._outputs if isinstance(event, _Output) else self._inputs).append(cast(Any, event))
        return True

    def _peek(self) -> Event | None:
        while not self._inputs and self._read_on():
            pass
        return self._inputs[0] if self._inputs else None

    def _peek_output(self) -> _Output | None:
        while not self._outputs and self._read_on():
            pass
        return self._outputs[0] if self._outputs else None

    # ── what comes in ────────────────────────────────────────────────────────────────────────────

    async def take(self, kind: type[_E] | tuple[type[_E], ...], is_it: Callable[[Any], bool]) -> _E:
        """Return the next thing that came in, once it is the caller's turn; at the life's end, never."""
        await trio.lowlevel.checkpoint()
        while (event := self._peek()) is not None:
            if isinstance(event, kind) and is_it(event):
                await trio.sleep_until(self._due(event))
                if self._peek() is event:
                    self.verdict.frames += isinstance(event, Received | Answered)
                    self._go_on()
                    return event
                continue
            patience = _CLOCK_PATIENCE_S if isinstance(event, Clocked) else PATIENCE_S
            with trio.move_on_at(max(trio.current_time(), self._due(event)) + patience):
                await self._moved.wait()
            if self._peek() is event and trio.current_time() >= self._due(event) + patience:
                self.verdict.ignored += not isinstance(event, Clocked)
                self._go_on()
        # Others may still be at work on what came before.
        await trio.sleep(_CLOCK_PATIENCE_S)
        self._scope.cancel()
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    def _go_on(self) -> None:
        self._at = max(self._at, getattr(self._inputs.popleft(), "at", 0))
        self._moved.set()
        self._moved = trio.Event()

    def _due(self, event: Event) -> float:
        at = getattr(event, "at", self._at)
        if self._began is None:
            self._began = at, trio.current_time()
        first, started = self._began
        return started + (at - first) / 1e9

    # ── what goes out (feeds.base.FeedContext) ───────────────────────────────────────────────────

    def publish(self, tick: Tick) -> None:
        try:
            packed = pack_tick(tick)
        except (TypeError, ValueError, OverflowError):
            return
        self._compare(Published(packed))

    def gap(self, ch: Channel, sym: str) -> None:
        self._compare(Missing(ch, sym))

    def rewind(self) -> None:
        self._compare(Rewound())

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def refused(self, error: FrameError) -> None:
        self.verdict.refused += 1

    def _compare(self, output: _Output) -> None:
        if self.verdict.differs:
            return
        expected = self._peek_output()
        if expected == output:
            self._outputs.popleft()
            self.verdict.ticks += isinstance(output, Published)
        elif expected is not None or not self._may_go_on:
            self._differ(expected, output)

    def _differ(self, expected: _Output | None, found: _Output | None) -> None:
        self.verdict.differs = True
        self.verdict.expected, self.verdict.found = _shown(expected), _shown(found)
        self._scope.cancel()

    def connect_ws(
        self, url: str, *, max_message_bytes: int = 16 << 20
    ) -> AbstractAsyncContextManager[VenueSocket]:
        return self._connect(url)

    @asynccontextmanager
    async def _connect(self, url: str) -> Any:
        event: Opened | Failed = await self.take((Opened, Failed), lambda event: event.url == url)
        if isinstance(event, Failed):
            raise FeedError(event.reason)
        yield _Socket(self, event.conn)

    async def get_body(self, url: str) -> bytes:
        event: Answered | Failed = await self.take((Answered, Failed), lambda event: event.url == url)
        if isinstance(event, Failed):
            raise FeedError(event.reason)
        return event.body

    async def get_json(self, url: str) -> Any:
        return json_of(url, await self.get_body(url))

    def time_ns(self) -> int:
        event = self._peek()
        if isinstance(event, Clocked):
            self._go_on()
            return event.at
        return self._at


class _Socket:
    """A recorded WebSocket: what is sent to it is of no use to anybody."""

    def __init__(self, stage: _Stage, number: int) -> None:
        self._stage = stage
        self._number = number

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str | bytes:
        event: Received | Broke = await self._stage.take(
            (Received, Broke),
            lambda event: event.conn == self._number,
        )
        if isinstance(event, Broke):
            raise FeedError(event.reason)
        return event.message


class _Everything:
    """`feeds.base.Wanted`: all that the feed has."""

    def __init__(self, feed: Feed) -> None:
        self._symbols = frozenset(feed.symbols or ())
        self._is_new = True

    def begin_anew(self) -> None:
        self._is_new = True

    def symbols(self, *channels: Channel) -> frozenset[str]:
        return self._symbols

    def everything(self, *channels: Channel) -> bool:
        return True

    async def wait_changed(self, *channels: Channel) -> None:
        await trio.lowlevel.checkpoint()
        if not self._is_new:
            await trio.sleep_forever()
        self._is_new = False


def _shown(output: _Output | None) -> str | None:
    match output:
        case Published(tick=packed):
            return msgspec.json.encode(msgspec.msgpack.decode(packed)).decode()
        case Missing(ch=ch, sym=sym):
            return f"a gap on {ch} of {sym}"
        case Rewound():
            return "event time begins anew"
    return None
