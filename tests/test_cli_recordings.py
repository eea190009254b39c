"""``tapecast record`` and ``tapecast replay``: what they write, serve, compare, and refuse."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trio

from broker.cli.main import main
from broker.core.raw_recording import Begun, Published, encode_block
from tests.feeds.recorded import events_in, record_coinbase

CSV = "ch,sym,ts,bid,bid_size,ask,ask_size\n" + "".join(
    f"quote,NYSE:IBM,{1_700_000_000_000_000_000 + n},{n},1,,\n" for n in range(500)
)


@pytest.fixture
def ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a file of ticks, and return the flag that makes a feed of it."""
    monkeypatch.chdir(tmp_path)
    # Loggers that other tests use would keep this test's stderr.
    monkeypatch.setattr("broker.logs.set_up_logging", lambda level, form: None)
    (tmp_path / "ticks.csv").write_text(CSV)
    return "path=ticks.csv"


def test_recorded_feed_is_a_recording_that_can_be_recorded_again(
    ticks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "one", "--feed", "replay", "--set", ticks, "--set", 'speed="max"']) == 0
    assert "one: 0 frames, 500 ticks" in capsys.readouterr().out
    assert main(["record", "two", "--feed", "replay", "--set", "path=one", "--set", "speed=max"]) == 0
    assert "two: 0 frames, 500 ticks" in capsys.readouterr().out
    events = events_in(Path("two"))
    begun = events[0]
    assert isinstance(begun, Begun)
    assert (begun.feed, begun.kind, begun.venue) == ("replay", "replay", "NYSE")
    assert begun.options == {"path": "one", "speed": "max"}


def test_configured_feed_is_recorded_as_it_is_configured(
    ticks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = '[[feeds]]\ntype = "replay"\nname = "mine"\npath = "ticks.csv"\nspeed = "max"\nvenue = "MINE"\n'
    (tmp_path / "my.toml").write_text(table)
    assert main(["record", "one", "--feed", "mine", "--config", "my.toml"]) == 0
    ticks_ = [event.tick for event in events_in(Path("one")) if isinstance(event, Published)]
    assert len(ticks_) == 500
    assert all(b"MINE:IBM" in tick for tick in ticks_)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--feed", "replai"], 'there is no feed "replai"; did you mean "replay"?'),
        (["--feed", "replay"], "--set path: is missing"),
        (["--feed", "replay", "--set", "path"], "--set 'path': must be KEY=VALUE"),
        (
            ["--feed", "replay", "--set", "path=x", "--set", "sped=1"],
            "--set sped = 1: no such key; did you mean speed",
        ),
        (["--feed", "replay", "--set", "path=missing"], "brought nothing: missing: no such file"),
    ],
)
def test_feed_that_can_not_be_recorded_is_one_message(
    ticks: str, capsys: pytest.CaptureFixture[str], flags: list[str], text: str
) -> None:
    assert main(["record", "one", *flags]) == 1
    assert text in capsys.readouterr().err


def test_file_that_is_something_else_is_not_written_to(
    ticks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "ticks.csv", "--feed", "replay", "--set", ticks]) == 1
    assert (
        "ticks.csv: is there, and no recording of a feed: nothing is written to it" in capsys.readouterr().err
    )
    assert Path("ticks.csv").read_text() == CSV


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["missing"], "replay: missing: no such file"),
        (["ticks.csv", "--speed", "fast"], 'speed = "fast": must be a number or "max"'),
        (["ticks.csv", "--speed", "0"], "speed = 0.0: must be"),
        (["ticks.csv", "--format", "csv"], 'format = "csv": must be one of'),
        (["ticks.csv", "--verify"], "not a recording of `tapecast record`"),
        (["missing", "--verify"], "missing: No such file"),
    ],
)
def test_recording_that_can_not_be_replayed_is_one_message(
    ticks: str, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert main(["replay", *arguments]) == 1
    assert text in capsys.readouterr().err


def test_verify_tells_that_a_feed_had_no_frames(ticks: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "one", "--feed", "replay", "--set", ticks, "--set", 'speed="max"']) == 0
    assert main(["replay", "one", "--verify"]) == 1
    assert "there are no frames in it to be compared" in capsys.readouterr().err


def test_verify_ends_with_1_at_the_first_difference(ticks: str, capsys: pytest.CaptureFixture[str]) -> None:
    published = trio.run(record_coinbase, Path("coinbase"))
    assert main(["replay", "coinbase", "--verify"]) == 0
    assert (
        f"the same ticks, byte for byte: 24 frames and answers, {len(published)} ticks"
        in capsys.readouterr().out
    )
    events = events_in(Path("coinbase"))
    events.remove(next(event for event in events if isinstance(event, Published)))
    Path("coinbase").write_bytes(encode_block(events))
    assert main(["replay", "coinbase", "--verify"]) == 1
    out = capsys.readouterr().out
    assert "the ticks differ, behind 1 frames and answers, 0 ticks" in out
    assert '  recorded: {"ch":"book"' in out
    assert '"kind":"snapshot"' in out.partition("made now:")[2]


def test_replay_serves_the_recording_at_the_url_that_it_prints(ticks: str) -> None:
    command = [
        sys.executable,
        "-m",
        "broker",
        "replay",
        "ticks.csv",
        "--port",
        "0",
        "--loop",
        "--speed",
        "max",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(Path(__file__).parents[1])}
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        url = first.partition(" at ")[2].partition("/ (")[0]
        stream = f"{url}/v1/stream?ch=quote&symbols=NYSE:IBM&mode=every&format=ndjson"
        with urllib.request.urlopen(stream, timeout=20) as answer:
            updates = (message for message in map(json.loads, answer) if message["type"] == "update")
            assert next(updates)["data"][0]["sym"] == "NYSE:IBM"
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(20) == 0
