"""The command line: exit codes, messages and signals; the broker is a stand-in but in the last tests."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from broker import __version__
from broker.cli.main import main
from broker.config import Config
from broker.core.errors import ConfigError
from feeds import FEEDS

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Serving:
    url: str
    host: str
    port: int


async def until_stopped(stop: trio.Event) -> None:
    await stop.wait()


@dataclass
class FakeBroker:
    """Stands in for `broker.app`: listens on nothing, and does what the test says once it has started."""

    configs: list[Config] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    life: Callable[[trio.Event], Awaitable[None]] = until_stopped

    async def serve(self, config: Config, *, stop: trio.Event, task_status: trio.TaskStatus[Serving]) -> None:
        self.configs.append(config)
        host, port = config.server.host, config.server.port or 50_000
        if port in self.taken:
            raise OSError(errno.EADDRINUSE, f"can't listen on {host} port {port}: the port is in use")
        task_status.started(Serving(f"http://{host}:{port}", host, port))
        await self.life(stop)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("TAPECAST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    fake = FakeBroker()
    module = types.ModuleType("broker.app")
    module.serve = fake.serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broker.app", module)
    # Loggers that other tests use would keep this test's stderr.
    monkeypatch.setattr("broker.logs.set_up_logging", lambda level, form: None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield fake
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def signals(*numbers: signal.Signals) -> Callable[[trio.Event], Awaitable[None]]:
    """Return a broker's life: it gets the signals, one by one, and ends as asked by the first."""

    async def life(stop: trio.Event) -> None:
        signal.raise_signal(numbers[0])
        await stop.wait()
        for number in numbers[1:]:
            signal.raise_signal(number)
            await trio.sleep_forever()

    return life


# --- serve ------------------------------------------------------------------------------------------


def test_serve_ends_with_0_after_sigterm(broker: FakeBroker) -> None:
    broker.life = signals(signal.SIGTERM)
    assert main(["serve"]) == 0


def test_serve_ends_with_130_after_ctrl_c(broker: FakeBroker) -> None:
    broker.life = signals(signal.SIGINT)
    assert main(["serve"]) == 130


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_a_broker_that_still_drains(broker: FakeBroker, first: signal.Signals) -> None:
    broker.life = signals(first, signal.SIGINT)
    assert main(["serve"]) == (130 if first == signal.SIGINT else 0)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGINT)])
def test_broker_in_which_something_catches_its_cancellation_is_left(
    broker: FakeBroker,
    numbers: tuple[signal.Signals, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left: list[int] = []
    is_left = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        is_left.set()

    async def life(stop: trio.Event) -> None:
        # What catches its cancellation looks like this from outside.
        with trio.CancelScope(shield=True):
            for number in numbers:
                signal.raise_signal(number)
            await stop.wait()
            await trio.to_thread.run_sync(is_left.wait)

    monkeypatch.setattr("broker.cli.serve.LEFT_BEHIND_S", 0.01)
    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setenv("TAPECAST_SERVER__DRAIN_S", "0")
    broker.life = life
    main(["serve"])
    assert 1 in left
    assert "does an adapter catch trio.Cancelled?" in capsys.readouterr().err


def test_serve_takes_flags_over_variables_over_the_file(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.toml").write_text('[server]\nport = 1\nhost = "::1"\ndrain_s = 1\n')
    monkeypatch.setenv("TAPECAST_SERVER__PORT", "2")
    monkeypatch.setenv("TAPECAST_SERVER__HOST", "localhost")
    broker.life = signals(signal.SIGTERM)
    assert main(["serve", "--config", "my.toml", "--port", "3"]) == 0
    [config] = broker.configs
    assert (config.server.port, config.server.host, config.server.drain_s) == (3, "localhost", 1.0)


def test_serve_reads_no_file_that_nobody_named(broker: FakeBroker, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    broker.life = signals(signal.SIGTERM)
    assert main(["serve"]) == 0
    assert broker.configs[0].server.port == 8765


def test_port_in_use_is_one_message_that_names_host_and_port(
    broker: FakeBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.taken = {8765}
    assert main(["serve"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "tapecast: can't listen on 127.0.0.1 port 8765: the port is in use\n"
    assert captured.out == ""


def test_configuration_refused_by_the_broker_itself_ends_with_78(
    broker: FakeBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(stop: trio.Event) -> None:
        raise ConfigError(["[server] tls_cert: not a certificate"])

    broker.life = refuse
    assert main(["serve"]) == 78
    assert "[server] tls_cert: not a certificate" in capsys.readouterr().err


def test_fault_of_ours_is_not_dressed_up_as_a_users_mistake(broker: FakeBroker) -> None:
    async def fail(stop: trio.Event) -> None:
        raise OSError(errno.EIO, "something inside")

    broker.life = fail
    with pytest.raises(OSError, match="something inside"):
        main(["serve"])


def test_serve_raises_the_limit_of_open_files(broker: FakeBroker) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    found = []

    async def look(stop: trio.Event) -> None:
        found.append(resource.getrlimit(resource.RLIMIT_NOFILE))

    broker.life = look
    assert main(["serve"]) == 0
    assert found == [(hard, hard)]


# --- demo -------------------------------------------------------------------------------------------


def test_demo_prints_one_url_and_three_things_to_try(
    broker: FakeBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.life = signals(signal.SIGINT)
    assert main(["demo"]) == 130
    out = capsys.readouterr().out
    assert "at http://127.0.0.1:8765/" in out
    assert "  curl -N 'http://127.0.0.1:8765/v1/stream?ch=quote&symbols=SIM:ACME'\n" in out
    assert "  tapecast watch SIM:ACME 'SIM:*' --url http://127.0.0.1:8765\n" in out
    assert "  open http://127.0.0.1:8765/ in a browser\n" in out


def test_demo_needs_no_configuration_and_heeds_none(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPECAST_NONSENSE", "1")
    broker.life = signals(signal.SIGTERM)
    assert main(["demo"]) == 0
    assert [feed.type for feed in broker.configs[0].feeds] == ["simulated"]


def test_demo_takes_a_free_port_where_its_own_is_taken_and_says_so(
    broker: FakeBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.taken = {8765}
    broker.life = signals(signal.SIGTERM)
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Port 8765 is taken; using a free one.\n")
    assert "http://127.0.0.1:50000/" in out


def test_demo_on_a_port_that_was_asked_for_takes_no_other(
    broker: FakeBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.taken = {9000}
    assert main(["demo", "--port", "9000"]) == 1
    assert "port 9000: the port is in use" in capsys.readouterr().err


# --- watch ------------------------------------------------------------------------------------------


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Stand in for `broker.client.watch`, and return what it was called with."""
    calls: list[object] = []

    async def watch(url: str, symbols: Sequence[str], *, channels: Sequence[str], as_json: bool) -> int:
        calls.append((url, [*symbols], [*channels], as_json))
        return 0

    module = types.ModuleType("broker.client.watch")
    module.watch = watch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broker.client.watch", module)
    return calls


def test_watch_follows_quotes_and_trades_of_this_machine_by_default(followed: list[object]) -> None:
    assert main(["watch", "SIM:ACME", "COINBASE:*"]) == 0
    assert followed == [("http://127.0.0.1:8765", ["SIM:ACME", "COINBASE:*"], ["quote", "trade"], False)]


@pytest.mark.parametrize("flags", [["--ch", "quote,trade"], ["--ch", "quote", "--ch", "trade,quote"]])
def test_watch_takes_several_channels(followed: list[object], flags: list[str]) -> None:
    assert main(["watch", "*", *flags, "--json", "--url", "http://x:1"]) == 0
    assert followed == [("http://x:1", ["*"], ["quote", "trade"], True)]


def test_watch_returns_the_exit_code_of_the_client(
    followed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: object, **kwargs: object) -> int:
        return 1

    monkeypatch.setattr(sys.modules["broker.client.watch"], "watch", fail)
    assert main(["watch", "*"]) == 1


def test_ctrl_c_ends_watch_with_130(followed: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupt(*args: object, **kwargs: object) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()
        return 0

    monkeypatch.setattr(sys.modules["broker.client.watch"], "watch", interrupt)
    # A shell without job control has its background jobs ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["watch", "*"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


# --- config and feed --------------------------------------------------------------------------------


def test_config_check_lists_all_mistakes_and_ends_with_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text("[server]\nprot = 1\nport = -1\n")
    assert main(["config", "check", "--config", "bad.toml"]) == 78
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "tapecast: the configuration can't be used:",
        "  bad.toml: [server] prot = 1: no such key; did you mean port?",
        "  bad.toml: [server] port = -1: must be a whole number from 0 to 65535",
    ]
    assert captured.out == ""


def test_config_check_takes_the_file_without_its_flag_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(ROOT / "config.toml")]) == 0
    assert capsys.readouterr().out == f"{ROOT / 'config.toml'}: no mistakes; feeds: simulated\n"


def test_config_check_says_that_a_file_nobody_named_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("nonsense")
    assert main(["config", "check"]) == 0
    assert "./config.toml is read only if --config names it" in capsys.readouterr().out


def test_config_show_says_where_values_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAPECAST_SERVER__PORT", "9000")
    assert main(["config", "show"]) == 0
    out = capsys.readouterr().out
    assert "port = 9000  # TAPECAST_SERVER__PORT\n" in out
    assert 'host = "127.0.0.1"  # default\n' in out


def test_config_show_prints_a_file_that_loads_to_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "show"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "shown.toml").write_text(first)
    assert main(["config", "show", "--config", "shown.toml"]) == 0
    without_origins = [line.partition("  # ")[0] for line in first.splitlines()]
    assert [line.partition("  # ")[0] for line in capsys.readouterr().out.splitlines()] == without_origins


def test_config_default_prints_the_file_at_the_root(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "default"]) == 0
    assert capsys.readouterr().out == (ROOT / "config.toml").read_text()


def test_feed_list_names_all_types_and_what_is_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.toml").write_text('[[feeds]]\ntype = "simulated"\nname = "mine"\nseed = 7\n')
    assert main(["feed", "list", "--config", "my.toml"]) == 0
    types_, _, configured = capsys.readouterr().out.partition("Configured")
    for kind in FEEDS:
        assert f"\n  {kind} " in types_
    assert "mine         simulated: seed=7" in configured


# --- usage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["serv"], 'Did you mean "serve"?'),
        (["serve", "--prot", "1"], "Did you mean --port?"),
        (["serve", "--port", "abc"], 'unable to convert "abc" into int'),
        (["serve", "--port"], "--port requires an argument"),
        (["serve", "extra"], "extra"),
        (["config", "chekc"], 'Did you mean "check"?'),
        (["watch"], "name at least one symbol"),
        (["watch", "SIM:ACME", "--ch", "qoute"], 'did you mean "quote"?'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tapecast: ")
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_mistaken_port_flag_is_reported_like_any_other_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "70000"]) == 78
    assert "--port = 70000: must be a whole number from 0 to 65535" in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tapecast {__version__}\n"


@pytest.mark.parametrize("verb", ["demo", "serve", "watch", "config", "feed"])
def test_help_names_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert f"│ {verb} " in capsys.readouterr().out
    assert main([verb, "--help"]) == 0
    assert f"tapecast {verb}" in capsys.readouterr().out


# --- the real thing, in a process of its own --------------------------------------------------------


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "broker", *argv]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TAPECAST_LOG__FORMAT": "json"}


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom broker.cli.main import main\nmain(['--version'])\n"
        "print(sorted({'trio', 'pydantic', 'structlog', 'starlette', 'hypercorn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout == f"tapecast {__version__}\n[]\n"


def test_reader_that_has_enough_is_no_failure() -> None:
    with subprocess.Popen(
        command("config", "default"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_message() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("config", "default"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    assert (done.returncode, done.stderr) == (1, "tapecast: can't write: No space left on device\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_real_broker_listens_and_ends_on_a_signal(number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        command("serve", "--port", "0"), stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        try:
            lines = map(json.loads, process.stderr)
            url = next(line["url"] for line in lines if line["event"] == "listening")
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))).close()
            process.send_signal(number)
            assert process.wait(timeout=60) == code
        finally:
            process.kill()


def test_real_broker_on_a_port_in_use_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("serve", "--port", str(port)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
    assert done.returncode == 1
    assert done.stderr == f"tapecast: can't listen on 127.0.0.1 port {port}: the port is in use\n"
