"""The configuration: precedence, and that every mistake is reported with its place and the remedy."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker.config import Config, default_toml, load, load_config
from broker.config.recordings import read_recordings
from broker.config.sources import all_keys, variable
from broker.config.tree import SECTIONS
from broker.core.errors import ConfigError
from feeds import FEEDS

ROOT = Path(__file__).parent.parent


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path: Path | None = None, env: dict[str, str] | None = None, **flags: object) -> list[str]:
    """Load what must not load, and return the lines, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, env or {}, {key.replace("__", "."): value for key, value in flags.items()})
    folder = f"{path.parent}/" if path else ""
    return [line.replace(folder, "") if folder else line for line in caught.value.problems]


# --- the default file -------------------------------------------------------------------------------


def test_config_toml_is_what_the_keys_in_the_code_say() -> None:
    assert (ROOT / "config.toml").read_text() == default_toml(), (
        "write it again: tapecast config default > config.toml"
    )


def test_config_toml_gives_every_key_its_default() -> None:
    tables = tomllib.loads((ROOT / "config.toml").read_text())
    assert set(tables) == {*SECTIONS, "feeds"}
    for section, model in SECTIONS.items():
        assert tables[section] == model().model_dump(), section
    assert load_config(ROOT / "config.toml", {}, {}).model_dump() == Config().model_dump()


def test_config_toml_gives_every_key_of_the_simulated_feed() -> None:
    [feed] = tomllib.loads((ROOT / "config.toml").read_text())["feeds"]
    assert set(feed) == set(FEEDS["simulated"].Options.model_fields)
    # Each feed has its own type of options, and a dump as the base would leave their keys out.
    [of_file] = load_config(ROOT / "config.toml", {}, {}).feeds
    [of_code] = Config().feeds
    assert of_file.model_dump() == of_code.model_dump()


def test_examples_in_config_toml_work_once_the_comment_signs_are_gone(tmp_path: Path) -> None:
    text = (ROOT / "config.toml").read_text()
    examples = "\n".join(re.findall(r"^# \[\[(?:.+\n)+", text, re.MULTILINE))
    path = write(tmp_path, re.sub(r"^# ", "", examples, flags=re.MULTILINE))
    config = load_config(path, {}, {})
    own = "./examples/feeds/parse_only.py:Okx"
    kinds = ["replay", "coinbase", "binance", "process", "ingest", "nats", "redis", own]
    assert [feed.type for feed in config.feeds] == kinds
    assert [recording.type for recording in config.recordings] == ["tape", "replay"]
    tape = {"type": "tape", "name": "tape", "path": "recordings/tape"}
    [of_example] = read_recordings([tape], "")[0]
    assert config.recordings[0] == of_example, "the example shows the defaults"


def test_every_key_says_what_it_does() -> None:
    assert [key for key in all_keys() if not SECTIONS[key[0]].model_fields[key[1]].description] == []


# --- precedence -------------------------------------------------------------------------------------


def test_without_anything_the_defaults_are_in_force() -> None:
    config = load_config(None, {"PATH": "/bin"}, {})
    assert (config.server.port, config.limits.sessions, config.log.level) == (8765, 10_000, "info")
    assert [feed.type for feed in config.feeds] == ["simulated"]


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nhost = "::1"\nport = 1\nheartbeat_s = 2\n')
    env = {"TAPECAST_SERVER__PORT": "2", "TAPECAST_SERVER__HOST": "localhost"}
    loaded = load(path, env, {"server.port": 3, "server.host": None})
    server = loaded.config.server
    assert (server.port, server.host, server.heartbeat_s, server.drain_s) == (3, "localhost", 2.0, 3.0)
    assert loaded.origins == {
        ("server", "port"): "--port",
        ("server", "host"): "TAPECAST_SERVER__HOST",
        ("server", "heartbeat_s"): f"{path}: [server] heartbeat_s",
    }


@pytest.mark.parametrize("key", all_keys(), ids=".".join)
def test_every_key_can_be_set_by_a_variable(key: tuple[str, str]) -> None:
    section, name = key
    default = getattr(SECTIONS[section](), name)
    text: str
    value: object
    if name in ("tls_cert", "tls_key"):
        text = value = ""  # anything else must exist
    elif key == ("server", "admin"):
        text = value = "nobody"
    elif key == ("log", "level"):
        text = value = "error"
    elif key == ("log", "format"):
        text = value = "json"
    elif isinstance(default, bool):
        text, value = str(not default), not default
    elif isinstance(default, str):
        text = value = "localhost"
    else:
        value = default / 2 if section == "slow_consumer" else type(default)(default + 1)
        text = str(value)
    config = load_config(None, {variable(key): text}, {})
    assert getattr(getattr(config, section), name) == value


def test_feeds_of_the_environment_replace_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[[feeds]]\ntype = "simulated"\n[[feeds]]\ntype = "simulated"\nname = "other"\n')
    assert len(load_config(path, {}, {}).feeds) == 2
    env = {"TAPECAST_FEEDS": json.dumps([{"type": "simulated", "seed": 7}])}
    [feed] = load_config(path, env, {}).feeds
    assert feed.model_dump()["seed"] == 7
    assert load(path, env, {}).feeds_origin == "TAPECAST_FEEDS"


def test_variable_names_the_file_unless_a_flag_does(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\n")
    env = {"TAPECAST_CONFIG": str(path)}
    assert load_config(None, env, {}).server.port == 1
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2\n")
    assert load_config(other, env, {}).server.port == 2
    assert load_config(None, {"TAPECAST_CONFIG": ""}, {}).server.port == 8765


def test_feeds_keep_their_own_options(tmp_path: Path) -> None:
    path = write(tmp_path, '[[feeds]]\ntype = "simulated"\nsymbols = ["ACME"]\n')
    [feed] = load_config(path, {}, {}).feeds
    assert isinstance(feed, FEEDS["simulated"].Options)
    assert list(feed.model_dump()["symbols"]) == ["ACME"]


def test_configuration_cannot_be_changed_afterwards() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.server.port = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.feeds = ()


# --- mistakes ---------------------------------------------------------------------------------------


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
[server]
port = 99999
prot = 1
heartbeat_s = "ten"
[sever]
[log]
level = "inof"
[debug]
echo = "yes"
[[feeds]]
type = "simulatd"
[[feeds]]
type = "simulated"
sed = 2
[[feeds]]
speed = 1
""",
    )
    of_feeds = ", ".join(f'"{kind}"' for kind in sorted(FEEDS))
    assert sorted(problems(path)) == sorted(
        [
            "config.toml: [server] port = 99999: must be a whole number from 0 to 65535",
            "config.toml: [server] prot = 1: no such key; did you mean port?",
            'config.toml: [server] heartbeat_s = "ten": must be a number from 1 to 3600',
            "config.toml: [sever]: no such section; did you mean [server]?",
            'config.toml: [log] level = "inof": must be one of "debug", "info", "warning", "error"; '
            'did you mean "info"?',
            'config.toml: [debug] echo = "yes": must be true or false',
            'config.toml: feeds[0].type = "simulatd": no such feed; did you mean "simulated"?',
            "config.toml: feeds[1].sed = 2: no such key; did you mean seed?",
            f"config.toml: feeds[2].type: is missing; must be one of {of_feeds}",
        ]
    )


def test_mistakes_of_all_sources_are_reported_together_also_where_one_hides_another(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = -1\n")
    assert problems(path, {"TAPECAST_SERVER__PORT": "abc"}, server__port=70_000) == [
        "config.toml: [server] port = -1: must be a whole number from 0 to 65535",
        'TAPECAST_SERVER__PORT = "abc": must be a whole number from 0 to 65535',
        "--port = 70000: must be a whole number from 0 to 65535",
    ]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("TAPECAST_SERVER__PROT", "did you mean TAPECAST_SERVER__PORT?"),
        ("TAPECAST_SERVER_PORT", "did you mean TAPECAST_SERVER__PORT?"),
        ("TAPECAST_PORT", "did you mean TAPECAST_SERVER__PORT?"),
        ("tapecast_server__port", "did you mean TAPECAST_SERVER__PORT?"),
        ("TAPECAST_FEED", "did you mean TAPECAST_FEEDS?"),
        ("TAPECAST_ZZZ", "they are called TAPECAST_SECTION__KEY"),
        ("TAPECAST_", "they are called TAPECAST_SECTION__KEY"),
    ],
)
def test_unknown_variable_is_a_mistake(name: str, remedy: str) -> None:
    assert problems(env={name: "1"}) == [f'{name} = "1": no such variable; {remedy}']


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port = 1", "port = 1: belongs to a section; put it under [server]"),
        ("server = 2", "server = 2: must be a section, [server]"),
        ("[limits]\necho = true", "[limits] echo = true: no such key; it belongs to [debug]"),
        ("[feeds]\ntype = 'simulated'", "feeds: must be a list of tables; write [[feeds]], not [feeds]"),
        ("feeds = 3", "feeds = 3: must be a list of tables, [[feeds]]"),
        ("feeds = [3]", "feeds[0] = 3: must be a table with a `type`"),
        ("[server]\nport = true", "[server] port = true: must be a whole number from 0 to 65535"),
        ("[server]\nport = 80.5", "[server] port = 80.5: must be a whole number from 0 to 65535"),
        ('[server]\nport = "80"', '[server] port = "80": must be a whole number from 0 to 65535'),
        ("[server]\ndrain_s = nan", "[server] drain_s = nan: must be a number from 0 to 300"),
        ("[server]\ndrain_s = inf", "[server] drain_s = inf: must be a number from 0 to 300"),
        ("[server]\ndrain_s = 1979-05-27", "[server] drain_s = 1979-05-27: must be a number from 0 to 300"),
        ("[server]\nhost = 1", "[server] host = 1: must be text in quotes"),
        (
            '[server]\nhost = "a b"',
            '[server] host = "a b": must be a host name or an address, e.g. 127.0.0.1',
        ),
        (
            '[server]\nhost = "a..b"',
            '[server] host = "a..b": must be a host name or an address, e.g. 127.0.0.1',
        ),
        ("[log]\nformat = 3", '[log] format = 3: must be one of "auto", "console", "json"'),
        ("[[feeds]]\ntype = 'replay'", "feeds[0].path: is missing"),
        ('[log]\n"a\\nb" = "\\u001b[31m"', '[log] a\\nb = "\\x1b[31m": no such key; there are format, level'),
    ],
)
def test_mistake_names_place_value_and_remedy(tmp_path: Path, text: str, line: str) -> None:
    assert problems(write(tmp_path, text)) == [f"config.toml: {line}"]


def test_two_feeds_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, '[[feeds]]\ntype = "simulated"\n[[feeds]]\ntype = "simulated"\nseed = 2\n')
    assert problems(path) == [
        'config.toml: feeds[1].name = "simulated" (its type, as none is given): feeds[0] has this name; '
        "give one of them a name of its own"
    ]


@pytest.mark.parametrize("text", ["{", '{"type": "simulated"}', "", "3"])
def test_feeds_in_the_environment_must_be_a_json_list(text: str) -> None:
    [line] = problems(env={"TAPECAST_FEEDS": text})
    assert line.startswith("TAPECAST_FEEDS = ")
    assert 'must be a list in JSON, e.g. [{"type": "simulated"}]' in line


def test_write_deadline_must_end_before_a_client_is_given_up_as_silent(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nping_interval_s = 2\nping_timeout_s = 3\n")
    [line] = problems(path)
    assert "write_deadline_s = 5.0: must be less than ping_interval_s + ping_timeout_s = 2 + 3 s" in line
    assert (
        load_config(path, {"TAPECAST_SLOW_CONSUMER__WRITE_DEADLINE_S": "4.9"}, {}).server.ping_timeout_s == 3
    )


def test_budget_below_what_it_is_made_of_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "[limits]\nqueue_ticks = 200_000\ntotal_queue_bytes = 10_000_000\n")
    ticks, size = problems(path)
    assert "session_queue_ticks = 100000: must be at least queue_ticks = 200000" in ticks
    assert "config.toml: [limits] total_queue_bytes = 10000000: must be at least session_queue_bytes" in size
    flags = {"limits.session_queue_ticks": 200_000, "limits.total_queue_bytes": 16_777_216}
    assert load_config(path, {}, flags).limits.session_queue_ticks == 200_000


# --- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    cert = trustme.CA().issue_cert("localhost")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


def tls_env(cert: str = "", key: str = "") -> dict[str, str]:
    return {"TAPECAST_SERVER__TLS_CERT": cert, "TAPECAST_SERVER__TLS_KEY": key}


def test_certificate_and_its_key_are_accepted(pair: tuple[str, str]) -> None:
    assert load_config(None, tls_env(*pair), {}).server.tls_key == pair[1]


def test_certificate_and_key_go_together(pair: tuple[str, str]) -> None:
    cert, key = pair
    assert problems(env=tls_env(cert=cert)) == [f'TAPECAST_SERVER__TLS_CERT = "{cert}": needs tls_key too']
    assert problems(env=tls_env(key=key)) == [f'TAPECAST_SERVER__TLS_KEY = "{key}": needs tls_cert too']


def test_certificate_files_must_be_there(tmp_path: Path) -> None:
    assert problems(env=tls_env("no.pem", "/")) == [
        'TAPECAST_SERVER__TLS_CERT = "no.pem": must be a PEM file: No such file or directory',
        'TAPECAST_SERVER__TLS_KEY = "/": must be a PEM file: Is a directory',
    ]


def test_key_must_be_that_of_the_certificate(pair: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    [line] = problems(env=tls_env(pair[0], str(other)))
    assert "must be a certificate and its own key: key values mismatch" in line


# --- files that are no configuration ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"[server]\nport = \n", "config.toml:2:8: not TOML: invalid value"),
        (b"[server", "config.toml:1:8: not TOML: expected ']' at the end of a table declaration"),
        (b"a = 1\na = 2\n", "config.toml:2:6: not TOML: cannot overwrite a value"),
        (b"\x7fELF\x02", "config.toml:1:1: not TOML"),
        (b"# fine\nx = '\xff'", "config.toml:2:6: not TOML: byte 0xff isn't UTF-8 text"),
        (b"a = " + b"[" * 5000, "config.toml: not a configuration file: nested too deeply"),
        (b"a = " + b"9" * 5000, "config.toml: not a configuration file: a number in it is far too long"),
        (b" " * (5 << 20), "config.toml: not a configuration file: larger than 4 MiB"),
    ],
    ids=["value", "end", "twice", "binary", "utf-8", "deep", "digits", "large"],
)
def test_file_that_is_not_toml_is_one_problem_with_its_place(tmp_path: Path, text: bytes, line: str) -> None:
    [found] = problems(write(tmp_path, text))
    assert found.startswith(line)


def test_number_too_large_to_print_is_a_problem_like_others(tmp_path: Path) -> None:
    [line] = problems(write(tmp_path, "[server]\nport = 0x" + "9" * 5000))
    assert line == "config.toml: [server] port = a very large number: must be a whole number from 0 to 65535"


def test_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, b"\xef\xbb\xbf[server]\r\nport = 1\r\n"), {}, {}).server.port == 1


def test_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path / "config.toml") == ["config.toml: there is no such file"]


def test_directory_is_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "config.d"
    folder.mkdir()
    assert problems(folder) == ["config.d: is a directory; name a TOML file in it"]


def test_mistakes_elsewhere_are_reported_beside_a_file_that_is_not_toml(tmp_path: Path) -> None:
    found = problems(write(tmp_path, "[server"), {"TAPECAST_SERVER__PORT": "x"})
    assert len(found) == 2


def test_two_feeds_must_not_be_recorded_into_one_file() -> None:
    tables = [{"type": "simulated", "record": "x"}, {"type": "simulated", "name": "two", "record": "x"}]
    assert refusals({"TAPECAST_FEEDS": json.dumps(tables)}) == [
        'feeds: "two" and "simulated" have the same record = "x"; give each a file of its own'
    ]


# --- anything at all --------------------------------------------------------------------------------

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FEED_KEYS = sorted({key for feed in FEEDS.values() for key in feed.Options.model_fields})
FEED_TABLES = st.dictionaries(st.sampled_from(FEED_KEYS), ANYTHING, max_size=4)


def refusals(env: dict[str, str]) -> list[str]:
    """Return the lines of the `ConfigError`, or none; anything else that is raised fails the test."""
    try:
        load_config(None, env, {})
    except ConfigError as exc:
        return exc.problems
    return []


@given(st.lists(FEED_TABLES | ANYTHING, max_size=3), st.sampled_from([*sorted(FEEDS), ""]))
def test_any_feeds_load_or_are_a_config_error(tables: list[Any], kind: str) -> None:
    for table in tables:
        if isinstance(table, dict) and kind:
            table["type"] = kind
    lines = refusals({"TAPECAST_FEEDS": json.dumps(tables)})
    assert all(line.startswith("TAPECAST_FEEDS") and "\n" not in line for line in lines)
    if not all(isinstance(table, dict) for table in tables):
        assert lines


@given(st.dictionaries(st.sampled_from(all_keys()), st.text(max_size=12), max_size=5))
def test_any_environment_loads_or_names_the_variable(values: dict[tuple[str, str], str]) -> None:
    env = {variable(key): text for key, text in values.items()}
    for line in refusals(env):
        assert any(name in line for name in env)
