"""Feeds that others bring: found by name, module or file; what is broken is told and costs nobody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import orjson
import pytest
import trio

from broker.app import Serving, serve
from broker.cli.main import main
from broker.config import load_config
from broker.config.feeds import broken_feeds
from broker.core.errors import ConfigError, FeedPermanentError
from feeds import FEEDS
from feeds.base import API_VERSION, Feed
from feeds.plugins import BrokenFeed, PluginError, class_missing, feed_of, find_feed, known_feeds
from tests.feeds.fakes import FakeContext

HEAD = "from feeds.base import Feed, FeedOptions\n"
GOOD = f"""{HEAD}
from broker.core.ticks import Quote

class Lab(Feed):
    '''Quotes of a laboratory.'''

    api_version = {API_VERSION}
    venue = "LAB"
    symbols = ["LAB:A"]

    class Options(FeedOptions):
        pause_s: float
        names: tuple[str, ...] = ()

    def __init__(self, options):
        self.options = options

    async def run(self, ctx):
        now = ctx.time_ns()
        ctx.publish(Quote(sym="LAB:A", ts=now, rts=now, bid="1", bid_size=None, ask=None, ask_size=None))
        await ctx.flush()
        import trio
        await trio.sleep_forever()
"""
#: By what is wrong: the module's text, and a part of what is said of its class ``Lab``.
BROKEN = {
    "raises": ("raise RuntimeError('out of order')", "can't be imported: RuntimeError: out of order"),
    "exits": ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
    "panics": ("raise BaseException('out of luck')", "can't be imported: BaseException: out of luck"),
    "syntax": ("class Lab(", "can't be imported: SyntaxError"),
    "needs_more": ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
    "no_class": ("x = 1", "has no 'Lab'; its feeds are: none"),
    "no_feed": (
        "class Lab:\n    pass",
        "is not a feed: it is the class Lab, and must be a class that inherits",
    ),
    "an_object": ("Lab = 7", "is not a feed: it is a int"),
    "no_version": (GOOD.replace(f"api_version = {API_VERSION}", ""), f"add api_version = {API_VERSION}"),
    "old": (
        GOOD.replace(f"api_version = {API_VERSION}", "api_version = 0"),
        "api_version = 0: this Tapecast has",
    ),
    "odd_version": (GOOD.replace(f"api_version = {API_VERSION}", "api_version = '1'"), "api_version = '1'"),
    "options": (GOOD.replace("class Options(FeedOptions)", "class Options"), "Options: <class"),
    "no_run": (GOOD.replace("async def run", "async def walk"), "run: must be an async function"),
    "plain_run": (
        GOOD.replace("async def run", "def run").replace("await ", ""),
        "run: must be an async function",
    ),
}
#: The same of what only shows once it is made.
BROKEN_WHEN_MADE = {
    "init": (GOOD.replace("self.options = options", "1 / 0"), "can't be made: ZeroDivisionError"),
    "exit_in_init": (GOOD.replace("self.options = options", "raise SystemExit"), "can't be made: SystemExit"),
    "venue": (
        GOOD.replace('venue = "LAB"', 'venue = "lab"'),
        "venue = 'lab': must be 1 to 32 capital letters",
    ),
    "no_venue": (GOOD.replace('venue = "LAB"', ""), "venue = None"),
    "symbols": (GOOD.replace('["LAB:A"]', '["A"]'), "symbols: 'A' is not LAB:SYMBOL"),
    "text": (GOOD.replace('["LAB:A"]', '"LAB:A"'), "symbols: 'LAB:A' must be a list, or None"),
    "iterator": (GOOD.replace('["LAB:A"]', 'iter(["LAB:A"])'), "must be a list, or None"),
    "foreign": (GOOD.replace('["LAB:A"]', '["OTHER:A"]'), "symbols: 'OTHER:A' is not LAB:SYMBOL"),
    **{
        f"{name}_{number}": (GOOD.replace('venue = "LAB"', f'venue = "LAB"; {name} = {value}'), says)
        for number, (name, value, says) in enumerate(
            [
                (
                    "stale_after_s",
                    "'60'",
                    "stale_after_s = '60': must be a number of seconds above 0, or None",
                ),
                ("stale_after_s", "0", "stale_after_s = 0: must be a number of seconds above 0, or None"),
                ("stale_after_s", "True", "stale_after_s = True: must be a number"),
                ("stale_after_s", "float('nan')", "stale_after_s = nan: must be a number"),
                ("linger_s", "None", "linger_s = None: must be a number of seconds, at least 0"),
                ("linger_s", "-1", "linger_s = -1: must be a number of seconds, at least 0"),
                ("can_pause", "'no'", "can_pause = 'no': must be True or False"),
                ("is_checked", "1", "is_checked = 1: must be True or False"),
            ]
        )
    },
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that installs a distribution: a module, and a ``.dist-info`` with its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def do(dist: str, text: str, *names: str, module: str = "") -> None:
        module = module or f"plugin_{dist}"
        site = tmp_path / "site"
        info = site / f"{dist}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        points = "".join(f"{name} = {module}:Lab\n" for name in names or (dist,))
        (info / "entry_points.txt").write_text(f"[tapecast.feeds]\n{points}")
        (site / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return do


def write_config(folder: Path, *tables: str) -> Path:
    path = folder / "my.toml"
    path.write_text("[server]\nport = 0\n" + "".join(f"\n[[feeds]]\n{table}\n" for table in tables))
    return path


def write_feed(folder: Path, text: str, name: str = "my_feed.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ── where they are found ─────────────────────────────────────────────────────────────────────────


def test_feed_of_an_installed_package_goes_by_its_name(install: Callable[..., None]) -> None:
    install("lab", GOOD)
    source = known_feeds()["lab"]
    assert source.origin == "lab 1.2"
    assert source.load().__name__ == "Lab"
    assert find_feed("lab").load() is source.load()


def test_nothing_is_imported_by_looking(install: Callable[..., None]) -> None:
    install("lab", GOOD)
    known_feeds()
    find_feed("lab")
    assert "plugin_lab" not in sys.modules


def test_command_line_loads_no_feed_before_it_needs_one(install: Callable[..., None], tmp_path: Path) -> None:
    install("lab", "raise AssertionError('imported')")
    code = (
        "import sys; from broker.cli.main import main; code = main(['--version']); "
        "sys.exit(code or 'feeds' in sys.modules or 'plugin_lab' in sys.modules)"
    )
    path = f"{tmp_path / 'site'}:{Path(__file__).parents[2]}"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False)
    assert done.returncode == 0


def test_feed_that_comes_with_tapecast_keeps_its_name(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("lab", GOOD, "simulated", "lab")
    assert known_feeds()["simulated"].load() is FEEDS["simulated"]
    assert main(["feed", "list"]) == 0
    assert "simulated HIDDEN (from lab 1.2)" in " ".join(capsys.readouterr().out.split())


def test_name_that_two_packages_use_is_neithers(install: Callable[..., None]) -> None:
    install("one", GOOD, "lab")
    install("two", GOOD, "lab")
    with pytest.raises(PluginError, match=r"is in one 1\.2 and in two 1\.2|is in two 1\.2 and in one 1\.2"):
        find_feed("lab").load()


def test_feed_of_a_module_is_named_by_its_path(install: Callable[..., None]) -> None:
    install("lab", GOOD)
    assert find_feed("plugin_lab:Lab").load().__name__ == "Lab"


def test_file_is_found_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_feed(tmp_path, GOOD)
    path = write_config(tmp_path, 'type = "./my_feed.py:Lab"\npause_s = 1.5\nnames = ["x"]')
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(path, {}, {})
    feed = feed_of(config.feeds[0])
    assert (feed.venue, feed.options.pause_s, feed.options.names) == ("LAB", 1.5, ("x",))  # type: ignore[attr-defined]


def test_two_files_of_one_name_are_two_feeds_and_one_file_is_imported_once(tmp_path: Path) -> None:
    for folder, venue in (("a", "ONE"), ("b", "TWO")):
        (tmp_path / folder).mkdir()
        write_feed(tmp_path / folder, GOOD.replace("LAB", venue))
    classes = [find_feed(f"./{folder}/my_feed.py:Lab", tmp_path).load() for folder in ("a", "b", "a")]
    assert [feed.venue for feed in classes] == ["ONE", "TWO", "ONE"]
    assert classes[0] is classes[2]


@pytest.mark.parametrize("kind", ["lap", "", ":Lab", "x.py:", 7])
def test_type_that_names_nothing_is_a_mistake_of_the_configuration(kind: object) -> None:
    with pytest.raises(ConfigError, match="no such feed"):
        load_config(None, {"TAPECAST_FEEDS": orjson.dumps([{"type": kind}]).decode()}, {})


def test_near_name_of_an_installed_feed_is_suggested(install: Callable[..., None]) -> None:
    install("laboratory", GOOD)
    with pytest.raises(ConfigError, match='did you mean "laboratory"'):
        load_config(None, {"TAPECAST_FEEDS": '[{"type": "labratory"}]'}, {})


# ── options ──────────────────────────────────────────────────────────────────────────────────────


def test_mistakes_in_a_plug_ins_options_are_all_reported_at_once(tmp_path: Path) -> None:
    write_feed(tmp_path, GOOD)
    path = write_config(tmp_path, 'type = "./my_feed.py:Lab"\npause_s = "x"\nnames = [1]\npause = 2')
    with pytest.raises(ConfigError) as caught:
        load_config(path, {}, {})
    lines = [line.partition("my.toml: ")[2] for line in caught.value.problems]
    assert lines == [
        'feeds[0].pause_s = "x": must be a number',
        "feeds[0].names[0] = 1: must be text in quotes",
        "feeds[0].pause = 2: no such key; did you mean pause_s?",
    ]


def test_validator_that_fails_in_its_own_way_is_the_plug_ins_fault(tmp_path: Path) -> None:
    odd = GOOD.replace(
        "        names: tuple[str, ...] = ()\n",
        "        def model_post_init(self, context):\n            raise RuntimeError('odd')\n",
    )
    write_feed(tmp_path, odd)
    path = write_config(tmp_path, 'type = "./my_feed.py:Lab"\npause_s = 1')
    assert broken_feeds(load_config(path, {}, {}).feeds) == [
        ("./my_feed.py:Lab", "Options: RuntimeError: odd")
    ]


# ── broken ones ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", BROKEN)
def test_broken_feed_says_what_is_wrong_when_it_is_loaded(install: Callable[..., None], name: str) -> None:
    text, reason = BROKEN[name]
    install(name, text)
    with pytest.raises(PluginError) as caught:
        find_feed(name).load()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_WHEN_MADE])
async def test_broken_feed_is_there_without_symbols_and_fails_for_good(tmp_path: Path, name: str) -> None:
    text, reason = {**BROKEN, **BROKEN_WHEN_MADE}[name]
    write_feed(tmp_path, text)
    path = write_config(tmp_path, 'type = "./my_feed.py:Lab"\npause_s = 1\nname = "mine"')
    config = load_config(path, {}, {})
    feed = feed_of(config.feeds[0])
    assert isinstance(feed, BrokenFeed)
    assert feed.symbols == ()
    [(shown, why)] = broken_feeds(config.feeds)
    assert shown == "mine"
    assert reason in why
    with pytest.raises(FeedPermanentError) as caught:
        await feed.run(FakeContext())
    assert reason in str(caught.value)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_config(tmp_path, 'type = "gone.py:Lab"')
    [(_, why)] = broken_feeds(load_config(path, {}, {}).feeds)
    assert why == f"{tmp_path / 'gone.py'}: there is no such file"


def test_every_feed_that_comes_with_tapecast_is_a_feed() -> None:
    for kind, source in known_feeds().items():
        if source.origin == "built-in":
            assert issubclass(source.load(), Feed), kind


async def test_others_run_beside_a_broken_one_and_operators_see_it(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install("broken", BROKEN["raises"][0])
    install("lab", GOOD)
    path = write_config(
        tmp_path,
        'type = "broken"\nname = "first"\nkey = 7',
        'type = "lab"\npause_s = 1',
        'type = "simulated"',
    )
    config = load_config(path, {}, {})
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[Serving]) -> None:
                await serve(config, stop=stop, task_status=task_status)

            where = await nursery.start(run)
            async with httpx.AsyncClient(base_url=where.url) as http:
                while (await http.get("/v1/snapshot?symbols=LAB:A&ch=quote")).json()["data"] == []:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                feeds = {feed["name"]: feed for feed in (await http.get("/v1/feeds")).json()["feeds"]}
                assert (await http.get("/readyz")).status_code == 200
            stop.set()
    assert feeds["first"]["state"] == "down"
    assert feeds["first"]["last_error"] == BROKEN["raises"][1]
    assert feeds["lab"]["state"] == "live"


def test_class_that_a_module_does_not_have_is_told_with_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(GOOD)
    with pytest.raises(PluginError, match=r"lab\.py has no 'Lap'; its feeds are: Lab$"):
        find_feed("lab.py:Lap", tmp_path).load()


def test_entry_point_without_a_class_says_how_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "lab-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[tapecast.feeds]\nlab = lab.Lab\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"its entry point is 'lab\.Lab': must be package\.module:Class"):
        known_feeds()["lab"].load()


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("./mine.py", "; say which class of the file it is: ./mine.py:Class"),
        ("./mine.py:", "; say which class of the file it is: ./mine.py:Class"),
        ("json", "; say which class of the module it is: json:Class"),
        ("no_such_module", ""),
        ("__main__.x", ""),
        ("", ""),
        ("a b", ""),
        (":", ""),
        (7, ""),
    ],
)
def test_type_that_names_no_class_is_told_how_to(kind: object, hint: str) -> None:
    assert class_missing(kind) == hint


# ── what the commands say ────────────────────────────────────────────────────────────────────────


def test_feed_list_says_what_is_there_where_from_and_whether_it_loads(
    install: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken", BROKEN["raises"][0])
    install("lab", GOOD)
    path = write_config(tmp_path, 'type = "broken"\nname = "mine"', 'type = "lab"\npause_s = 1')
    assert main(["feed", "list", "--config", str(path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "broken BROKEN (from broken 1.2): can't be imported: RuntimeError: out of order" in out
    assert "lab Quotes of a laboratory (from lab 1.2)" in out
    assert "keys: pause_s, names" in out
    assert "mine broken: BROKEN: can't be imported" in out
    assert main(["feed", "list", "--config", str(path), "--json"]) == 1
    shown = orjson.loads(capsys.readouterr().out)
    types = {each["type"]: each for each in shown["types"]}
    assert types["lab"] == {
        "type": "lab",
        "from": "lab 1.2",
        "error": None,
        "summary": "Quotes of a laboratory",
        "keys": ["pause_s", "names"],
        "checks": {"state": "unchecked", "text": "not checked", "last": None},
    }
    assert types["broken"]["checks"] is None
    assert types["broken"]["error"] == BROKEN["raises"][1]
    assert types["simulated"]["from"] == "built-in"
    assert [(each["name"], each["error"]) for each in shown["configured"]] == [
        ("mine", BROKEN["raises"][1]),
        ("lab", None),
    ]


def test_plug_in_that_prints_does_not_spoil_the_json(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("lab", "print('hello')\n" + GOOD)
    assert main(["feed", "list", "--json"]) == 0
    captured = capsys.readouterr()
    assert "lab" in [each["type"] for each in orjson.loads(captured.out)["types"]]
    assert "hello" in captured.err


def test_config_check_does_not_pass_over_a_broken_feed(
    install: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken", BROKEN["raises"][0])
    path = write_config(tmp_path, 'type = "broken"')
    assert main(["config", "check", "--config", str(path)]) == 78
    assert "the feed 'broken' can't be used: can't be imported: RuntimeError" in capsys.readouterr().err
