"""NATS as a feed, against a real nats-server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from pydantic import ValidationError

from broker.core.errors import FeedError, FeedPermanentError
from broker.core.ticks import Book, Trade
from feeds.nats import Nats
from tests.feeds.fakes import NOW, FakeContext
from tests.feeds.servers import NatsPublisher, Server, nats_publisher, nats_server

TRADE = {"price": "101.50", "size": "3", "side": "buy", "id": "1"}
TREE = "md.{ch}.{symbol}"


def nats(server: Server | str, *subjects: str, **options: Any) -> Nats:
    url = server if isinstance(server, str) else f"nats://127.0.0.1:{server.port}"
    return Nats(Nats.Options(venue="LAB", urls=(url,), subjects=subjects or (TREE,), **options))


def trades(ctx: FakeContext) -> list[str]:
    return [tick.id for tick in ctx.ticks if isinstance(tick, Trade)]


def numbered(number: int) -> dict[str, str]:
    return {**TRADE, "id": str(number)}


class Listening:
    """A feed in a task, as the supervisor would have it: what it raises is kept."""

    def __init__(self, feed: Nats, ctx: FakeContext, publisher: NatsPublisher, nursery: trio.Nursery) -> None:
        self.feed, self.ctx, self.publisher = feed, ctx, publisher
        self.failure: FeedError | None = None
        self.ended = trio.Event()
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            await self.feed.run(self.ctx)
        except FeedError as failure:
            self.failure = failure
        self.ended.set()

    async def wait_until_heard(self) -> None:
        """Publish until the feed hears it: it has subscribed then."""
        marks = 0
        with trio.fail_after(30):
            while not self.ctx.story and not self.ctx.refusals:
                marks += 1
                self.publisher.publish("md.status.MARK", {"state": "live"})
                await self.publisher.flush()
                await trio.sleep(0.01)
            # All marks are here before anything else is said.
            await self.ctx.wait_for(lambda ctx: len(ctx.story) + len(ctx.refusals) > 0)

    async def wait_for(self, is_enough: Callable[[FakeContext], bool]) -> None:
        await self.ctx.wait_for(is_enough)

    async def wait_until_ended(self) -> FeedError:
        with trio.fail_after(30):
            await self.ended.wait()
        assert self.failure is not None
        return self.failure


async def failure_of(feed: Nats, ctx: FakeContext | None = None) -> FeedError:
    with trio.fail_after(30):
        with pytest.raises(FeedError) as caught:
            await feed.run(ctx or FakeContext())
    return caught.value


# ── what it brings ───────────────────────────────────────────────────────────────────────────────


async def test_messages_of_a_subject_tree_become_ticks(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        ctx = FakeContext()
        listening = Listening(nats(server), ctx, publisher, nursery)
        await listening.wait_until_heard()
        publisher.publish("md.trade.ACME", TRADE)
        publisher.publish("md.trade.BRK.B", [TRADE, TRADE])
        publisher.publish("elsewhere.trade.ACME", TRADE)
        publisher.publish("md.trade.ACME", numbered(2), headers=b"Nats-Msg-Id: 7\r\nX: {}")
        await publisher.flush()
        await listening.wait_for(lambda ctx: len(trades(ctx)) == 4)
        nursery.cancel_scope.cancel()
    ticks = [tick for tick in ctx.ticks if isinstance(tick, Trade)]
    first = Trade(sym="LAB:ACME", ts=NOW, rts=NOW, price="101.50", size="3", side="buy", id="1")
    assert ticks[0] == first
    assert [(tick.sym, tick.id) for tick in ticks] == [
        ("LAB:ACME", "1"), ("LAB:BRK.B", "1"), ("LAB:BRK.B", "1"), ("LAB:ACME", "2"),
    ]  # fmt: skip
    assert ctx.refusals == []


async def test_only_listed_symbols_are_listened_to(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        ctx = FakeContext()
        listening = Listening(nats(server, symbols=("MARK", "ACME")), ctx, publisher, nursery)
        await listening.wait_until_heard()
        publisher.publish("md.trade.OTHER", TRADE)
        publisher.publish("md.trade.ACME", TRADE)
        await publisher.flush()
        await listening.wait_for(lambda ctx: len(trades(ctx)) == 1)
        nursery.cancel_scope.cancel()
    assert {tick.sym for tick in ctx.ticks} == {"LAB:MARK", "LAB:ACME"}
    assert ctx.refusals == [], "OTHER was not even sent"


async def test_bad_messages_are_refused_with_their_subject_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        ctx = FakeContext()
        listening = Listening(nats(server), ctx, publisher, nursery)
        await listening.wait_until_heard()
        publisher.publish("md.trade.ACME", b"", b"hello", {**TRADE, "price": 1}, b"\xff\x00\r\nMSG x 1 1\r\n")
        publisher.publish("md.trade.acme", TRADE)
        publisher.publish("md.prices.ACME", TRADE)
        publisher.publish("md.trade.ACME", TRADE)
        await publisher.flush()
        await listening.wait_for(lambda ctx: len(trades(ctx)) == 1)
        nursery.cancel_scope.cancel()
    texts = [str(error) for error in ctx.refusals]
    assert [text.partition(": ")[0] for text in texts] == ["md.trade.ACME"] * (len(texts) - 2) + [
        "md.trade.acme",
        "md.prices.ACME",
    ]
    assert "price: 1 is not right" in texts[2]
    assert "one of quote, trade" in texts[-1]


async def test_message_over_a_megabyte_is_passed_over(tmp_path: Path) -> None:
    async with nats_server(tmp_path, "max_payload: 4MB") as server, nats_publisher(server) as publisher:
        async with trio.open_nursery() as nursery:
            ctx = FakeContext()
            listening = Listening(nats(server), ctx, publisher, nursery)
            await listening.wait_until_heard()
            publisher.publish("md.trade.ACME", b"x" * 3_000_000, TRADE)
            await publisher.flush()
            await listening.wait_for(lambda ctx: len(trades(ctx)) == 1)
            nursery.cancel_scope.cancel()
    assert [str(error) for error in ctx.refusals] == ["md.trade.ACME: too long: 3000000 bytes"]


async def test_fifty_thousand_messages_come_each_once_and_in_order(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        ctx = FakeContext()
        listening = Listening(nats(server), ctx, publisher, nursery)
        await listening.wait_until_heard()
        for start in range(0, 50_000, 1000):
            for number in range(start, start + 1000):
                publisher.publish(f"md.trade.S{number % 50}", numbered(number))
            await publisher.flush()
        await listening.wait_for(lambda ctx: len(ctx.ticks) >= 50_001)
        nursery.cancel_scope.cancel()
    assert trades(ctx) == [str(number) for number in range(50_000)]
    assert ctx.refusals == []


# ── what is lost ─────────────────────────────────────────────────────────────────────────────────


async def test_restarted_server_is_a_gap_for_all_that_was_served_before_anything_else(tmp_path: Path) -> None:
    ctx = FakeContext()
    level = {"bids": [["1", "1"]], "asks": []}
    async with nats_server(tmp_path) as server:
        feed = nats(server)
        async with nats_publisher(server) as publisher, trio.open_nursery() as nursery:
            listening = Listening(feed, ctx, publisher, nursery)
            await listening.wait_until_heard()
            publisher.publish("md.book.ACME", {"kind": "snapshot", **level}, {"kind": "delta", **level})
            publisher.publish("md.trade.ACME", TRADE)
            await publisher.flush()
            await listening.wait_for(lambda ctx: len(trades(ctx)) == 1)
            await server.stop(signal.SIGKILL)
            assert not isinstance(await listening.wait_until_ended(), FeedPermanentError)
        served = len(ctx.ticks)
        assert ctx.story[-3:] == [
            ("gap", "book", "LAB:ACME"), ("gap", "status", "LAB:MARK"), ("gap", "trade", "LAB:ACME"),
        ]  # fmt: skip
        assert not isinstance(await failure_of(feed), FeedPermanentError), "the server is away"
        await server.start()
        async with nats_publisher(server) as publisher, trio.open_nursery() as nursery:
            again = FakeContext()
            listening = Listening(feed, again, publisher, nursery)
            await listening.wait_until_heard()
            publisher.publish("md.book.ACME", {"kind": "delta", **level}, {"kind": "snapshot", **level})
            publisher.publish("md.trade.ACME", numbered(2))
            await publisher.flush()
            await listening.wait_for(lambda ctx: len(trades(ctx)) == 1)
            nursery.cancel_scope.cancel()
    assert len(ctx.ticks) == served
    assert [tick.kind for tick in again.ticks if isinstance(tick, Book)] == ["snapshot"]
    assert [error.kind for error in again.refusals] == ["a delta without a snapshot"]


async def test_slow_consumer_is_cut_off_by_the_server_and_says_what_it_served(tmp_path: Path) -> None:
    config = "max_pending: 1048576\nwrite_deadline: '100ms'"
    async with nats_server(tmp_path, config) as server, nats_publisher(server) as publisher:
        async with trio.open_nursery() as nursery:
            ctx = FakeContext()
            listening = Listening(nats(server), ctx, publisher, nursery)
            await listening.wait_until_heard()
            publisher.publish("md.trade.ACME", TRADE)
            await publisher.flush()
            await listening.wait_for(lambda ctx: len(trades(ctx)) == 1)
            # As if the machine had stopped: nothing is read any more.
            ctx.gate = trio.Event()
            padded = {**TRADE, "id": "x" * 64}
            for _ in range(40):
                publisher.publish("md.trade.ACME", *[[padded] * 2000] * 4)
                await publisher.flush()
            ctx.gate.set()
            failure = await listening.wait_until_ended()
    assert not isinstance(failure, FeedPermanentError)
    assert 1 < len(trades(ctx)) < 1 + 40 * 8000, "it got some, and not all"
    assert ctx.story[-1] == ("gap", "trade", "LAB:ACME")


async def test_cancelled_feed_tells_what_it_served(tmp_path: Path) -> None:
    ctx = FakeContext()
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        await Listening(nats(server), ctx, publisher, nursery).wait_until_heard()
        nursery.cancel_scope.cancel()
    assert ctx.gaps == [("status", "LAB:MARK")]


# ── who is let in ────────────────────────────────────────────────────────────────────────────────

USERS = """
authorization { users: [
  {user: feed, password: right}
  {user: part, password: right, permissions: {subscribe: {allow: ["md.>"]}}}
] }
"""


async def test_wrong_password_fails_for_good_and_the_right_one_is_let_in(tmp_path: Path) -> None:
    async with nats_server(tmp_path, USERS) as server:
        for options in ({}, {"user": "feed", "password": "wrong"}):
            failure = await failure_of(nats(server, **options))
            assert isinstance(failure, FeedPermanentError)
            assert "Authorization Violation" in str(failure)
            assert "wrong" not in str(failure)
        async with (
            nats_publisher(server, '"user":"feed","pass":"right"') as publisher,
            trio.open_nursery() as nursery,
        ):
            ctx = FakeContext()
            listening = Listening(nats(server, user="feed", password="right"), ctx, publisher, nursery)
            await listening.wait_until_heard()
            nursery.cancel_scope.cancel()


async def test_login_that_was_right_once_is_tried_again(tmp_path: Path) -> None:
    async with nats_server(tmp_path, USERS) as server:
        feed = nats(server, user="feed", password="right")
        async with (
            nats_publisher(server, '"user":"feed","pass":"right"') as publisher,
            trio.open_nursery() as nursery,
        ):
            await Listening(feed, FakeContext(), publisher, nursery).wait_until_heard()
            nursery.cancel_scope.cancel()
        await server.stop()
        (tmp_path / "nats.conf").write_text(USERS.replace("right", "changed"))
        await server.start()
        failure = await failure_of(feed)
    assert "Authorization Violation" in str(failure)
    assert not isinstance(failure, FeedPermanentError)


async def test_token_is_shown(tmp_path: Path) -> None:
    async with nats_server(tmp_path, "authorization { token: s3cret }") as server:
        assert isinstance(await failure_of(nats(server, token="other")), FeedPermanentError)
        async with (
            nats_publisher(server, '"auth_token":"s3cret"') as publisher,
            trio.open_nursery() as nursery,
        ):
            await Listening(
                nats(server, token="s3cret"), FakeContext(), publisher, nursery
            ).wait_until_heard()
            nursery.cancel_scope.cancel()


async def test_subject_that_is_not_allowed_is_told_and_the_others_are_served(tmp_path: Path) -> None:
    login = {"user": "part", "password": "right"}
    async with nats_server(tmp_path, USERS) as server:
        failure = await failure_of(nats(server, "secret.>", **login))
        assert isinstance(failure, FeedPermanentError)
        assert 'Permissions Violation for Subscription to "secret.>"' in str(failure)
        async with (
            nats_publisher(server, '"user":"feed","pass":"right"') as publisher,
            trio.open_nursery() as nursery,
        ):
            ctx = FakeContext()
            await Listening(
                nats(server, "secret.>", TREE, **login), ctx, publisher, nursery
            ).wait_until_heard()
            nursery.cancel_scope.cancel()
    [(event, fields)] = ctx.log.events
    assert event == "the server refuses a subject"
    assert "secret.>" in fields["error"]


async def test_tls_is_used_where_the_server_requires_it_and_its_certificate_is_checked(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    pem = tmp_path / "server.pem"
    config = f"tls {{ cert_file: '{pem}', key_file: '{pem}' }}"
    async with nats_server(tmp_path, config) as server:
        failure = await failure_of(nats(server))
        assert "TLS failed" in str(failure)
        assert not isinstance(failure, FeedPermanentError)
        ctx = FakeContext()
        feed = nats(server, tls_ca=str(tmp_path / "ca.pem"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, ctx)
            with trio.fail_after(30):
                while not feed.was_let_in:  # noqa: ASYNC110  # nothing else can be seen without a second TLS client
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_tls_is_insisted_on_where_it_is_asked_for(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        failure = await failure_of(nats(f"tls://127.0.0.1:{server.port}"))
    assert "TLS failed" in str(failure)


async def test_authority_that_is_none_fails_for_good() -> None:
    failure = await failure_of(nats("nats://127.0.0.1:1", tls_ca=__file__))
    assert isinstance(failure, FeedPermanentError)
    assert "tls_ca" in str(failure)


async def test_next_server_is_tried_when_one_is_away(tmp_path: Path) -> None:
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        urls = ("nats://127.0.0.1:1", f"nats://127.0.0.1:{server.port}")
        feed = Nats(Nats.Options(venue="LAB", urls=urls, subjects=(TREE,)))
        failure = str(await failure_of(feed))
        assert failure.startswith("127.0.0.1:1: can't connect: ")
        assert "refused" in failure
        await Listening(feed, FakeContext(), publisher, nursery).wait_until_heard()
        nursery.cancel_scope.cancel()


# ── options ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"subjects": ()}, "at least 1"),
        ({"subjects": ("md trade",)}, "without blanks"),
        ({"subjects": ("md..x",)}, "without blanks"),
        ({"subjects": ("md.>.x",)}, "> must stand at the end"),
        ({"subjects": ("md.a*",)}, "must stand alone"),
        ({"subjects": ("md.x{ch}",)}, "must stand alone"),
        ({"subjects": ("md.{what}",)}, "no other placeholder"),
        ({"subjects": ("md.>", "md.trade.*")}, "overlap"),
        ({"subjects": ("md.*.A", "md.trade.*")}, "overlap"),
        ({"urls": ("http://x",)}, "must be nats://HOST:PORT"),
        ({"urls": ("nats://u:p@x",)}, "keys of their own"),
        ({"urls": ("nats://x:99999",)}, "must be nats://HOST:PORT"),
        ({"token": "t", "user": "u"}, "without user and password"),
        ({"can_pause": True}, "False"),
        ({"venue": "lab"}, "capital letters"),
    ],
)
def test_options_that_can_not_be_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Nats.Options(**{"venue": "LAB", "subjects": (TREE,), **options})
    assert text in str(caught.value)


def test_subjects_that_do_not_overlap_may_stand_together() -> None:
    options = Nats.Options(venue="LAB", subjects=("md.trade.*", "md.quote.*", "md.trade.*.x", "other.>"))
    assert Nats(options).subjects() == ["md.trade.*", "md.quote.*", "md.trade.*.x", "other.>"]


def test_symbols_are_put_into_their_subjects() -> None:
    feed = nats("nats://x", "md.{ch}.{symbol}", "all", symbols=("A", "B.C"))
    assert feed.subjects() == ["md.*.A", "md.*.B.C", "all"]


def test_password_is_not_shown() -> None:
    options = Nats.Options(venue="LAB", subjects=(TREE,), user="u", password="hidden")
    assert "hidden" not in repr(options) + options.model_dump_json()


# ── the example ──────────────────────────────────────────────────────────────────────────────────


async def test_example_publishes_what_the_feed_takes(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "feeds" / "nats_publisher.py"
    async with (
        nats_server(tmp_path) as server,
        nats_publisher(server) as publisher,
        trio.open_nursery() as nursery,
    ):
        ctx = FakeContext()
        listening = Listening(nats(server), ctx, publisher, nursery)
        await listening.wait_until_heard()
        await trio.run_process([sys.executable, str(script), str(server.port), "20"])
        await listening.wait_for(lambda ctx: len(trades(ctx)) == 20)
        nursery.cancel_scope.cancel()
    assert trades(ctx) == [str(number) for number in range(1, 21)]
    assert ctx.refusals == []
