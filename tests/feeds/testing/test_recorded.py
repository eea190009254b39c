"""Recordings in place of golden frames: which files are taken, and what is said of those that are not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from broker.cli.main import main
from feeds.testing import Subject, SubjectError
from tests.feeds.recorded import record_coinbase

ADAPTER = """
from feeds.coinbase import Coinbase


class Mine(Coinbase):
    api_version = 1
"""
QUOTE = '{"ch":"quote","sym":"COINBASE:BTC-USD","ts":"1","bid":"1","bid_size":"1","ask":"2","ask_size":"1"}'
KRAKEN = '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":1.5,"ask":2.5}]}'


@pytest.fixture
async def recorded(tmp_path: Path) -> Path:
    """A file of `tapecast record`, of a scripted Coinbase."""
    await record_coinbase(tmp_path / "recorded.tpfd")
    return tmp_path / "recorded.tpfd"


def loaded(kind: str, path: Path, folder: Path = Path(), **settings: object) -> Subject:
    subject = Subject(kind, settings, folder=folder, recording=path)
    subject.load()
    return subject


def packed(path: Path) -> Path:
    other = path.with_suffix(".gz")
    other.write_bytes(gzip.compress(path.read_bytes()))
    return other


async def test_recorded_feed_is_checked_with_the_options_that_it_was_recorded_with(recorded: Path) -> None:
    subject = loaded("coinbase", recorded)
    assert subject.names() == ("BTC-USD",)
    assert subject.golden.is_recorded
    # Two lives of the same frames.
    assert len(subject.golden.frames) % 2 == 0
    assert "nonsense" in subject.golden.left_out


async def test_recorded_feed_may_be_packed(recorded: Path) -> None:
    assert loaded("coinbase", packed(recorded)).golden.frames == loaded("coinbase", recorded).golden.frames


async def test_options_that_are_given_go_before_those_recorded(recorded: Path) -> None:
    subject = loaded("coinbase", recorded, symbols=["ETH-USD"])
    assert subject.names() == ("ETH-USD",)
    assert "nobody subscribed to 'BTC-USD'" in subject.golden.left_out


async def test_adapter_of_ones_own_takes_the_symbols_of_another_recorder(recorded: Path) -> None:
    (recorded.parent / "mine.py").write_text(ADAPTER)
    subject = loaded("mine.py:Mine", recorded, recorded.parent)
    assert subject.names() == ("BTC-USD",)
    assert subject.golden.frames == loaded("coinbase", recorded).golden.frames


async def test_recording_of_another_venue_says_of_which(recorded: Path) -> None:
    text = "is a recording of the feed coinbase, of COINBASE; must be of GEMINI"
    with pytest.raises(SubjectError, match=text):
        loaded("gemini", recorded)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"TAPE\x01\x00\x00\x00", "is a recording of the broker's tape, of ticks"),
        (b"\x00\x9f" * 500, "is no recording"),
        (b"hello\nworld\n", "is no recording"),
        (QUOTE.encode(), "has ticks, and not the frames"),
        (b"ch,sym,ts,price,size\ntrade,COINBASE:BTC-USD,1,2,3\n", "has ticks, and not the frames"),
        (b'//! option symbols = ["BTC-USD"]\n{"type":"subscriptions"}\n', "name it with --frames"),
    ],
)
def test_file_that_is_no_recording_says_what_it_is_and_what_would_be_right(
    tmp_path: Path, content: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    argv = ["feed", "check", "coinbase", "--recording", str(path), "--option", "symbols=BTC-USD"]
    assert main(argv) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert says in line
    assert "must be a file of `tapecast record`, or text with a line `<receive time in ns> <frame>`" in line


def test_frames_of_another_venue_say_of_which(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(f"1600000000000000000 {KRAKEN}\n")
    with pytest.raises(SubjectError, match="has frames of KRAKEN, for the feed kraken; must be of COINBASE"):
        loaded("coinbase", path, symbols=["BTC-USD"])


def test_folder_in_place_of_a_recording_is_its_files(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="there is no such recording"):
        loaded("coinbase", tmp_path, symbols=["BTC-USD"])
