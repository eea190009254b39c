"""The tape's history, its cursors, and those who read it behind the others, beside a list of everything."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import history
from broker.core.backlog import Backlog
from broker.core.codecs import JSON, MSGPACK
from broker.core.encoding import pack_tick, tick_to_json
from broker.core.history import OVERHEAD_BYTES, HistoryLimits
from broker.core.tape import Tape
from broker.core.ticks import Channel, Tick
from broker.core.topics import Topic, Topics
from tests.core.pair import quote, trade
from tests.fakes import put

TOPICS: list[tuple[Channel, str]] = [("trade", "SIM:A"), ("trade", "SIM:B"), ("quote", "SIM:A")]
LIMITS = [
    HistoryLimits(),
    HistoryLimits(ticks=1),
    HistoryLimits(ticks=7),
    HistoryLimits(bytes=700),
    HistoryLimits(bytes=2500, ticks=9),
    HistoryLimits(age_s=3.0),
    HistoryLimits(age_s=2.0, ticks=9, bytes=1500),
    HistoryLimits(ticks=0),
]


@dataclass
class Written:
    """What the model knows of one tick: its place is its offset, less one."""

    topic: Topic
    seq: int
    at: float
    tick: Tick
    size: int
    is_json: bool


class TapeMachine(RuleBasedStateMachine):
    """Ticks come, time passes, cursors are given out, and backlogs are read, slower than the history forgets.

    Attributes:
        everything: all that was ever appended.
        oldest: offset of the oldest tick that the history must have.
        backlogs: each with the offsets that it has still to read or to lose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chunk = history.CHUNK
        history.CHUNK = 4

    def teardown(self) -> None:
        history.CHUNK = self.chunk

    @initialize(limits=st.sampled_from(LIMITS))
    def begin(self, limits: HistoryLimits) -> None:
        self.limits = limits
        self.tape = Tape("e1", Topics(), limits)
        self.everything: list[Written] = []
        self.oldest = 1
        self.now = 0.0
        self.backlogs: list[tuple[Backlog, list[int]]] = []
        self.seqs: dict[tuple[Channel, str], int] = defaultdict(int)

    # ── what happens ─────────────────────────────────────────────────────────────────────────────

    @rule(which=st.lists(st.integers(0, 2), max_size=9), length=st.sampled_from([1, 1, 60]))
    def append(self, which: list[int], length: int) -> None:
        keys = [TOPICS[number] for number in which]
        ticks: list[Tick] = [trade(sym, "x" * length) if ch == "trade" else quote(sym) for ch, sym in keys]
        for key, entry in zip(keys, put(self.tape, ticks, self.now), strict=True):
            self.seqs[key] += 1
            topic = self.topic(key)
            assert (entry.topic, entry.seq, entry.at) == (topic, self.seqs[key], self.now)
            encoded = tick_to_json(entry.tick) if topic.wants_json else pack_tick(entry.tick)
            self.everything.append(
                Written(topic, entry.seq, self.now, entry.tick, len(encoded), topic.wants_json)
            )
            assert (entry.offset, entry.size) == (len(self.everything), len(encoded))
        self.forget()
        for backlog, left in self.backlogs:
            came = range(len(self.everything) - len(ticks) + 1, len(self.everything) + 1)
            left += [offset for offset in came if self.written(offset).topic in backlog]

    def forget(self) -> None:
        """Keep the longest stretch up to the newest tick that is within every bound."""
        newest, size = len(self.everything), 0
        first = newest + 1
        while first > self.oldest:
            written = self.written(first - 1)
            size += written.size + OVERHEAD_BYTES
            if size > self.limits.bytes or newest - first + 2 > self.limits.ticks:
                break
            if written.at <= self.now - self.limits.age_s:
                break
            first -= 1
        self.oldest = first

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=st.integers(0, 2), wants_json=st.booleans())
    def change_codec(self, which: int, wants_json: bool) -> None:
        self.topic(TOPICS[which]).wants_json = wants_json

    @rule(back=st.integers(0, 12), some=st.sets(st.integers(0, 2), min_size=1))
    def resume(self, back: int, some: set[int]) -> None:
        """Come back with a cursor; read what the history still has of all behind it."""
        offset = max(0, len(self.everything) - back)
        cursor = self.tape.cursor(offset)
        assert self.tape.parse_cursor(cursor) == offset
        first = {self.topic(TOPICS[n]): self.tape.first_after(self.topic(TOPICS[n]), offset) for n in some}
        left: list[int] = []
        for topic, start in first.items():
            missed = [
                n for n in range(offset + 1, len(self.everything) + 1) if self.written(n).topic is topic
            ]
            if start is None:
                assert any(n < self.oldest for n in missed)
            else:
                assert all(n >= self.oldest for n in missed)
                assert start == topic.seq - len(missed) + 1
                left += missed
        backlog = Backlog(self.tape, {topic: seq for topic, seq in first.items() if seq is not None})
        self.backlogs.append((backlog, sorted(left)))

    @precondition(lambda self: self.backlogs)
    @rule(
        which=st.integers(0, 5),
        ticks=st.integers(1, 6),
        size=st.sampled_from([1, 100, 300, 9999]),
        ahead=st.none() | st.integers(0, 5),
    )
    def read(self, which: int, ticks: int, size: int, ahead: int | None) -> None:
        backlog, left = self.backlogs[which % len(self.backlogs)]
        self.hear_what_was_lost(backlog, left)
        if not left:
            assert not backlog.read(ticks, size)
            return
        upto = None if ahead is None else left[0] + ahead
        expected: list[int] = []
        for offset in left[:ticks]:
            together = sum(self.written(n).size for n in [*expected, offset])
            if (upto is not None and offset > upto) or (together > size and expected):
                break
            expected.append(offset)
        taken = backlog.read(ticks, size, upto)
        assert [offset for offset, _, _ in taken] == expected
        for offset, topic, encoded in taken:
            assert left.pop(0) == offset
            assert topic is self.written(offset).topic
            assert encoded == self.encoded(offset)

    def hear_what_was_lost(self, backlog: Backlog, left: list[int]) -> None:
        """What the history has forgotten is named, all of it and nothing else."""
        named = {(topic, seq) for topic, first, last in backlog.lost() for seq in range(first, last + 1)}
        gone = [offset for offset in left if offset < self.oldest]
        assert named == {(self.written(offset).topic, self.written(offset).seq) for offset in gone}
        del left[: len(gone)]

    @precondition(lambda self: self.backlogs)
    @rule(which=st.integers(0, 5), topic=st.integers(0, 2))
    def leave_out(self, which: int, topic: int) -> None:
        """A topic goes to another subscription."""
        backlog, left = self.backlogs[which % len(self.backlogs)]
        gone = self.topic(TOPICS[topic])
        its = [offset for offset in left if self.written(offset).topic is gone]
        assert backlog.forget(gone) == (self.written(its[0]).seq if its else None)
        left[:] = [offset for offset in left if offset not in its]

    # ── what has to hold ─────────────────────────────────────────────────────────────────────────

    @invariant()
    def history_has_what_it_may_have_and_nothing_else(self) -> None:
        newest = len(self.everything)
        assert self.tape.offset == newest
        assert self.tape.history.kept_ticks == newest - self.oldest + 1
        kept = range(self.oldest, newest + 1)
        assert self.tape.history.kept_bytes == sum(
            self.written(offset).size + OVERHEAD_BYTES for offset in kept
        )
        assert all(self.tape.history.get(offset) == self.encoded(offset) for offset in kept)
        for key in TOPICS:
            topic = self.topic(key)
            its = [offset for offset in range(1, newest + 1) if self.written(offset).topic is topic]
            assert topic.seq == len(its)
            assert topic.offset == max(its, default=0)
            # They may be trimmed later, but what is there has to be the last ones, and all that are kept.
            behind = its[: len(its) - len(topic.offsets)]
            assert behind + list(topic.offsets) == its
            assert all(offset < self.oldest for offset in behind)
            assert topic.forgotten == max(behind, default=0)

    @rule(which=st.integers(0, 2))
    def trim(self, which: int) -> None:
        topic = self.topic(TOPICS[which])
        self.tape.history.trim(topic)
        assert all(offset >= self.oldest for offset in topic.offsets)

    @invariant()
    def every_backlog_knows_its_place_and_what_is_left(self) -> None:
        for backlog, left in self.backlogs:
            assert backlog.pending() == len(left)
            assert bool(backlog) == bool(left)
            if left:
                assert backlog.position() == left[0] - 1
            assert {topic for topic in map(self.topic, TOPICS) if topic in backlog} == {
                self.written(offset).topic for offset in left
            }

    def topic(self, key: tuple[Channel, str]) -> Topic:
        return self.tape.topics.get(*key)

    def written(self, offset: int) -> Written:
        return self.everything[offset - 1]

    def encoded(self, offset: int) -> bytes:
        written = self.written(offset)
        (repacked,) = (JSON if written.is_json else MSGPACK).repack([self.tape.history.get(offset)])
        assert repacked == (tick_to_json if written.is_json else pack_tick)(written.tick)
        return repacked


TapeMachine.TestCase.settings = settings(
    max_examples=max(80, settings().max_examples), stateful_step_count=40
)
TestTape = TapeMachine.TestCase
