"""What ``feed check`` keeps, and how ``feed list`` shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.cli import feed_verdicts
from broker.cli.feed_verdicts import keep, standing
from broker.cli.main import main
from feeds.plugins import find_feed
from feeds.testing import Verdict

ADAPTER = """
from feeds.parsing import ParseFeed

class Lab(ParseFeed):
    api_version = 1
    venue = "LAB"
    url = "wss://lab.example"

    def parse(self, frame, rts):
        return ()
"""
OK, BAD, LEFT = (
    Verdict("import", "ok", ""),
    Verdict("stamps", "failed", "late"),
    Verdict("gap", "skipped", "no numbers"),
)


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    """An adapter in a file, imported."""
    (tmp_path / "lab.py").write_text(ADAPTER)
    return find_feed("lab.py:Lab", tmp_path).load()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def kept(feed: Any, environ: dict[str, str], *verdicts: Verdict) -> str:
    return keep(feed, "lab", "lab 1.0", "frames.jsonl", verdicts, environ)


def test_feed_that_nobody_checked_is_not_checked(lab: Any, environ: dict[str, str]) -> None:
    assert standing(lab, environ).text == "not checked"


def test_last_verdict_is_shown_with_its_day_and_what_failed(lab: Any, environ: dict[str, str]) -> None:
    assert kept(lab, environ, OK, LEFT) == ""
    passed = standing(lab, environ)
    assert passed.last is not None
    day = passed.last.at[:10]
    assert (passed.state, passed.text) == ("passed", f"passed {day}, 1 check, skipped gap")
    assert passed.last.skipped == {"gap": "no numbers"}
    kept(lab, environ, OK, BAD, OK)
    failed = standing(lab, environ)
    assert (failed.state, failed.text) == ("failed", f"failed {day}: stamps; passed 2 checks")


@pytest.mark.parametrize("name", ["lab.py", "frames.jsonl"])
def test_verdict_on_what_has_changed_since_is_said_to_be_old(
    lab: Any, environ: dict[str, str], tmp_path: Path, name: str
) -> None:
    kept(lab, environ, OK)
    (tmp_path / name).write_text(ADAPTER + "# changed")
    found = standing(lab, environ)
    assert found.state == "changed"
    assert found.text.startswith("not checked since it changed (passed, 20")


def test_any_file_of_a_package_counts_as_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    package = tmp_path / "labpack"
    package.mkdir()
    (package / "__init__.py").write_text(ADAPTER)
    (package / "part.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    feed = find_feed("labpack:Lab").load()
    kept(feed, environ, OK)
    assert standing(feed, environ).state == "passed"
    (package / "part.py").write_text("x = 2")
    assert standing(feed, environ).state == "changed"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}", b"\xff", b'{"source": 1}'])
def test_kept_file_that_is_damaged_was_never_there(lab: Any, environ: dict[str, str], content: bytes) -> None:
    kept(lab, environ, OK)
    for path in Path(environ["XDG_STATE_HOME"]).rglob("*.json"):
        path.write_bytes(content)
    assert standing(lab, environ).state == "unchecked"


def test_relative_state_folder_is_ignored_as_the_specification_says(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert kept(lab, {"XDG_STATE_HOME": "here"}, OK) == ""
    assert not (tmp_path / "here").exists()
    assert list((tmp_path / "home/.local/state/tapecast/checks").iterdir())


def test_state_folder_that_can_not_be_written_costs_a_warning_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["feed", "check", "simulated"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("simulated: 5 ok")
    assert captured.err.startswith("tapecast: feed check: what was found can't be kept for feed list: ")
    assert len(captured.err.splitlines()) == 1


def test_user_without_a_home_is_told(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(feed_verdicts.Path, "home", no_home)
    assert kept(lab, {}, OK) == "Could not determine home directory."
    assert standing(lab, {}).state == "unchecked"


def test_feed_list_shows_what_feed_check_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "lab.py").write_text(ADAPTER)
    config = tmp_path / "my.toml"
    config.write_text('[[feeds]]\ntype = "./lab.py:Lab"\nsymbols = ["A"]\n')
    assert main(["feed", "check", "./lab.py:Lab", "--config", str(config)]) == 1
    assert main(["feed", "check", "simulated"]) == 0
    capsys.readouterr()
    assert main(["feed", "list", "--config", str(config), "--json"]) == 0
    shown = orjson.loads(capsys.readouterr().out)
    checks = {each["type"]: each["checks"]["state"] for each in shown["types"]}
    assert checks["simulated"] == "passed"
    assert checks["kraken"] == "unchecked"
    assert checks["replay"] == "none"
    mine = shown["configured"][0]["checks"]
    assert mine["state"] == "failed"
    assert "frames" in mine["last"]["failed"]
    assert main(["feed", "list", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert f"checks: passed {mine['last']['at'][:10]}, 5 checks" in out
    assert f"checks: {mine['text']}" in out
