"""Where a reader of a stream stands, held against a stream that keeps book of everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.redis_streams import ZERO, EntryId, Position, StreamState, entry_id


class ModelStream:
    """A stream as Redis has them, and whose entries were ever read."""

    def __init__(self) -> None:
        self.entries: list[EntryId] = []
        self.last: EntryId = ZERO
        self.added = 0
        self.unread: list[EntryId] = []

    def add(self) -> None:
        self.last = (self.last[0] + 1, 0)
        self.entries.append(self.last)
        self.unread.append(self.last)
        self.added += 1

    def trim(self, keep: int) -> None:
        self.entries = self.entries[len(self.entries) - keep :] if keep < len(self.entries) else self.entries

    def state(self) -> StreamState:
        return StreamState(
            self.entries[0] if self.entries else None, self.last, len(self.entries), self.added
        )

    def read(self, position: Position, most: int) -> tuple[bool, list[EntryId]]:
        """Read as the feed does; returns whether it told a gap, and what it got."""
        found = [each for each in self.entries if each > position.at][:most]
        if not found:
            return False, []
        state = self.state()
        told = position.check(state)
        for each in found:
            position.advance(each)
        position.settle(state)
        return told, found


STEPS = st.lists(
    st.tuples(st.just("add"), st.integers(1, 5))
    | st.tuples(st.just("trim"), st.integers(0, 6))
    | st.tuples(st.just("read"), st.integers(1, 4)),
    max_size=60,
)


@given(STEPS, STEPS, st.sampled_from(["$", "0", "3", "3-1"]))
def test_gap_is_told_just_when_entries_were_trimmed_before_they_were_read(
    before: list[tuple[str, int]], after: list[tuple[str, int]], start: str
) -> None:
    stream = ModelStream()
    for step, number in before:
        if step == "add":
            stream.add()
        elif step == "trim":
            stream.trim(number)
    position = Position.begin(start, stream.state())
    stream.unread = [each for each in stream.entries if each > position.at]
    is_known = position.count is not None
    for step, number in after:
        if step == "add":
            for _ in range(number):
                stream.add()
        elif step == "trim":
            stream.trim(number)
        else:
            told, found = stream.read(position, number)
            if found:
                is_missing = stream.unread[0] != found[0]
                assert told or not is_missing, "nothing may be lost unnoticed"
                assert is_missing or not told or not is_known, "where the count is known, no gap is made up"
                stream.unread = [each for each in stream.unread if each > found[-1]]
                is_known = is_known or told or position.count is not None
        assert not position.resume(stream.state()), "it is the same stream all the time"


def test_entries_deleted_in_the_middle_do_not_make_up_a_gap_later() -> None:
    stream = ModelStream()
    position = Position.begin("0", stream.state())
    stream.add()
    assert stream.read(position, 10) == (False, [(1, 0)])
    for _ in range(3):
        stream.add()
    del stream.entries[2]
    assert stream.read(position, 10) == (False, [(2, 0), (4, 0)])
    for _ in range(2):
        stream.add()
    stream.trim(2)
    assert stream.read(position, 10) == (False, [(5, 0), (6, 0)])


def test_stream_that_was_deleted_is_read_anew_from_its_beginning() -> None:
    position = Position((5, 0), 5)
    assert position.resume(None)
    assert position == Position()
    assert not position.resume(None), "told once"


def test_stream_that_went_back_goes_on_from_its_end() -> None:
    position = Position((5, 0), 5)
    assert position.resume(StreamState((1, 0), (3, 0), 3, 3))
    assert (str(position), position.count) == ("3-0", 3)


def test_new_stream_of_the_same_name_is_a_gap_though_its_ids_are_newer() -> None:
    position = Position((5, 0), 5)
    state = StreamState((10, 0), (12, 0), 3, 3)
    assert not position.resume(state)
    assert position.check(state)
    assert position.count == 0


def test_stream_that_is_not_there_yet_is_new_as_a_whole() -> None:
    assert Position.begin("$", None) == Position() == Position(ZERO, 0)


@pytest.mark.parametrize(("text", "found"), [("0", ZERO), ("5", (5, 0)), ("5-7", (5, 7))])
def test_id_is_read(text: str, found: EntryId) -> None:
    assert entry_id(text) == found


@pytest.mark.parametrize("text", ["", "$", "-", "5-", "-5", "a-1", "5-7-1", "18446744073709551616", "١"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="what comes from now on"):
        entry_id(text)
