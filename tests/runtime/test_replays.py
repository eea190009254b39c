"""Replays: at the speed of the one who reads, and on live where they end, without a seam."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.errors import ASKED, CLIENT_GONE, RequestError
from broker.core.history import HistoryLimits
from broker.core.messages import ReplayRequest
from broker.core.replay import AHEAD_TICKS
from broker.core.ticks import Tick
from broker.runtime.recorder import What
from broker.runtime.tape_recording import TapeRecording
from tests.fakes import ACME, BETA, SYMBOLS, fat_book, quote, trade, trades
from tests.replays import RecordedMarket, recorded_market, seqs, until
from tests.wires import Reader


def is_live(reader: Reader) -> bool:
    subs = reader.subscriber.session.subscriptions.values()
    return all(sub.replay is None and not sub.backlog for sub in subs)


def timed(market: RecordedMarket, sym: str, n: int) -> Tick:
    tick = trade(sym, n)
    tick.ts = tick.rts = market.time_ns()
    return tick


def assert_accounted(reader: Reader, ch: str = "trade") -> None:
    """Hold what arrived against the ledger."""
    [entry] = reader.subscriber.session.ledger()
    assert entry.offered == entry.delivered + entry.conflated + entry.dropped + entry.pending
    assert entry.delivered == sum(map(len, seqs(reader, ch).values()))


async def test_recording_is_played_and_goes_on_live(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 50))
        await trio.sleep(1)
        reader = market.replay()
        await until(lambda: is_live(reader))
        market.fanout.publish(trades(ACME, 10, 51))
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(reader) == {ACME: list(range(1, 61))}
        assert [tick["id"] for tick in reader.ticks()] == [str(n) for n in range(1, 61)]
        assert reader.of("gap") == reader.of("snapshot") == []
        assert_accounted(reader)
        assert market.replays.playing == 0


async def test_replay_of_nothing_recorded_yet_goes_live_at_once(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        reader = market.replay()
        await until(lambda: is_live(reader))
        market.fanout.publish(trades(ACME, 3))
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(reader) == {ACME: [1, 2, 3]}


async def test_what_is_published_between_the_end_of_the_file_and_the_splice_arrives_once(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 50))
        await trio.sleep(1)
        reader = market.replay()
        _fill_after(reader, writes=1)
        await trio.sleep(0.1)
        [sub] = reader.subscriber.session.subscriptions.values()
        assert sub.replay is not None
        assert sub.replay.is_read, "it waits for the wire only"
        market.fanout.publish(trades(ACME, 7, 51))
        del reader.wire.offer  # type: ignore[method-assign]
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert is_live(reader)
        market.fanout.publish(trades(ACME, 7, 58))
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(reader) == {ACME: list(range(1, 65))}
        assert reader.of("gap") == reader.of("snapshot") == []
        assert_accounted(reader)


async def test_replay_that_began_before_the_recording_has_its_first_tick(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        reader = market.reader()
        reader.wire.block()
        market.subscribe(reader, "trade", replay=_request())
        await trio.sleep(0.1)
        market.fanout.publish(trades(ACME, 3))
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(reader) == {ACME: [1, 2, 3]}
        assert reader.of("snapshot") == []


class Stalls:
    """A wire that is blocked and drained at random."""

    def __init__(self, reader: Reader, rng: random.Random) -> None:
        self._wire = reader.wire
        self._rng = rng

    def turn(self) -> None:
        if self._wire.is_blocked:
            if self._rng.random() < 0.5:
                self._wire.drain()
        elif self._rng.random() < 0.3:
            self._wire.block()

    def end(self) -> None:
        if self._wire.is_blocked:
            self._wire.drain()


async def _live_through(seed: int, folder: Path, history: int, file_bytes: int) -> None:
    """Publish at random moments, while readers come, stall, and go live; every tick arrives once, in order."""
    rng = random.Random(seed)
    changes: dict[str, Any] = {"history": HistoryLimits(ticks=history), "file_bytes": file_bytes}
    async with recorded_market(folder, **changes) as market:
        count = dict.fromkeys(SYMBOLS, 0)
        readers: list[tuple[Reader, Stalls]] = []
        for _ in range(60):
            batch: list[Tick] = []
            for _ in range(rng.choice([0, 1, 5, 40])):
                sym = rng.choice(SYMBOLS)
                count[sym] += 1
                batch.append(trade(sym, count[sym]))
            market.fanout.publish(batch)
            if rng.random() < 0.1:
                reader = market.replay()
                readers.append((reader, Stalls(reader, rng)))
            for _, stalls in readers:
                stalls.turn()
            await trio.sleep(rng.choice([0, 0, 0.01, 0.1, 0.3]))
        for reader, stalls in readers:
            stalls.end()
            await until(lambda reader=reader: is_live(reader))  # type: ignore[misc]
        market.fanout.publish([trade(sym, count[sym] + 1) for sym in SYMBOLS])
        await trio.testing.wait_all_tasks_blocked()
        for reader, _ in readers:
            got, told = seqs(reader), _told(reader)
            assert all(numbers == sorted(numbers) for numbers in got.values())
            for sym in SYMBOLS:
                known = sorted(got[sym] + told.get(sym, []))
                assert known == list(range(known[0], count[sym] + 2))
                # In the short history the recorder may have been too slow, also for the very first.
                assert market.recorder.lost or (known[0] == 1 and not told)
            assert_accounted(reader)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    history=st.sampled_from([400, 200_000]),
    file_bytes=st.sampled_from([300, 1 << 20]),
)
def test_every_tick_arrives_once_whenever_it_comes(seed: int, history: int, file_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(_live_through, seed, Path(folder), history, file_bytes, clock=clock)


async def test_file_waits_for_a_reader_that_stalls_and_nothing_is_dropped(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        for start in range(1, 20_001, 1000):
            market.fanout.publish(trades(ACME, 1000, start))
            await trio.sleep(0.3)
        reader = market.reader()
        reader.wire.block()
        market.subscribe(reader, "trade", replay=_request())
        await trio.sleep(30)
        [sub] = reader.subscriber.session.subscriptions.values()
        assert sub.replay is not None
        assert len(sub.replay) <= AHEAD_TICKS + 1, "what is read ahead has a bound"
        calls = market.reading.calls
        await trio.sleep(30)
        assert market.reading.calls == calls, "nothing is read that there is no room for"
        reader.wire.drain()
        await until(lambda: is_live(reader))
        assert seqs(reader) == {ACME: list(range(1, 20_001))}
        assert reader.of("gap") == []
        assert_accounted(reader)


async def test_replaying_reader_that_stalls_changes_nothing_for_the_others(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 5000))
        await trio.sleep(1)
        stalled, healthy = market.reader(), market.reader()
        stalled.wire.block()
        market.subscribe(stalled, "trade", replay=_request())
        market.subscribe(healthy, "trade")
        before = trio.current_time()
        for n in range(100):
            market.fanout.publish([trade(ACME, 5001 + n)])
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == before
        assert seqs(healthy)[ACME][-1] == 5100


@pytest.mark.parametrize(("speed", "took"), [(1.0, 60.0), (10.0, 6.0)])
async def test_speed_is_kept_by_recorded_time(
    autojump_clock: object, tmp_path: Path, speed: float, took: float
) -> None:
    async with recorded_market(tmp_path) as market:
        for n in range(1, 62):
            market.fanout.publish([timed(market, ACME, n)])
            await trio.sleep(1)
        market = RecordedMarket(tmp_path, epoch="e2", records=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.run)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            reader = market.replay(speed=speed)
            half = began + took / 2
            await trio.sleep_until(half + 0.05)
            assert seqs(reader) == {ACME: list(range(1, 32))}
            await until(lambda: is_live(reader))
            assert took <= trio.current_time() - began <= took + 0.1
            assert seqs(reader) == {ACME: list(range(1, 62))}
            nursery.cancel_scope.cancel()


async def test_time_begins_with_the_state_of_then(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        times = {}
        for n in range(1, 11):
            times[n] = market.time_ns()
            market.fanout.publish([timed(market, ACME, n)])
            await trio.sleep(1)
        reader = market.replay(since=str(times[6]))
        await until(lambda: is_live(reader))
        [snapshot] = reader.of("snapshot")
        assert [tick["seq"] for tick in snapshot["data"]] == [5]
        assert seqs(reader) == {ACME: [6, 7, 8, 9, 10]}
        assert reader.messages().index(snapshot) < reader.messages().index(reader.of("update")[0])


async def test_channels_of_a_session_are_merged_in_the_order_of_the_tape(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        for n in range(1, 501):
            market.fanout.publish([quote(ACME, n), trade(ACME, n), trade(BETA, n), quote(BETA, n)])
            await trio.sleep(0.01)
        reader = market.reader()
        for ch in ("trade", "quote", "book"):
            market.subscribe(reader, ch, replay=_request())
        await until(lambda: is_live(reader))
        market.fanout.publish([quote(ACME, 501), trade(ACME, 501)])
        await trio.testing.wait_all_tasks_blocked()
        got = [(tick["ch"], tick["sym"], tick["rts"]) for tick in reader.ticks()]
        expected = [
            (ch, sym, str(n))
            for n in range(1, 501)
            for ch, sym in (("quote", ACME), ("trade", ACME), ("trade", BETA), ("quote", BETA))
        ]
        assert got == [*expected, ("quote", ACME, "501"), ("trade", ACME, "501")]


async def test_live_subscription_beside_a_replay_does_not_wait_for_it(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        for n in range(1, 31):
            market.fanout.publish([timed(market, ACME, n)])
            await trio.sleep(1)
        reader = market.reader()
        market.subscribe(reader, "quote", mode="every")
        market.subscribe(reader, "trade", replay=ReplayRequest("tape", speed=1.0))
        for n in range(1, 11):
            market.fanout.publish([quote(BETA, n)])
            await trio.testing.wait_all_tasks_blocked()
            assert reader.bids()[-1] == str(n)
            # Whoever comes back with it gets everything that was published since the replay began, or stood.
            assert int(reader.of("update")[-1]["cursor"].rpartition("-")[2]) <= 30
            await trio.sleep(1)
        assert 10 <= len(seqs(reader)[ACME]) <= 12
        answer: Any = reader.subscriber.session.handle(b'{"op":"list","id":9}', trio.current_time(), 0)
        assert [(entry.delivered, entry.pending) for entry in answer.ledger] == [
            (10, 0),
            (len(seqs(reader)[ACME]), 0),
        ]


async def test_cursor_of_a_replay_resumes_it_where_it_stood(autojump_clock: object, tmp_path: Path) -> None:
    # A history that is too short to help: only the recording can.
    async with recorded_market(tmp_path, history=HistoryLimits(ticks=100)) as market:
        for start in range(1, 5001, 50):
            market.fanout.publish(trades(ACME, 50, start))
            await trio.sleep(0.3)
        first = market.reader()
        first.wire.block()
        market.subscribe(first, "trade", replay=_request())
        await trio.sleep(1)
        _fill_after(first, writes=3)
        first.wire.drain()
        await trio.sleep(1)
        assert first.wire.is_blocked
        got = seqs(first)[ACME]
        cursor = first.of("update")[-1]["cursor"]
        assert cursor == f"e1-{got[-1]}"
        first.subscriber.end(CLIENT_GONE)
        second = market.replay(cursor=cursor)
        await until(lambda: is_live(second))
        assert got + seqs(second)[ACME] == list(range(1, 5001))
        assert second.of("snapshot") == second.of("gap") == []


async def test_cursor_behind_the_replay_resumes_live(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 50))
        reader = market.replay()
        await until(lambda: is_live(reader))
        market.fanout.publish(trades(ACME, 5, 51))
        await trio.testing.wait_all_tasks_blocked()
        again = market.replay(cursor="e1-52")
        assert is_live(again) or again.subscriber.session.subscriptions[1].backlog
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(again) == {ACME: [53, 54, 55]}


async def test_recording_of_an_earlier_life_ends_with_a_reset_and_the_state_of_now(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path, epoch="e1") as market:
        market.fanout.publish(trades(ACME, 5))
    async with recorded_market(tmp_path / "other", epoch="e2") as market:
        market.replays = type(market.replays)(
            market.tape, [TapeRecording("tape", tmp_path, in_thread=market.reading)], most=1
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.replays.run)
            market.fanout.publish([trade(ACME, 99), trade(BETA, 7)])
            await trio.testing.wait_all_tasks_blocked()
            reader = market.replay()
            await until(lambda: is_live(reader))
            market.fanout.publish([trade(ACME, 100)])
            await trio.testing.wait_all_tasks_blocked()
            kinds = [message["type"] for message in reader.messages()]
            assert kinds == ["update", "gap", "snapshot", "update"]
            [gap] = reader.of("gap")
            assert (gap["sym"], gap["from"], gap["to"], gap["reason"]) == (ACME, None, None, "feed_reset")
            [snapshot] = reader.of("snapshot")
            assert sorted(tick["id"] for tick in snapshot["data"]) == ["7", "99"]
            assert [tick["id"] for tick in reader.ticks()] == ["1", "2", "3", "4", "5", "100"]
            assert reader.of("update")[0]["cursor"] == "e1-5"
            nursery.cancel_scope.cancel()


async def test_recording_of_several_lives_is_played_through(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path, epoch="e1") as market:
        market.fanout.publish(trades(ACME, 5))
    await trio.sleep(1)
    async with recorded_market(tmp_path, epoch="e2") as market:
        market.fanout.publish(trades(ACME, 3, 6))
        reader = market.replay()
        resumed = market.replay(cursor="e1-4")
        await until(lambda: is_live(reader) and is_live(resumed))
        assert [tick["id"] for tick in reader.ticks()] == [str(n) for n in range(1, 9)]
        assert seqs(reader) == {ACME: [1, 2, 3, 4, 5, 1, 2, 3]}
        assert [gap["reason"] for gap in reader.of("gap")] == ["feed_reset"]
        assert seqs(resumed) == {ACME: [5, 1, 2, 3]}


async def test_hole_in_the_recording_is_told_by_its_numbers(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path, history=HistoryLimits(ticks=100)) as market:
        market.fanout.publish(trades(ACME, 10))
        await trio.sleep(1)
        market.disk.stall()
        market.fanout.publish(trades(ACME, 500, 11))
        await trio.sleep(1)
        market.fanout.publish(trades(ACME, 500, 511))
        await trio.sleep(1)
        market.disk.go_on()
        await trio.sleep(1)
        assert market.recorder.lost > 0
        reader = market.replay()
        await until(lambda: is_live(reader))
        missing = [(gap["from"], gap["to"], gap["reason"]) for gap in reader.of("gap")]
        told = [seq for first, last, _ in missing for seq in range(first, last + 1)]
        assert {reason for _, _, reason in missing} == {"overflow"}
        assert sorted(seqs(reader)[ACME] + told) == list(range(1, 1011))
        [entry] = reader.subscriber.session.ledger()
        assert (entry.offered, entry.dropped) == (1010, len(told))


@pytest.mark.parametrize("ch", ["trade", "book"])
@pytest.mark.parametrize("writes", range(1, 6))
async def test_gone_file_is_told_to_whoever_resumes_before_it(
    autojump_clock: object, tmp_path: Path, ch: str, writes: int
) -> None:
    async with recorded_market(tmp_path, history=HistoryLimits(ticks=100), file_bytes=4000) as market:
        for n in range(1, 201):
            delta = fat_book(ACME, 1)
            delta.kind = "delta" if n > 1 else "snapshot"
            market.fanout.publish([trade(ACME, n), delta])
            await trio.sleep(0.3)
        _delete_from_the_middle(tmp_path, files=2)
        first = market.reader()
        first.wire.block()
        market.subscribe(first, ch, replay=_request())
        await trio.sleep(1)
        _fill_after(first, writes)
        first.wire.drain()
        await trio.sleep(1)
        cursor = (first.of("update") or first.of("ack"))[-1]["cursor"]
        first.subscriber.end(CLIENT_GONE)
        second = market.replay(ch, cursor=cursor)
        await until(lambda: is_live(second))
        told = {*_told(first).get(ACME, []), *_told(second).get(ACME, [])}
        got = seqs(first, ch).get(ACME, []) + seqs(second, ch).get(ACME, [])
        assert told
        assert sorted([*got, *told]) == list(range(1, 201))
        [entry] = second.subscriber.session.ledger()
        assert entry.dropped == len(_told(second).get(ACME, []))


async def test_topic_that_is_not_recorded_is_shown_where_the_replay_goes_live(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path, what=What(symbols=(ACME,))) as market:
        market.fanout.publish(trades(ACME, 3) + trades(BETA, 3))
        reader = market.replay()
        await until(lambda: is_live(reader))
        market.fanout.publish(trades(ACME, 1, 4) + trades(BETA, 1, 4))
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(reader) == {ACME: [1, 2, 3, 4], BETA: [4]}
        [snapshot] = reader.of("snapshot")
        assert [(tick["sym"], tick["seq"]) for tick in snapshot["data"]] == [(BETA, 3)]


async def test_symbol_that_appears_during_the_replay_comes_once(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 3000))
        await trio.sleep(1)
        reader = market.reader()
        reader.wire.block()
        market.subscribe(reader, "trade", replay=_request())
        await trio.sleep(1)
        market.fanout.publish(trades(BETA, 5))
        await trio.sleep(1)
        reader.wire.drain()
        await until(lambda: is_live(reader))
        market.fanout.publish(trades(BETA, 1, 6))
        await trio.testing.wait_all_tasks_blocked()
        assert seqs(reader)[BETA] == [1, 2, 3, 4, 5, 6]


async def test_client_that_vanishes_takes_its_task_and_its_file_along(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with recorded_market(tmp_path) as market:
        for start in range(1, 20_001, 1000):
            market.fanout.publish(trades(ACME, 1000, start))
            await trio.sleep(0.3)
        reader = market.reader()
        reader.wire.block()
        market.subscribe(reader, "trade", replay=_request())
        await trio.sleep(1)
        assert market.replays.playing == 1
        assert _open_files(tmp_path) == 2, "the recorder's and the replay's"
        reader.subscriber.end(CLIENT_GONE)
        await trio.testing.wait_all_tasks_blocked()
        assert market.replays.playing == 0
        assert _open_files(tmp_path) == 1
        assert not market.router.mailboxes


async def test_unsubscribing_ends_the_replay_and_its_account(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 5000))
        await trio.sleep(1)
        reader = market.replay()
        _fill_after(reader, writes=2)
        await until(lambda: reader.wire.is_blocked)
        session = reader.subscriber.session
        assert not is_live(reader)
        answer: Any = session.handle(b'{"op":"unsubscribe","id":2,"sub":1}', trio.current_time(), 0)
        await trio.testing.wait_all_tasks_blocked()
        assert market.replays.playing == 0
        assert answer.ledger.delivered == answer.ledger.offered == len(reader.ticks()) < 5000


async def test_contract_can_be_changed_during_the_replay(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path) as market:
        market.fanout.publish(trades(ACME, 5000))
        await trio.sleep(1)
        reader = market.replay()
        _fill_after(reader, writes=2)
        await until(lambda: reader.wire.is_blocked)
        request = b'{"op":"modify","id":2,"sub":1,"delivery":{"queue":5,"overflow":"evict"}}'
        answer = reader.subscriber.session.handle(request, trio.current_time(), 0)
        assert type(answer).__name__ == "Ack"
        assert not is_live(reader)
        del reader.wire.offer  # type: ignore[method-assign]
        reader.wire.drain()
        await until(lambda: is_live(reader))
        assert seqs(reader) == {ACME: list(range(1, 5001))}
        assert_accounted(reader)


async def test_no_more_replays_than_allowed_play_at_a_time(autojump_clock: object, tmp_path: Path) -> None:
    async with recorded_market(tmp_path, most=1) as market:
        market.fanout.publish(trades(ACME, 5000))
        await trio.sleep(1)
        first = market.reader()
        first.wire.block()
        market.subscribe(first, "trade", replay=_request())
        with pytest.raises(RequestError, match="1 play already") as caught:
            market.replay()
        assert (caught.value.code, caught.value.retry) == ("too_many_replays", True)
        first.subscriber.end(ASKED)
        await trio.testing.wait_all_tasks_blocked()
        second = market.replay()
        await until(lambda: is_live(second))


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"recording": "tpae"}, "unknown_recording", ["tpae", "tape", "did you mean 'tape'"]),
        ({"since": "yesterday"}, "invalid_request", ["replay.from", "yesterday", "RFC 3339"]),
        ({"since": "2024-01-01T00:00:00"}, "invalid_request", ["replay.from"]),
    ],
)
async def test_replay_that_makes_no_sense_is_refused_and_changes_nothing(
    autojump_clock: object, tmp_path: Path, fields: dict[str, Any], code: str, named: list[str]
) -> None:
    async with recorded_market(tmp_path) as market:
        with pytest.raises(RequestError) as caught:
            market.replay(**fields)
        assert caught.value.code == code
        assert all(name in str(caught.value) for name in named), str(caught.value)
        assert not market.router.mailboxes
        assert market.replays.playing == 0


async def test_book_of_a_later_file_is_shown_whole(autojump_clock: object, tmp_path: Path) -> None:
    """The file in which the book began is deleted; the next one says what it looked like."""
    changes: dict[str, Any] = {"file_bytes": 1000, "max_bytes": 3000}
    async with recorded_market(tmp_path, **changes) as market:
        market.fanout.publish([fat_book(ACME)])
        for n in range(1, 200):
            delta = fat_book(ACME, 1)
            delta.kind = "delta"
            delta.bids = [(str(n), "1")]
            market.fanout.publish([delta])
            await trio.sleep(0.3)
        reader = market.replay("book")
        await until(lambda: is_live(reader))
        [snapshot] = reader.of("snapshot")
        [state] = snapshot["data"]
        assert state["kind"] == "snapshot"
        got = seqs(reader, "book")[ACME]
        assert got == list(range(state["seq"] + 1, 201))
        assert state["seq"] > 1


def _request() -> ReplayRequest:
    return ReplayRequest("tape")


def _told(reader: Reader) -> dict[str, list[int]]:
    """Return the numbers that the reader was told it will not get."""
    told: dict[str, list[int]] = {}
    for gap in reader.of("gap"):
        assert gap["reason"] == "overflow", gap
        told.setdefault(gap["sym"], []).extend(range(gap["from"], gap["to"] + 1))
    return told


def _fill_after(reader: Reader, writes: int) -> None:
    """Let the reader's wire be full after so many writes."""
    offer = reader.wire.offer

    def offer_and_count(data: bytes) -> None:
        offer(data)
        if reader.wire.writes >= writes:
            reader.wire.block()

    reader.wire.offer = offer_and_count  # type: ignore[method-assign]


def _delete_from_the_middle(folder: Path, files: int) -> None:
    recorded = sorted(folder.iterdir())
    for gone in recorded[len(recorded) // 2 :][:files]:
        gone.unlink()


def _open_files(folder: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(str(link.resolve()).startswith(str(folder)) for link in links)
