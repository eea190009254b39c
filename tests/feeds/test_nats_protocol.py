"""The NATS client against servers that follow a script: whatever they send, it is understood or told.

Frames after https://docs.nats.io/reference/protocols/client ("NATS client protocol"), read 2026-11-21.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from broker.core.errors import FeedError, FeedPermanentError
from broker.core.ticks import Trade
from feeds.nats import Nats
from feeds.nats_client import PING_S, Login, NatsConnection, Refused
from feeds.nats_protocol import (
    MOST_LINE_BYTES,
    MOST_PAYLOAD_BYTES,
    Event,
    Info,
    Message,
    NatsParser,
    Ping,
    Pong,
    Refusal,
    TooLong,
)
from tests.feeds.fakes import FakeContext

INFO = b'INFO {"server_id":"NA","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576}\r\n'
TRADE = b'{"price":"101.50","size":"3","side":"buy","id":"7"}'
MSG = b"MSG md.trade.ACME 1 %d\r\n%b\r\n" % (len(TRADE), TRADE)
HMSG = b"HMSG md.trade.ACME 1 reply.to 12 %d\r\nNATS/1.0\r\n\r\n%b\r\n" % (len(TRADE) + 12, TRADE)


def parse(*pieces: bytes) -> list[Event]:
    parser = NatsParser()
    return [event for piece in pieces for event in parser.feed(piece)]


# ── bytes to events ──────────────────────────────────────────────────────────────────────────────


def test_every_operation_is_understood() -> None:
    message = Message(b"md.trade.ACME", TRADE)
    sent = (
        INFO
        + b"PING\r\n"
        + MSG
        + b"+OK\r\n"
        + HMSG
        + b"-ERR 'Slow Consumer'\r\nPONG\r\nping\r\nMSG a.b 9 0\r\n\r\n"
    )
    assert parse(sent) == [
        Info(version="2.9.10", headers=True),
        Ping(),
        message,
        message,
        Refusal("Slow Consumer"),
        Pong(),
        Ping(),
        Message(b"a.b", b""),
    ]


def test_fields_may_be_parted_by_several_blanks_and_tabs() -> None:
    assert parse(b"msg \t a.b  1\t3\r\nxyz\r\n") == [Message(b"a.b", b"xyz")]


def test_payload_may_look_like_the_protocol() -> None:
    inner = b"\r\nPING\r\nMSG x 1 1\r\n"
    assert parse(b"MSG a 1 %d\r\n%b\r\nPONG\r\n" % (len(inner), inner)) == [Message(b"a", inner), Pong()]


@given(st.lists(st.sampled_from([MSG, HMSG, b"PING\r\n", b"+OK\r\n", INFO]), max_size=6), st.data())
def test_pieces_may_end_anywhere(frames: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    pieces = [sent[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert parse(*pieces) == parse(sent)


@pytest.mark.parametrize("step", [1021, 4096, MOST_PAYLOAD_BYTES, 2 * MOST_PAYLOAD_BYTES])
def test_message_too_long_is_passed_over_however_it_comes(step: int) -> None:
    size = MOST_PAYLOAD_BYTES + 1
    sent = b"MSG a 1 %d\r\n%b\r\n%b" % (size, b"x" * size, MSG)
    pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert parse(*pieces) == [TooLong(b"a", size), Message(b"md.trade.ACME", TRADE)]


def test_longest_message_is_taken() -> None:
    payload = b"x" * MOST_PAYLOAD_BYTES
    sent = b"MSG a 1 %d\r\n%b\r\n" % (len(payload), payload)
    pieces = [sent[at : at + 16384] for at in range(0, len(sent), 16384)]
    assert parse(*pieces) == [Message(b"a", payload)]


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak NATS: it sent 'HTTP/1.1'"),
        (b"\r\n", "does not speak NATS"),
        (b"x" * (MOST_LINE_BYTES + 1), "a line of more than"),
        (b"MSG a 1 3\r\nxyzPING\r\n", "longer than it says"),
        (b"MSG a 1 -3\r\n", "can't be understood"),
        (b"MSG a 1 1_0\r\n", "can't be understood"),
        (b"MSG a 1 99999999999\r\n", "can't be understood"),
        (b"MSG a 3\r\n", "can't be understood"),
        (b"MSG\r\n", "can't be understood"),
        (b"HMSG a 1 5 3\r\nxyz\r\n", "headers are longer"),
        (b"INFO {\r\n", "an INFO that can't be understood"),
        (b'INFO {"tls_required":"yes"}\r\n', "an INFO that can't be understood"),
    ],
)
def test_what_is_not_the_protocol_is_an_error(sent: bytes, text: str) -> None:
    with pytest.raises(FeedError) as caught:
        parse(sent)
    assert text in str(caught.value)


# ── a connection ─────────────────────────────────────────────────────────────────────────────────

Stream: TypeAlias = trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]
Script: TypeAlias = Callable[[Stream], Awaitable[None]]


async def listen(script: Script, ctx: FakeContext) -> None:
    """Run a feed against a server in memory, until it fails."""
    feed = Nats(Nats.Options(venue="LAB", subjects=("md.{ch}.{symbol}",)))
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, theirs)
        connection = NatsConnection(ours, "server")
        try:
            await connection.greet(Login(), None, "server")
            await feed.listen(ctx, connection)
        finally:
            nursery.cancel_scope.cancel()


async def failure(script: Script, ctx: FakeContext | None = None) -> FeedError:
    # A nursery puts a group around what it raises.
    with pytest.raises(ExceptionGroup) as caught:
        await listen(script, ctx or FakeContext())
    [exc] = caught.value.exceptions
    assert isinstance(exc, FeedError)
    return exc


def talk(*frames: bytes) -> Script:
    """Return a server that greets, answers the first two PINGs, sends the frames and hangs up."""

    async def script(stream: Stream) -> None:
        await stream.send_all(INFO)
        for _ in range(2):
            await read_until(stream, b"PING\r\n")
            await stream.send_all(b"PONG\r\n")
        for frame in frames:
            await stream.send_all(frame)
        await stream.send_eof()

    return script


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        piece = bytes(await stream.receive_some())
        assert piece
        seen += piece
    return seen


async def test_message_that_comes_before_the_server_has_answered_is_served() -> None:
    async def script(stream: Stream) -> None:
        await stream.send_all(INFO)
        assert b"CONNECT {" in await read_until(stream, b"PING\r\n")
        await stream.send_all(b"PONG\r\n")
        assert await read_until(stream, b"PING\r\n") == b"SUB md.*.> 1\r\nPING\r\n"
        await stream.send_all(MSG + b"PONG\r\n" + MSG)
        await stream.send_eof()

    ctx = FakeContext()
    assert str(await failure(script, ctx)) == "server: the server closed the connection"
    assert len(ctx.ticks) == 2
    assert ctx.story[-1] == ("gap", "trade", "LAB:ACME")


async def test_ping_is_answered() -> None:
    answered = trio.Event()

    async def script(stream: Stream) -> None:
        await talk(b"PING\r\n")(stream)
        assert await read_until(stream, b"PONG\r\n") == b"PONG\r\n"
        answered.set()

    await failure(script)
    assert answered.is_set()


async def test_error_of_a_running_connection_ends_it() -> None:
    exc = await failure(talk(MSG, b"-ERR 'Stale Connection'\r\n"))
    assert str(exc) == "the server says: Stale Connection"
    assert not isinstance(exc, FeedPermanentError)


async def test_refusal_at_the_door_says_why() -> None:
    async def script(stream: Stream) -> None:
        await stream.send_all(INFO)
        await read_until(stream, b"PING\r\n")
        await stream.send_all(b"-ERR 'maximum connections exceeded'\r\n")
        await stream.send_eof()

    exc = await failure(script)
    assert isinstance(exc, Refused)
    assert not exc.is_lasting
    assert "maximum connections exceeded" in str(exc)


async def test_server_that_asks_for_a_key_is_told_as_what_is_not_supported() -> None:
    async def script(stream: Stream) -> None:
        await stream.send_all(b'INFO {"auth_required":true,"nonce":"abc"}\r\n')
        await read_until(stream, b"PING\r\n")
        await stream.send_all(b"-ERR 'Authorization Violation'\r\n")
        await stream.send_eof()

    exc = await failure(script)
    assert isinstance(exc, Refused)
    assert exc.is_lasting
    assert "NKey" in str(exc)


async def test_silent_server_is_pinged_and_then_given_up(autojump_clock: MockClock) -> None:
    asked: list[float] = []

    async def script(stream: Stream) -> None:
        await stream.send_all(INFO)
        for _ in range(2):
            await read_until(stream, b"PING\r\n")
            await stream.send_all(b"PONG\r\n")
        began = trio.current_time()
        await read_until(stream, b"PING\r\n")
        asked.append(trio.current_time() - began)
        await stream.send_all(b"PONG\r\n")
        await read_until(stream, b"PING\r\n")
        asked.append(trio.current_time() - began)
        await trio.sleep_forever()

    began = trio.current_time()
    exc = await failure(script)
    assert asked == pytest.approx([PING_S, 2 * PING_S])
    assert trio.current_time() - began == pytest.approx(3 * PING_S)
    assert "no word from the server for 40 s" in str(exc)


PIECES = st.sampled_from(
    [
        MSG,
        HMSG,
        INFO,
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"MSG a 1 5\r\n",
        b"\r\n",
        b"-ERR 'x'\r\n",
        b"HMSG ",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=20), max_size=10), st.booleans())
def test_any_server_ends_in_an_error_of_the_feed_and_nothing_else(pieces: list[bytes], greets: bool) -> None:
    async def garbage(stream: Stream) -> None:
        if greets:
            await talk(*pieces)(stream)
        else:
            for piece in pieces:
                await stream.send_all(piece)
            await stream.send_eof()

    async def main() -> FakeContext:
        ctx = FakeContext()
        await failure(garbage, ctx)
        return ctx

    ctx = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert all(tick.sym == "LAB:ACME" for tick in ctx.ticks if isinstance(tick, Trade))
    assert bool(ctx.ticks) == (ctx.gaps == [("trade", "LAB:ACME")])
