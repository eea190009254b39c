"""Recording the tape: all of it, in order, in files that are bounded; and a slow or full disk harms nobody."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from broker.core.encoding import packed_to_json
from broker.core.history import HistoryLimits
from broker.core.recording import Block, Cut
from broker.runtime.recorder import BLOCK_TICKS, INTERVAL_S, What
from broker.runtime.tape_files import TapeReader, TapeWriter, list_files
from tests.fakes import ACME, BETA, fat_book, quote, trade, trades
from tests.replays import recorded_market


def blocks(folder: Path) -> list[Block]:
    """Return all blocks on disk, in order; there must be nothing else."""
    found: list[Block] = []
    for file in list_files(folder):
        reader = TapeReader(file.path)
        while (block := reader.read()) is not None:
            assert isinstance(block, Block)
            found.append(block)
        reader.close()
    return found


def ids(folder: Path) -> list[int]:
    """Return the trades on disk, by their ids."""
    ticks = [tick for block in blocks(folder) if block.kind == "ticks" for tick in block.ticks]
    return [
        int(msgspec.json.decode(tick if tick[:1] == b"{" else packed_to_json(tick))["id"]) for tick in ticks
    ]


async def test_whole_tape_is_on_disk_within_the_interval(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        for start in range(1, 10 * BLOCK_TICKS, 700):
            market.fanout.publish(trades(ACME, 700, start))
        await trio.sleep(2 * INTERVAL_S)
        assert ids(tmp_path) == list(range(1, market.tape.offset + 1))
        assert market.recorder.position == market.tape.offset == market.recorder.written
        assert list_files(tmp_path)[0].path.stat().st_size == market.recorder.written_bytes


async def test_flush_waits_until_all_of_now_is_on_disk(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 5000))
        began = trio.current_time()
        await market.recorder.flush()
        assert trio.current_time() == began
        assert len(ids(tmp_path)) == 5000


async def test_what_is_on_the_tape_when_the_broker_ends_is_written(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        await trio.sleep(1)
        market.fanout.publish(trades(ACME, 7))
    assert ids(tmp_path) == [1, 2, 3, 4, 5, 6, 7]


async def test_only_what_was_asked_for_is_recorded_and_the_rest_is_covered(
    autojump_clock: object, tmp_path: Path
) -> None:
    what = What(frozenset({"trade"}), (ACME,))
    async with recorded_market(tmp_path, what=what) as market:
        market.fanout.publish(
            [trade(ACME, 1), quote(ACME, 2), trade(BETA, 3), trade(ACME, 4), trade(BETA, 5)]
        )
        await trio.sleep(1)
    assert ids(tmp_path) == [1, 4]
    assert [(block.first, block.last, block.offsets) for block in blocks(tmp_path)] == [(1, 5, [1, 4])]


@pytest.mark.parametrize(
    ("symbols", "has"), [(("*",), True), (("SIM:*",), True), ((BETA, ACME), True), (("OTHER:*", BETA), False)]
)
async def test_patterns_choose_as_they_do_for_subscribers(symbols: tuple[str, ...], has: bool) -> None:
    from broker.core.topics import Topic

    assert What(symbols=symbols).has(Topic("trade", ACME)) is has


async def test_each_file_begins_with_the_states_of_its_time(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path, file_bytes=200) as market:
        market.fanout.publish([fat_book(ACME, 20), quote(BETA, 1), quote(BETA, 2)])
        await trio.sleep(1)
        market.fanout.publish([quote(BETA, 3)])
        await trio.sleep(1)
    assert len(list_files(tmp_path)) == 2
    *_, ticks, states = blocks(tmp_path)
    assert (ticks.kind, ticks.first, ticks.last) == ("ticks", 4, 4)
    assert (states.kind, states.first, states.last) == ("states", 5, 4)
    shown = [msgspec.msgpack.decode(tick) for tick in states.ticks]
    assert sorted((tick["ch"], tick["sym"], tick["seq"]) for tick in shown) == [
        ("book", ACME, 1),
        ("quote", BETA, 3),
    ]


async def test_oldest_files_go_when_there_is_no_room(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path, file_bytes=2000, max_bytes=20_000) as market:
        for start in range(1, 20_001, 100):
            market.fanout.publish(trades(ACME, 100, start))
            await trio.sleep(0.3)
        sizes = [file.path.stat().st_size for file in list_files(tmp_path)]
        assert sum(sizes) <= 20_000 + max(sizes)
        kept = ids(tmp_path)
        assert kept == list(range(kept[0], 20_001))
        assert 1 < kept[0] < 20_000


async def test_slow_disk_costs_ticks_of_the_recording_and_nobody_elses(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path, history=HistoryLimits(ticks=1000)) as market:
        live = market.reader()
        market.subscribe(live, "trade")
        market.fanout.publish(trades(ACME, 10))
        await trio.sleep(1)
        market.disk.stall()
        for start in range(11, 5011, 500):
            market.fanout.publish(trades(ACME, 500, start))
            await trio.testing.wait_all_tasks_blocked()
        assert len(live.ticks()) == 5010
        await trio.sleep(1)
        market.disk.go_on()
        await trio.sleep(1)
        market.fanout.publish(trades(ACME, 10, 5011))
        await trio.sleep(1)
        [(first, last)] = market.recorder.holes
        assert market.recorder.lost == last - first + 1
        assert ids(tmp_path) == [*range(1, first), *range(last + 1, 5021)]
        covered = [(block.first, block.last) for block in blocks(tmp_path) if block.kind == "ticks"]
        assert [a[1] + 1 for a, b in pairwise(covered) if a[1] + 1 != b[0]] == [first]


async def test_states_of_books_follow_a_hole(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path, history=HistoryLimits(ticks=100)) as market:
        market.fanout.publish([fat_book(ACME, 5)])
        await trio.sleep(1)
        market.disk.stall()
        for start in range(1, 301, 50):
            market.fanout.publish(trades(ACME, 50, start))
            await trio.sleep(1)
        market.disk.go_on()
        await trio.sleep(1)
        assert market.recorder.holes
    [states] = [block for block in blocks(tmp_path) if block.kind == "states"]
    assert [msgspec.msgpack.decode(tick)["ch"] for tick in states.ticks] == ["book"]


async def test_full_disk_is_tried_again_and_what_the_history_has_is_not_lost(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 10))
        await trio.sleep(1)
        market.disk.failure = OSError(errno.ENOSPC, "no space left on device")
        market.fanout.publish(trades(ACME, 10, 11))
        await trio.sleep(1)
        assert "no space" in market.recorder.failure
        with trio.fail_after(1):
            await market.recorder.flush()
        await trio.sleep(10)
        market.disk.failure = None
        await trio.sleep(10)
        assert market.recorder.failure == ""
        assert ids(tmp_path) == list(range(1, 21))
        assert market.recorder.lost == 0


def test_block_that_is_written_in_part_is_a_cut_until_the_rest_is_there(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path, file_bytes=1 << 20, max_bytes=1 << 30)
    writer.begin(1, "e1", 0)
    block = Block("ticks", "e1", 1, 1, 0, [1], [b"{}"])
    writer.write([block])
    writer.close()
    [file] = list_files(tmp_path)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + whole[:50])
    reader = TapeReader(file.path)
    assert reader.read() == block
    for _ in range(2):
        cut = reader.read()
        assert isinstance(cut, Cut)
        assert (cut.at, cut.is_short) == (len(whole), True)
    with file.path.open("ab") as handle:
        handle.write(whole[50:])
    assert reader.read() == block
    assert reader.read() is None
    reader.close()


def test_names_that_are_no_recordings_are_left_alone(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path, file_bytes=100, max_bytes=100)
    for name in ("notes.txt", "1-e1-0.tape", "x.tape"):
        (tmp_path / name).write_text("x" * 1000)
    writer.begin(5, "e1", 0)
    writer.close()
    assert [file.began for file in list_files(tmp_path)] == [5]
    assert len(list(tmp_path.iterdir())) == 4
    assert list_files(tmp_path / "nowhere") == []
