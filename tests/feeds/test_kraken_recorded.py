"""Kraken's recordings: which API they are of, and that they are told from other venues'."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import FrameError
from feeds.kraken_recorded import RecordedKrakenParser, is_v1, is_v2
from feeds.recording_formats import Origin, origin_of_file
from feeds.replay import Replay
from tests.feeds.fakes import FakeContext, golden
from tests.feeds.kraken_frames import RTS, v1_snapshot, v1_update

STRANGERS = [
    b'{"channel":"ticker","client_id":"","timestamp":"2023-02-09T20:30:37Z","sequence_num":0,"events":[{"type":"snapshot"}]}',
    b'{"channel":"l2Book","data":{"coin":"BTC","time":1,"levels":[[],[]]}}',
    b'{"event":"subscribe","channel":"book","prec":"P0","symbol":"tBTCUSD"}',
    b'[17470,[[23,1,1]],"te"]',
    b'{"event":"info","version":2}',
    b'{"type":"trade","symbol":"BTCUSD","channel":"x"}',
]


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_frames_show_their_api(api: str) -> None:
    frames = golden(f"kraken-{api}.jsonl")
    news = [frame for frame in frames if b'"data"' in frame or frame.startswith(b"[") or b"Status" in frame]
    assert len(news) >= 9
    assert [(is_v1(frame), is_v2(frame)) for frame in news] == [(api == "v1", api == "v2")] * len(news)


def test_long_array_is_told_by_its_ends() -> None:
    levels = [(f"{price}.5", "1.0") for price in range(1, 2000)]
    assert is_v1(v1_snapshot(levels, [], depth=1000).encode())


@pytest.mark.parametrize("frame", STRANGERS)
def test_frames_of_others_are_not_taken_for_krakens(frame: bytes) -> None:
    assert not is_v1(frame)
    assert not is_v2(frame)


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_recording_of_either_api_is_recognised_and_played(api: str, tmp_path: Path) -> None:
    file = tmp_path / "recorded"
    file.write_bytes(b"".join(b"1700000000: %s\n" % frame for frame in golden(f"kraken-{api}.jsonl")))
    assert origin_of_file(file) == Origin("kraken", "KRAKEN")
    for form in ("auto", "kraken"):
        ctx = FakeContext()
        feed = Replay(Replay.Options(path=str(file), format=form, speed="max"))
        assert feed.venue == "KRAKEN"
        await feed.run(ctx)
        assert len(ctx.ticks) == 7
        assert ctx.refusals == []
        assert ctx.gaps == []


def test_address_of_futures_is_another_venue(tmp_path: Path) -> None:
    for host, origin in (
        ("ws.kraken.com/v2", Origin("kraken", "KRAKEN")),
        ("futures.kraken.com/ws/v1", Origin(None, "futures.kraken.com")),
    ):
        (tmp_path / "recorded").write_bytes(b"wss://%s <-> 1633998512.5\n" % host.encode())
        assert origin_of_file(tmp_path / "recorded") == origin


def test_parser_begins_with_garbage_and_still_finds_its_api() -> None:
    parser = RecordedKrakenParser()
    for frame in (b"\xff\xfe", "not a frame", ""):
        with pytest.raises(FrameError):
            parser.parse(frame, RTS)
    assert len(parser.parse(v1_snapshot([("9.0", "1.0")], []), RTS)) == 1
    with pytest.raises(FrameError):
        parser.parse(v1_update([("9.0", "x")], [], 1), RTS)
    assert parser.take_gaps() == [("book", "KRAKEN:BTC-USD")]
    assert parser.parse_body("https://api.kraken.com/0/public/AssetPairs", "{}", RTS) == []


def test_recorder_that_connected_again_begins_its_books_again() -> None:
    parser = RecordedKrakenParser("OTHER")
    parser.parse(v1_snapshot([("9.0", "1.0")], []), RTS)
    parser.reset()
    assert parser.take_gaps() == [("book", "OTHER:BTC-USD")]
