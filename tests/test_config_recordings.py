"""The ``[[recordings]]`` tables: what they may say, and what a mistake in them is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import load, load_config
from broker.config.recordings import FeedOptions, TapeOptions
from broker.core.errors import ConfigError

TAPE = {"type": "tape", "name": "tape", "path": "there"}
VENUE = {"type": "replay", "name": "cb", "path": "cb.gz"}


def problems(*tables: Any, **env: str) -> list[str]:
    """Return the lines of what is wrong with tables of the environment."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"TAPECAST_RECORDINGS": json.dumps(tables), **env}, {})
    return caught.value.problems


def test_tables_of_a_file_are_read_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[[recordings]]\ntype = "tape"\nname = "tape"\npath = "there"\nrecord = true\nchannels = ["quote"]\n'
        '[[recordings]]\ntype = "replay"\nname = "cb"\npath = "cb.gz"\nvenue = "OLD"\n'
    )
    loaded = load(path, {}, {})
    tape, venue = loaded.config.recordings
    assert tape == TapeOptions(name="tape", path="there", record=True, channels=["quote"])
    assert venue == FeedOptions(name="cb", path="cb.gz", venue="OLD")
    assert loaded.recordings_origin == f"{path}: recordings"


def test_there_are_none_by_default() -> None:
    assert load(None, {}, {}).config.recordings == ()


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({**TAPE, "type": "tap"}, '[0].type = "tap": no such kind; did you mean "tape"?'),
        ({"name": "x", "path": "y"}, "[0].type: is missing; must be one of tape, replay"),
        (5, "[0] = 5: must be a table with a `type`"),
        ({**TAPE, "recrd": True}, "[0].recrd = true: no such key; did you mean record?"),
        ({"type": "tape", "name": "x"}, "[0].path: is missing"),
        ({**TAPE, "channels": ["quotes"]}, '[0].channels[0] = "quotes"'),
        ({**TAPE, "symbols": ["acme"]}, '[0].symbols[0] = "acme": must be VENUE:SYMBOL'),
        ({**TAPE, "file_bytes": 2 << 20, "max_bytes": 1 << 20}, "[0].file_bytes = 2097152: must be at most"),
        ({**TAPE, "max_bytes": 5}, "[0].max_bytes = 5"),
        ({**TAPE, "name": "a/b"}, '[0].name = "a/b"'),
        ({**TAPE, "path": ""}, '[0].path = ""'),
        ({**VENUE, "speed": 5}, "[0].speed = 5: no such key"),
        ({**VENUE, "venue": "old"}, '[0].venue = "old"'),
    ],
)
def test_mistake_is_told_with_its_place_and_what_is_right(table: Any, line: str) -> None:
    [found] = problems(table)
    assert found.startswith(f"TAPECAST_RECORDINGS{line}")


def test_names_are_unique_and_no_two_write_to_one_folder() -> None:
    recorded = {**TAPE, "record": True}
    assert len(problems(recorded, {**recorded, "name": "other"})) == 1
    [line] = problems(TAPE, {**VENUE, "name": "tape"})
    assert "another recording has this name" in line


def test_recording_needs_the_history_that_it_is_taken_from() -> None:
    [line] = problems({**TAPE, "record": True}, TAPECAST_HISTORY__TICKS="0")
    assert line.startswith("TAPECAST_HISTORY__TICKS = 0: must be more than 0")
    env = {"TAPECAST_RECORDINGS": json.dumps([TAPE]), "TAPECAST_HISTORY__TICKS": "0"}
    assert load_config(None, env, {}).history.ticks == 0


def test_single_table_is_told_to_be_a_list(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[recordings]\ntype = "tape"\n')
    with pytest.raises(ConfigError, match=r"write \[\[recordings\]\], not \[recordings\]"):
        load_config(path, {}, {})


KEYS = sorted({*TapeOptions.model_fields, *FeedOptions.model_fields})
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), ANYTHING) | ANYTHING, max_size=3), st.booleans())
def test_any_tables_load_or_are_a_config_error(tables: list[Any], is_tape: bool) -> None:
    for table in tables:
        if isinstance(table, dict):
            table["type"] = "tape" if is_tape else "replay"
    lines: list[str] = []
    try:
        load_config(None, {"TAPECAST_RECORDINGS": json.dumps(tables)}, {})
    except ConfigError as exc:
        lines = exc.problems
    assert all(line.startswith("TAPECAST_RECORDINGS") and "\n" not in line for line in lines)
    assert lines or all(isinstance(table, dict) for table in tables)
