"""``tapecast feed new`` and ``tapecast feed check``, as a newcomer runs them; and the plug-in of pytest."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
import trio_websocket

from broker.cli.main import main
from feeds.testing import Subject
from feeds.testing.live import observe
from feeds.testing.scripted_venue import ScriptedVenue
from tests.feeds.testing.adapters import WRONG, write_adapter

ROOT = Path(__file__).parents[3]


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A package that `feed new` has just written, importable."""
    monkeypatch.chdir(tmp_path)
    assert main(["feed", "new", "acme"]) == 0
    capsys.readouterr()
    monkeypatch.syspath_prepend(str(tmp_path / "tapecast-acme"))
    return tmp_path / "tapecast-acme"


def checked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Run `feed check --json`; return its exit code and what it says of each check."""
    code = main(["feed", "check", *argv, "--json"])
    shown = orjson.loads(capsys.readouterr().out)
    return code, {each["check"]: each for each in shown["checks"]}


def test_new_feed_passes_every_check_and_skips_none(acme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, verdicts = checked(capsys, "tapecast_acme:Acme")
    assert code == 0
    assert {name: each for name, each in verdicts.items() if each["outcome"] != "ok"} == {}


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_new_venue_plays_its_frames_or_a_recording(
    acme: Path, monkeypatch: pytest.MonkeyPatch, is_recorded: bool
) -> None:
    module = importlib.import_module("tapecast_acme.venue")
    monkeypatch.delitem(sys.modules, "tapecast_acme.venue")
    monkeypatch.delitem(sys.modules, "tapecast_acme")
    recording = acme / "acme.frames"
    recording.write_text('1772366400000000000 {"channel":"heartbeat"}\n1772366400000000001 {"channel":"x"}\n')
    frames = module.frames_of(recording if is_recorded else None)
    assert len(frames) == (2 if is_recorded else 13)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            play = partial(module.play, frames, 0.0)
            serve = partial(trio_websocket.serve_websocket, play, "127.0.0.1", 0, ssl_context=None)
            server = await nursery.start(serve)
            async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{server.port}") as socket:
                await socket.send_message("all")
                # From the beginning again, at the end.
                assert [await socket.get_message() for _ in range(len(frames) + 1)] == [*frames, frames[0]]
            nursery.cancel_scope.cancel()


def test_new_venue_says_that_there_is_no_such_recording(acme: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tapecast_acme.venue", "--recording", "nowhere.gz"],
        cwd=acme,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nowhere.gz: there is no such recording" in done.stderr


def test_new_package_passes_its_own_tests(acme: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=acme,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "20 passed" in done.stdout


def test_new_feed_says_how_to_be_found_by_its_name(acme: Path) -> None:
    assert (
        '[project.entry-points."tapecast.feeds"]\nacme = "tapecast_acme:Acme"'
        in (acme / "pyproject.toml").read_text()
    )
    files = {path.relative_to(acme).as_posix() for path in acme.rglob("*") if path.is_file()}
    assert not any("@" in (acme / name).read_text() for name in files - {"tests/test_tapecast_acme.py"})


def test_name_with_a_dash_makes_a_package_that_python_can_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feed", "new", "my-lab2", "--folder", str(tmp_path / "x")]) == 0
    capsys.readouterr()
    monkeypatch.syspath_prepend(str(tmp_path / "x"))
    code, verdicts = checked(capsys, "tapecast_my_lab2:MyLab2")
    assert code == 0
    assert verdicts["symbols"]["detail"] == "2 of 2: ['MY_LAB2:BTC-USD', 'MY_LAB2:ETH-USD']"


@pytest.mark.parametrize("name", ["Acme", "9lab", "a b", "../x", "", "x" * 40, "class", "kraken", "lab-"])
def test_bad_name_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["feed", "new", name]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "like"),
    [("HyperLiquid", "hyperliquid"), ("my  Feed", "my-feed"), ("lab--2", "lab-2"), ("1inch", "acme"), ("é", "acme")],
)  # fmt: skip
def test_bad_name_is_told_with_one_that_would_do(
    name: str, like: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feed", "new", name]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"between them, like {like}")


def test_folder_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["feed", "new", "lab", "--folder", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_failed_check_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = write_adapter(tmp_path, WRONG["stamps seconds"].source)
    code, verdicts = checked(capsys, kind)
    assert code == 1
    assert {name for name, each in verdicts.items() if each["outcome"] == "failed"} == {"frames", "stamps"}


def test_check_prints_a_line_for_each_check_and_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = write_adapter(tmp_path)
    assert main(["feed", "check", kind, "--skip", "fuzz=takes too long", "--bless"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "skipped fuzz         takes too long" in lines
    assert lines[-1] == "lab.py:Lab: 18 ok, 2 skipped"


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["nothing"], 1, "there is no such feed; see tapecast feed list"),
        (["Kraken"], 1, "there is no such feed; did you mean 'kraken'?"),
        (["./mine.py"], 1, "say which class of the file it is: ./mine.py:Class"),
        (["replay"], 1, "only adapters are checked"),
        (["kraken", "--option", "symbols=X"], 1, "is no pair of Kraken"),
        (["kraken", "--option", "symbols"], 2, "must be key=value"),
        (["kraken", "--skip", "nix=because"], 1, "no such check"),
        (["kraken", "--live", "0"], 2, "above 0"),
        (["kraken", "--recording", "nowhere.gz", "--option", "symbols=BTC-USD"], 1, "no such recording"),
    ],
)
def test_what_can_not_be_checked_says_why(
    argv: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feed", "check", *argv]) == code
    assert says in capsys.readouterr().err


def test_feed_of_a_configuration_is_checked_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = write_adapter(tmp_path)
    config = tmp_path / "broker.toml"
    config.write_text(f'[[feeds]]\nname = "bench"\ntype = "./{kind}"\nsymbols = ["ETH-USD"]\n')
    code, verdicts = checked(capsys, "bench", "--config", str(config))
    # The frames are of another symbol than the configuration.
    assert code == 1
    assert "no tick comes out" in verdicts["frames"]["detail"]


def test_plug_in_makes_a_test_of_each_check(tmp_path: Path) -> None:
    write_adapter(tmp_path, WRONG["publishes floats"].source)
    (tmp_path / "test_lab.py").write_text(
        "import pytest\n"
        "@pytest.mark.tapecast_feed('lab.py:Lab', skips={'huge': 'no time'})\n"
        "def test_lab(feed_check):\n    feed_check()\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            "-p",
            "feeds.testing.plugin",
            "-k",
            "stamps or decimals or huge",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    assert "no time" in done.stdout
    assert "decimals: bids = 100.1 is a float" in done.stdout


async def test_live_report_tells_what_the_venue_brings(tmp_path: Path, autojump_clock: object) -> None:
    subject = Subject(write_adapter(tmp_path), folder=tmp_path)
    subject.load()
    seen = await observe(subject, 10.0, ScriptedVenue(subject.golden))
    shown = seen.as_object()
    assert seen.is_good
    assert (shown["ticks"], shown["connections"], shown["refused"]) == ({"book": 4, "trade": 1}, 1, {})
    assert shown["lag_ms"]["most"] >= shown["lag_ms"]["median"] > 0


async def test_live_report_tells_what_is_wrong(tmp_path: Path, autojump_clock: object) -> None:
    subject = Subject(write_adapter(tmp_path, WRONG["stamps seconds"].source), folder=tmp_path)
    subject.load()
    seen = await observe(subject, 10.0, ScriptedVenue(subject.golden))
    assert not seen.is_good
    assert "in nanoseconds" in seen.as_lines()[-1]
