"""Records the broker's own tape to disk, and never holds it up.

A task of its own looks at the tape's history a few times a second, and takes what is new: nothing is added to the
way of a tick. The history is the buffer: if the disk is so slow that ticks leave it unwritten, the recording
has a hole there, which is logged and counted, and which its offsets show to every reader.

Each file begins with what a snapshot would show, so that a reader who begins there has whole books; so do the
ticks behind a hole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
import trio

from broker.core.encoding import pack_tick
from broker.core.recording import Block
from broker.core.tape import Tape
from broker.core.ticks import CHANNELS, Channel
from broker.core.topics import Topic, parse_pattern
from broker.runtime.tape_files import TapeFile, TapeWriter

log = structlog.get_logger()

#: How often the tape is looked at: what the machine's sudden end can cost.
INTERVAL_S = 0.25
#: After the disk has refused something, it is tried again after so long.
RETRY_S = 2.0
#: Ticks taken from the tape in one step, which takes less than a millisecond, and lie in one block.
BLOCK_TICKS = 1024
#: Symbols whose state is taken in one step.
BLOCK_STATES = 32
#: Offsets of holes that are remembered, the newest ones.
HOLES = 100


class InThread(Protocol):
    """Runs what may block, as `trio.to_thread.run_sync` does."""

    def __call__(self, call: Callable[..., Any], /, *arguments: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class What:
    """Which topics are recorded."""

    channels: frozenset[Channel] = frozenset(CHANNELS)
    symbols: tuple[str, ...] = ("*",)

    def has(self, topic: Topic) -> bool:
        """Tell whether a topic is one of them."""
        return topic.ch in self.channels and any(
            symbol == topic.sym or parse_pattern(symbol) in ("*", topic.venue) for symbol in self.symbols
        )


class Recorder:
    """One recording of the broker's tape.

    Attributes:
        position: the offset up to which everything is on disk, or in a hole.
        holes: (first, last) offsets that the recording does not have.
        lost: how many ticks that is, since the start.
        written, written_bytes: ticks and bytes on disk.
        failure: why nothing can be written at present; empty if it can.
    """

    def __init__(
        self,
        name: str,
        tape: Tape,
        writer: TapeWriter,
        *,
        what: What | None = None,
        time_ns: Callable[[], int],
        in_thread: InThread = trio.to_thread.run_sync,
    ) -> None:
        self.name = name
        self.position = tape.offset
        self.holes: deque[tuple[int, int]] = deque(maxlen=HOLES)
        self.lost = self.written = self.written_bytes = 0
        self.failure = ""
        self._tape = tape
        self._writer = writer
        self._what = what or What()
        self._has: dict[Topic, bool] = {}
        self._time_ns = time_ns
        self._in_thread = in_thread
        self._states: list[Topic] = []
        self._wake = trio.Event()
        self._progress = trio.Event()

    @property
    def epoch(self) -> str:
        """The tape's."""
        return self._tape.epoch

    @property
    def file(self) -> TapeFile | None:
        """The file that is being written."""
        return self._writer.file

    async def run(self) -> None:
        """Record for ever; cancelled, what is on the tape is written first, unless the disk has failed."""
        try:
            while True:
                try:
                    await self._catch_up()
                    self._set_failure("")
                except OSError as exc:
                    self._set_failure(str(exc))
                self._tell_progress()
                with trio.move_on_after(RETRY_S if self.failure else INTERVAL_S):
                    await self._wake.wait()
                self._wake = trio.Event()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + RETRY_S):
                await self._finish()

    async def _finish(self) -> None:
        try:
            if not self.failure:
                await self._catch_up()
        except OSError as exc:
            self._set_failure(str(exc))
        self._writer.close()

    async def flush(self) -> None:
        """Wait until all that is on the tape now is on disk, as far as the disk can be written at all."""
        goal = self._tape.offset
        while self.position < goal and not self.failure:
            self._wake.set()
            await self._progress.wait()

    async def wait_beyond(self, offset: int) -> None:
        """Wait until ticks behind ``offset`` are on disk, or in a hole."""
        while self.position <= offset:
            await self._progress.wait()

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    def _set_failure(self, text: str) -> None:
        if text and text != self.failure:
            log.error("the recording can't be written", recording=self.name, error=text)
        elif self.failure and not text:
            log.info("the recording is written again", recording=self.name)
        self.failure = text

    async def _catch_up(self) -> None:
        """Write all that is on the tape now, and the states that are due.

        Raises:
            OSError: the disk refuses; what was not written is tried again from the tape.
        """
        while True:
            if self._writer.wants_new_file and self._tape.offset > self.position:
                await self._begin_file()
            # From here to the write in one step: the history may move on while something is awaited, and a
            # state must not be ahead of the ticks that are written before it.
            self._skip_what_is_gone()
            ticks = self._take_ticks()
            is_abreast = ticks is None or ticks.last == self._tape.offset
            states = self._take_states() if is_abreast else None
            blocks = [block for block in (ticks, states) if block is not None]
            if not blocks or self.file is None:
                return
            self.written_bytes += await self._in_thread(self._writer.write, blocks)
            if ticks is not None:
                self.position = ticks.last
                self.written += len(ticks.ticks)
                self._tell_progress()

    async def _begin_file(self) -> None:
        deleted = await self._in_thread(self._writer.begin, self._time_ns(), self._tape.epoch, self.position)
        if deleted:
            log.info("oldest files of a recording deleted", recording=self.name, files=deleted)
        # A tape's beginning needs none.
        self._states = self._topics() if self.position else []

    def _topics(self) -> list[Topic]:
        topics = self._tape.topics
        return [
            topic
            for ch in self._what.channels
            for topic in topics.on_channel(ch).values()
            if topic.seq and self._is_recorded(topic)
        ]

    def _is_recorded(self, topic: Topic) -> bool:
        is_it = self._has.get(topic)
        if is_it is None:
            is_it = self._has[topic] = self._what.has(topic)
        return is_it

    def _skip_what_is_gone(self) -> None:
        oldest = self._tape.history.oldest
        if oldest <= self.position + 1:
            return
        hole = self.position + 1, oldest - 1
        self.holes.append(hole)
        self.lost += oldest - 1 - self.position
        self.position = oldest - 1
        self._states = [topic for topic in self._topics() if topic.ch == "book"]
        log.warning("the recording has a hole", recording=self.name, first=hole[0], last=hole[1])

    def _take_ticks(self) -> Block | None:
        """Return the next ticks of the tape, ``None`` if there are none."""
        first = self.position + 1
        topics, encoded = self._tape.history.stretch(first, BLOCK_TICKS)
        if not topics:
            return None
        offsets: list[int] = []
        ticks: list[bytes] = []
        for offset, (topic, tick) in enumerate(zip(topics, encoded, strict=True), first):
            if self._is_recorded(topic):
                offsets.append(offset)
                ticks.append(tick)
        last = first + len(topics) - 1
        return Block("ticks", self._tape.epoch, first, last, self._time_ns(), offsets, ticks)

    def _take_states(self) -> Block | None:
        """Return the states of a few symbols, as of the tape's end, ``None`` if none are due."""
        due, self._states = self._states[:BLOCK_STATES], self._states[BLOCK_STATES:]
        if not due:
            return None
        tape, at = self._tape, trio.current_time()
        entries = [entry for topic in due for entry in tape.snapshot(topic, at)]
        ticks = [entry.packed or entry.json or pack_tick(entry.tick) for entry in entries]
        last = tape.offset
        return Block("states", tape.epoch, last + 1, last, self._time_ns(), [last] * len(ticks), ticks)
