"""Recording a feed: what is in the file, disks that are full or slow, and files that are somebody else's."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import trio
import trio.testing

from broker.core.encoding import pack_tick
from broker.core.raw_recording import (
    Begun,
    Event,
    Hole,
    Lost,
    Missing,
    Published,
    Received,
    Started,
    read_blocks,
)
from broker.core.ticks import Book
from broker.runtime.raw_files import RawFile
from broker.runtime.raw_recording import INTERVAL_S, RETRY_S, RawRecorder

HEAD = Begun(1, "gold", "scripted", "SIM", {}, "tapecast/1")


def events_in(path: Path) -> list[Event | Hole]:
    with path.open("rb") as file:
        return [
            event
            for found in read_blocks(file.read)
            for event in ([found] if isinstance(found, Hole) else found)
        ]


def frame(number: int, size: int = 10) -> Received:
    return Received(number, 1, bytes([number % 256]) * size, False)


async def directly(call: Callable[..., Any], /, *arguments: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return call(*arguments)


def recorder_of(file: RawFile, **options: Any) -> RawRecorder:
    return RawRecorder("gold", file, time_ns=lambda: 99, **{"in_thread": directly, **options})


class Disk:
    """A disk that refuses when told so, after so many bytes of a write."""

    def __init__(self) -> None:
        self.refuses = False
        self.takes = 0

    def open(self, path: Path) -> BinaryIO:
        disk = self

        class Handle(io.FileIO):
            def write(self, data: Any) -> int:
                if not disk.refuses:
                    return super().write(data)
                if disk.takes:
                    taken, disk.takes = disk.takes, 0
                    return super().write(bytes(data)[:taken])
                raise OSError(errno.ENOSPC, "No space left on device")

        return Handle(path, "ab")  # type: ignore[return-value]


async def test_everything_is_on_disk_within_the_interval(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "new" / "feed"
    recorder = recorder_of(RawFile(path, lambda: HEAD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.put(frame(1))
        await trio.sleep(INTERVAL_S * 1.5)
        assert events_in(path) == [HEAD, frame(1)]
        assert recorder.written_bytes == path.stat().st_size
        nursery.cancel_scope.cancel()


async def test_what_waits_is_written_when_the_recorder_ends(tmp_path: Path) -> None:
    recorder = recorder_of(RawFile(tmp_path / "feed", lambda: HEAD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        await trio.testing.wait_all_tasks_blocked()
        recorder.put(frame(1))
        nursery.cancel_scope.cancel()
    assert events_in(tmp_path / "feed") == [HEAD, frame(1)]


async def test_file_that_is_there_is_appended_to_also_behind_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "feed"
    for number in (1, 2):
        file = RawFile(path, lambda: HEAD)
        file.write([frame(number)])
        file.close()
    assert events_in(path) == [HEAD, frame(1), HEAD, frame(2)]
    path.write_bytes(path.read_bytes()[:-3])
    file = RawFile(path, lambda: HEAD)
    file.write([frame(3)])
    file.close()
    found = events_in(path)
    assert [type(each) for each in found] == [Begun, Received, Begun, Hole, Begun, Received]
    assert found[-1] == frame(3)


async def test_file_that_is_no_recording_is_left_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("my thesis")
    recorder = recorder_of(RawFile(path, lambda: HEAD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.put(frame(1))
        await trio.sleep(10 * RETRY_S)
        assert "no recording of a feed: nothing is written to it" in recorder.failure
        nursery.cancel_scope.cancel()
    assert path.read_text() == "my thesis"


async def test_full_disk_makes_one_hole_that_is_told_where_it_is(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    disk = Disk()
    path = tmp_path / "feed"
    recorder = recorder_of(RawFile(path, lambda: HEAD, open_=disk.open))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.put(frame(1))
        await trio.sleep(INTERVAL_S * 1.5)
        # Half a block gets there, and is taken back.
        disk.refuses, disk.takes = True, 9
        for number in (2, 3):
            recorder.put(frame(number))
            await trio.sleep(RETRY_S * 1.5)
        assert "No space left" in recorder.failure
        disk.refuses = False
        recorder.put(frame(4))
        await trio.sleep(RETRY_S * 2)
        assert recorder.failure == ""
        nursery.cancel_scope.cancel()
    assert events_in(path) == [HEAD, frame(1), HEAD, Lost(99, 2), frame(4)]
    assert recorder.lost == 2


async def test_slow_disk_holds_nobody_up_and_what_is_too_much_is_counted(tmp_path: Path) -> None:
    gate = trio.Event()

    async def slow(call: Callable[..., Any], /, *arguments: Any) -> Any:
        await gate.wait()
        return call(*arguments)

    path = tmp_path / "feed"
    recorder = recorder_of(RawFile(path, lambda: HEAD), in_thread=slow, most_waiting_bytes=1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.put(frame(0, 1 << 19), 1 << 19)
        await trio.testing.wait_all_tasks_blocked()
        # The first is on its way to the disk; of these, two are what may wait.
        for number in range(1, 10):
            recorder.put(frame(number, 1 << 19), 1 << 19)
        assert recorder.lost == 7
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        recorder.put(frame(10))
        nursery.cancel_scope.cancel()
    kept = [HEAD, *(frame(number, 1 << 19) for number in (0, 1, 2)), Lost(99, 7), frame(10)]
    assert events_in(path) == kept


def test_full_file_is_followed_by_a_new_one_and_the_bound_is_kept(tmp_path: Path) -> None:
    path, older = tmp_path / "feed", tmp_path / "feed.1"
    file = RawFile(path, lambda: HEAD, most_bytes=2000)
    for number in range(100):
        file.write([Started(number)])
        total = sum(each.stat().st_size for each in (path, older) if each.exists())
        assert total <= 2000
    file.close()
    for each in (path, older):
        assert events_in(each)[0] == HEAD
    numbers = [
        event.at for each in (older, path) for event in events_in(each)[1:] if isinstance(event, Started)
    ]
    assert numbers == list(range(numbers[0], 100))
    assert len(numbers) > 20


def book(kind: str, **levels: Any) -> Published:
    fields = {"bids": [], "asks": [], **levels}
    return Published(pack_tick(Book(sym="SIM:ACME", ts=5, rts=6, kind=kind, **fields)))  # type: ignore[arg-type]


def test_new_file_begins_with_the_books_that_go_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "feed"
    file = RawFile(path, lambda: HEAD, most_bytes=4000)
    file.write([book("snapshot", bids=[("1", "1"), ("0.9", "2")])])
    file.write([book("delta", bids=[("1", "0")], asks=[("2", "1")])])
    while not (tmp_path / "feed.1").exists():
        file.write([frame(1, 100)])
    file.close()
    whole = book("snapshot", bids=[("0.9", "2")], asks=[("2", "1")])
    assert events_in(path)[:2] == [HEAD, whole]


@pytest.mark.parametrize("event", [Started(1), Lost(1, 1), Missing("book", "SIM:ACME")])
def test_book_that_has_ended_is_not_gone_on_with(tmp_path: Path, event: Event) -> None:
    path = tmp_path / "feed"
    file = RawFile(path, lambda: HEAD, most_bytes=4000)
    file.write([book("snapshot"), event, book("delta", bids=[("1", "1")])])
    while not (tmp_path / "feed.1").exists():
        file.write([frame(1, 100)])
    file.close()
    assert {type(each) for each in events_in(path)} == {Begun, Received}


@pytest.mark.parametrize("there", [b"", None])
def test_empty_file_is_taken_like_none(tmp_path: Path, there: bytes | None) -> None:
    path = tmp_path / "feed"
    if there is not None:
        path.write_bytes(there)
    file = RawFile(path, lambda: HEAD)
    file.write([frame(1)])
    file.close()
    assert events_in(path) == [HEAD, frame(1)]
