"""Redis Streams as a feed, against a real redis-server."""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
import trustme
from pydantic import ValidationError

import feeds.redis
from broker.config import load_config
from broker.core.errors import FeedError, FeedPermanentError
from broker.core.ticks import Book, Trade
from feeds.plugins import BrokenFeed, feed_of
from feeds.redis import Redis
from tests.feeds.fakes import NOW, FakeContext, run_until, scripted_server
from tests.feeds.servers import RedisPublisher, Server, free_port, program, redis_publisher, redis_server

pytest.importorskip("coredis", reason="needs coredis: pip install 'tapecast[redis]'")

#: coredis leaves the buffers of a connection that was never made to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")

TRADE = {"price": "101.50", "size": "3", "side": "buy", "id": "1"}
STREAM = "ticks:{ch}:{symbol}"


def redis(server: Server | str, *streams: str, **options: Any) -> Redis:
    url = server if isinstance(server, str) else f"redis://127.0.0.1:{server.port}/0"
    return Redis(
        Redis.Options(venue="LAB", url=url, streams=streams or (STREAM,), **{"start": "0", **options})
    )


def trade(number: int = 1) -> bytes:
    return msgspec.json.encode({**TRADE, "id": str(number)})


def trades(ctx: FakeContext) -> list[str]:
    return [tick.id for tick in ctx.ticks if isinstance(tick, Trade)]


def has(count: int) -> Callable[[FakeContext], bool]:
    return lambda ctx: len(trades(ctx)) >= count


@asynccontextmanager
async def both(folder: Path, *arguments: str) -> AsyncGenerator[tuple[Server, RedisPublisher], None]:
    async with redis_server(folder, *arguments) as server, redis_publisher(server) as publisher:
        yield server, publisher


async def failure_of(feed: Redis, ctx: FakeContext | None = None) -> FeedError:
    with trio.fail_after(60):
        with pytest.raises(FeedError) as caught:
            await feed.run(ctx or FakeContext())
    return caught.value


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect garbage while its warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture
def surveyed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look which streams there are at every turn."""
    monkeypatch.setattr(feeds.redis, "SURVEY_S", 0.02)


# ── what it brings ───────────────────────────────────────────────────────────────────────────────


async def test_entries_become_ticks_whether_in_a_field_or_as_fields(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.add("ticks:trade:ACME", "tick", trade(1))
        publisher.add("ticks:trade:ACME", "price", "101.50", "size", "3", "side", "", "id", "2")
        publisher.add("ticks:trade:ACME", "tick", b"[%b,%b]" % (trade(3), trade(4)))
        publisher.add("ticks:book:BRK.B", "kind", "snapshot", "bids", '[["1","2"]]', "asks", "[]")
        publisher.add("ticks:quote:ACME", "bid", "1", "bid_size", "2", "ask", "", "ask_size", "")
        publisher.add("other:trade:ACME", "tick", trade(9))
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server), ctx, lambda ctx: len(ctx.ticks) == 6)
    assert ctx.refusals == []
    assert sorted(trades(ctx)) == ["1", "2", "3", "4"]
    by_id = {tick.id: tick for tick in ctx.ticks if isinstance(tick, Trade)}
    assert by_id["1"] == Trade(sym="LAB:ACME", ts=NOW, rts=NOW, price="101.50", size="3", side="buy", id="1")
    assert by_id["2"].side is None
    [book] = [tick for tick in ctx.ticks if isinstance(tick, Book)]
    assert (book.sym, book.bids) == ("LAB:BRK.B", [("1", "2")])


async def test_entries_may_be_messagepack_in_a_field_of_another_name(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.add("all", "d", msgspec.msgpack.encode({"ch": "trade", "sym": "LAB:ACME", **TRADE}))
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server, "all", field="d", format="msgpack"), ctx, has(1))
    assert ctx.refusals == []


async def test_bad_entries_are_refused_with_stream_and_id_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.add("ticks:trade:ACME", "tick", b"\xff\x00", at="1-1")
        publisher.add("ticks:trade:ACME", "data", trade(), at="1-2")
        publisher.add("ticks:trade:ACME", "price", b"\xff", at="1-3")
        publisher.add("ticks:trade:ACME", "price", "1", "size", "x", "side", "", "id", "", at="1-4")
        publisher.add("ticks:trade:ACME", "bids", "[", at="1-5")
        publisher.add("ticks:trade:ACME", "tick", trade(), at="1-6")
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server), ctx, has(1))
    texts = [str(error) for error in ctx.refusals]
    assert [text.partition(": ")[0] for text in texts] == [f"ticks:trade:ACME 1-{n}" for n in range(1, 6)]
    assert "data:" in texts[1]
    assert "size: 'x'" in texts[3].replace('"', "'")


async def test_key_that_is_no_stream_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.do("SET", "bad", "x")
        publisher.add("ticks:trade:ACME", "tick", trade())
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server, "bad", STREAM), ctx, has(1))
    [error] = ctx.refusals
    assert str(error).startswith("bad: can't be read: ")


async def test_glob_characters_of_a_key_are_meant_as_they_stand(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.add("t[a]?:ACME", "ch", "trade", "price", "1", "size", "1", "side", "", "id", "7")
        publisher.add("ta?:ACME", "tick", trade())
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server, "t[a]?:{symbol}"), ctx, has(1))
    assert trades(ctx) == ["7"]


async def test_fifty_thousand_entries_come_each_once_and_in_order(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        ctx = FakeContext()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(redis(server).run, ctx)
            for start in range(0, 50_000, 1000):
                for number in range(start, start + 1000):
                    publisher.add(f"ticks:trade:S{number % 10}", "tick", trade(number))
                await publisher.flush()
            await ctx.wait_for(has(50_000))
            nursery.cancel_scope.cancel()
    by_symbol: dict[str, list[int]] = {}
    for tick in ctx.ticks:
        assert isinstance(tick, Trade)
        by_symbol.setdefault(tick.sym, []).append(int(tick.id))
    assert by_symbol == {f"LAB:S{n}": list(range(n, 50_000, 10)) for n in range(10)}
    assert (ctx.refusals, ctx.gaps) == ([], [])


# ── where it begins ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("start", "expected"), [("0", ["1", "2", "3"]), ("1-1", ["2", "3"]), ("1-3", []), ("$", [])]
)
async def test_reading_begins_where_it_is_told_to(tmp_path: Path, start: str, expected: list[str]) -> None:
    async with both(tmp_path) as (server, publisher):
        for number in (1, 2, 3):
            publisher.add("ticks:trade:ACME", "tick", trade(number), at=f"1-{number}")
        await publisher.flush()
        ctx = FakeContext()
        feed = redis(server, start=start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, ctx)
            with trio.fail_after(60):
                while not feed.was_let_in:  # noqa: ASYNC110  # what is added before that is not new
                    await trio.sleep(0.01)
            publisher.add("ticks:trade:ACME", "tick", trade(4))
            await publisher.flush()
            await ctx.wait_for(has(len(expected) + 1))
            nursery.cancel_scope.cancel()
    assert trades(ctx) == [*expected, "4"]


@pytest.mark.usefixtures("surveyed_often")
async def test_stream_that_appears_later_is_found_and_read_from_its_first_entry(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.add("ticks:trade:OLD", "tick", trade(1))
        await publisher.flush()
        ctx = FakeContext()
        async with trio.open_nursery() as nursery:
            feed = redis(server, start="$")
            nursery.start_soon(feed.run, ctx)
            with trio.fail_after(60):
                while not feed.was_let_in:  # noqa: ASYNC110  # what is there before that is old
                    await trio.sleep(0.01)
            publisher.add("ticks:trade:NEW", "tick", trade(2))
            publisher.add("ticks:trade:NEW", "tick", trade(3))
            await publisher.flush()
            await ctx.wait_for(has(2))
            nursery.cancel_scope.cancel()
    assert trades(ctx) == ["2", "3"]


async def test_listed_symbols_name_the_keys(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.add("ticks:trade:OTHER", "tick", trade(1))
        publisher.add("ticks:trade:ACME", "tick", trade(2))
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server, symbols=("ACME",)), ctx, has(1))
    assert trades(ctx) == ["2"]
    assert ctx.refusals == []


# ── what is lost, and what is not ────────────────────────────────────────────────────────────────


async def test_nothing_is_lost_or_doubled_when_the_server_restarts(tmp_path: Path) -> None:
    ctx = FakeContext()
    async with redis_server(tmp_path, "--appendonly", "yes") as server:
        feed = redis(server)
        async with redis_publisher(server) as publisher, trio.open_nursery() as nursery:
            failures: list[FeedError] = []

            async def run() -> None:
                failures.append(await failure_of(feed, ctx))

            nursery.start_soon(run)
            for number in range(3000):
                publisher.add("ticks:trade:ACME", "tick", trade(number))
            await publisher.flush()
            await ctx.wait_for(has(1))
            await server.stop()
        assert not isinstance(failures[0], FeedPermanentError)
        assert not isinstance(await failure_of(feed, ctx), FeedPermanentError), "the server is away"
        await server.start()
        async with redis_publisher(server) as publisher:
            publisher.add("ticks:trade:ACME", "tick", trade(3000))
            await publisher.flush()
            await run_until(feed, ctx, has(3001))
    assert trades(ctx) == [str(number) for number in range(3001)]
    assert ctx.gaps == []


async def test_server_that_forgot_everything_is_a_gap_and_what_it_gets_then_is_read(tmp_path: Path) -> None:
    ctx = FakeContext()
    async with redis_server(tmp_path) as server:
        feed = redis(server)
        async with redis_publisher(server) as publisher:
            publisher.add("ticks:trade:ACME", "tick", trade(1))
            await publisher.flush()
            await run_until(feed, ctx, has(1))
        await server.stop(signal.SIGKILL)
        await server.start()
        again = FakeContext()
        async with redis_publisher(server) as publisher:
            publisher.add("ticks:trade:ACME", "tick", trade(2))
            await publisher.flush()
            await run_until(feed, again, has(1))
    assert [each if isinstance(each, tuple) else each.sym for each in again.story] == [
        ("gap", "trade", "LAB:ACME"), "LAB:ACME",
    ]  # fmt: skip


async def test_entries_trimmed_before_they_were_read_are_a_gap_in_their_place(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        ctx = FakeContext()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(redis(server).run, ctx)
            level = '[["1","1"]]'
            publisher.add("ticks:trade:ACME", "tick", trade(1))
            publisher.add("ticks:book:ACME", "kind", "snapshot", "bids", level, "asks", "[]")
            publisher.add("ticks:trade:OTHER", "tick", trade(2))
            await publisher.flush()
            await ctx.wait_for(lambda ctx: len(ctx.ticks) == 3)
            for number in range(3, 30):
                publisher.add("ticks:trade:ACME", "tick", trade(number), most=5)
                publisher.add("ticks:book:ACME", "kind", "delta", "bids", level, "asks", "[]", most=5)
            publisher.add("ticks:trade:OTHER", "tick", trade(30))
            await publisher.flush(at_once=True)
            await ctx.wait_for(lambda ctx: len(trades(ctx)) == 8 and len(ctx.refusals) == 5)
            nursery.cancel_scope.cancel()
    assert trades(ctx)[2:] in (
        ["25", "26", "27", "28", "29", "30"],
        ["30", "25", "26", "27", "28", "29"],
    )
    assert sorted(ctx.gaps) == [("book", "LAB:ACME"), ("trade", "LAB:ACME")]
    of_acme = [each for each in ctx.story if isinstance(each, tuple) or each.sym == "LAB:ACME"]
    gap = of_acme.index(("gap", "trade", "LAB:ACME"))
    assert [tick.id for tick in of_acme[gap + 1 :] if isinstance(tick, Trade)] == [
        "25",
        "26",
        "27",
        "28",
        "29",
    ]
    assert {error.kind for error in ctx.refusals} == {"a delta without a snapshot"}


async def test_entries_trimmed_after_they_were_read_are_no_gap(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        ctx = FakeContext()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(redis(server).run, ctx)
            for number in range(200):
                publisher.add("ticks:trade:ACME", "tick", trade(number), most=1)
                await publisher.flush()
                await ctx.wait_for(has(number + 1))
            nursery.cancel_scope.cancel()
    assert ctx.gaps == []


@pytest.mark.usefixtures("surveyed_often")
async def test_deleted_stream_is_a_gap_and_is_read_again_when_it_comes_back(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        ctx = FakeContext()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(redis(server).run, ctx)
            publisher.add("ticks:trade:ACME", "tick", trade(1), at="9-1")
            await publisher.flush()
            await ctx.wait_for(has(1))
            publisher.do("DEL", "ticks:trade:ACME")
            await publisher.flush()
            await ctx.wait_for(lambda ctx: len(ctx.gaps) == 1)
            publisher.add("ticks:trade:ACME", "tick", trade(2), at="1-1")
            await publisher.flush()
            await ctx.wait_for(has(2))
            nursery.cancel_scope.cancel()
    assert trades(ctx) == ["1", "2"]


async def test_entries_wait_in_redis_while_the_broker_is_behind(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        for number in range(5000):
            publisher.add("ticks:trade:ACME", "tick", trade(number))
        await publisher.flush()
        ctx = FakeContext()
        feed = redis(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, ctx)
            await ctx.wait_for(has(1))
            ctx.gate = trio.Event()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(trades(ctx)) < 5000
            ctx.gate.set()
            await ctx.wait_for(has(5000))
            nursery.cancel_scope.cancel()
    assert feed.can_pause
    assert trades(ctx) == [str(number) for number in range(5000)]


async def test_feed_cancelled_while_the_broker_is_behind_goes_on_where_it_was(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        for number in range(1000):
            publisher.add("ticks:trade:ACME", "tick", trade(number))
        await publisher.flush()
        feed, ctx = redis(server), FakeContext()
        for _ in range(3):
            # Cancelled within a slice of what was read.
            ctx.gate.set()
            so_far = len(trades(ctx))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.run, ctx)
                while len(trades(ctx)) == so_far:
                    await trio.lowlevel.checkpoint()
                ctx.gate = trio.Event()
                nursery.cancel_scope.cancel()
        ctx.gate.set()
        await run_until(feed, ctx, has(1000))
    assert trades(ctx) == [str(number) for number in range(1000)]
    assert ctx.gaps == []


# ── who is let in ────────────────────────────────────────────────────────────────────────────────


async def test_wrong_password_fails_for_good_and_the_right_one_is_let_in(tmp_path: Path) -> None:
    async with redis_server(tmp_path, "--requirepass", "right") as server:
        for options in ({}, {"password": "wrong"}):
            failure = await failure_of(redis(server, **options))
            assert isinstance(failure, FeedPermanentError), failure
            assert "wrong" not in str(failure)
        async with redis_publisher(server) as publisher:
            publisher.do("AUTH", "right")
            publisher.add("ticks:trade:ACME", "tick", trade())
            await publisher.flush()
        await run_until(redis(server, password="right"), FakeContext(), has(1))


async def test_key_that_is_not_allowed_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.do("ACL", "SETUSER", "feed", "on", ">pw", "~ticks:*", "+@all")
        publisher.add("ticks:trade:ACME", "tick", trade())
        publisher.add("secret", "tick", trade())
        await publisher.flush()
        ctx = FakeContext()
        await run_until(redis(server, "secret", STREAM, user="feed", password="pw"), ctx, has(1))
    [error] = ctx.refusals
    assert str(error).startswith("secret: can't be read: ")


@pytest.mark.usefixtures("surveyed_often")
async def test_key_that_is_allowed_again_is_read_on_from_where_it_was(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, publisher):
        publisher.do("ACL", "SETUSER", "feed", "on", ">pw", "~ticks:*", "+@all")
        publisher.add("ticks:trade:ACME", "tick", trade(1))
        await publisher.flush()
        feed, ctx = redis(server, user="feed", password="pw"), FakeContext()
        await run_until(feed, ctx, has(1))
        publisher.do("ACL", "SETUSER", "feed", "resetkeys", "~ticks:trade:OTHER")
        publisher.add("ticks:trade:ACME", "tick", trade(2))
        publisher.add("ticks:trade:OTHER", "tick", trade(9))
        await publisher.flush()
        await run_until(feed, ctx, has(2))
        assert trades(ctx) == ["1", "9"]
        assert [error.kind for error in ctx.refusals] == ["a key that can't be read"]
        publisher.do("ACL", "SETUSER", "feed", "~ticks:*")
        await publisher.flush()
        await run_until(feed, ctx, has(3))
    assert trades(ctx) == ["1", "9", "2"]
    assert ctx.gaps == []


async def test_tls_is_spoken_and_the_certificate_is_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    pem, ca, port = str(tmp_path / "server.pem"), str(tmp_path / "ca.pem"), str(free_port())
    files = [
        "--tls-cert-file",
        pem,
        "--tls-key-file",
        pem,
        "--tls-ca-cert-file",
        ca,
        "--tls-auth-clients",
        "no",
    ]
    async with both(tmp_path, "--tls-port", port, *files) as (_, publisher):
        publisher.add("ticks:trade:ACME", "tick", trade())
        await publisher.flush()
        url = f"rediss://127.0.0.1:{port}/0"
        failure = await failure_of(redis(url))
        assert "certificate verify failed" in str(failure)
        await run_until(redis(url, tls_ca=ca), FakeContext(), has(1))


async def test_server_may_listen_on_a_path(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with both(tmp_path, "--unixsocket", str(path)) as (_, publisher):
        publisher.add("ticks:trade:ACME", "tick", trade())
        await publisher.flush()
        await run_until(redis(f"unix://{path}"), FakeContext(), has(1))


async def test_server_that_is_away_is_tried_again() -> None:
    failure = await failure_of(redis("redis://127.0.0.1:1/0"))
    assert not isinstance(failure, FeedPermanentError)
    assert "127.0.0.1:1" in str(failure)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100, b"%1\r\n", b"$-5\r\n", b"*9\r\n:1\r\n"],
)
async def test_server_that_speaks_something_else_ends_in_an_error_of_the_feed(answer: bytes) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with scripted_server(speak) as port:
        failure = await failure_of(redis(f"redis://127.0.0.1:{port}/0"))
    assert not isinstance(failure, FeedPermanentError)


# ── options ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"streams": ()}, "at least 1"),
        ({"streams": ("",)}, "1 to 1000 characters"),
        ({"streams": ("a", "a")}, "listed twice"),
        ({"streams": ("{what}",)}, "no other placeholder"),
        ({"start": "yesterday"}, "what comes from now on"),
        ({"url": "http://x"}, "must be redis://"),
        ({"url": "redis://x/zero"}, "must be redis://"),
        ({"url": "redis://u:p@x/0"}, "keys of their own"),
        ({"url": "redis://x:99999"}, "must be redis://"),
        ({"url": "unix://"}, "must be redis://"),
    ],
)
def test_options_that_can_not_be_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Redis.Options(**{"venue": "LAB", "streams": (STREAM,), **options})
    assert text in str(caught.value)


def test_feed_says_what_to_install_where_coredis_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds.redis, "is_installed", lambda: False)
    table = {"type": "redis", "venue": "LAB", "streams": [STREAM]}
    made = feed_of(load_config(None, {"TAPECAST_FEEDS": msgspec.json.encode([table]).decode()}, {}).feeds[0])
    assert isinstance(made, BrokenFeed)
    assert "pip install 'tapecast[redis]'" in made.reason


# ── the example ──────────────────────────────────────────────────────────────────────────────────


async def test_example_adds_what_the_feed_takes(tmp_path: Path) -> None:
    program("redis-cli")
    script = Path(__file__).parents[2] / "examples" / "feeds" / "redis_publisher.sh"
    async with redis_server(tmp_path) as server:
        await trio.run_process(["sh", str(script), str(server.port), "5", "0"])
        ctx = FakeContext()
        await run_until(redis(server, "ticks:{symbol}"), ctx, has(5))
    assert trades(ctx) == ["1", "2", "3", "4", "5"]
    assert ctx.refusals == []
