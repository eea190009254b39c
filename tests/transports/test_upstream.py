"""Towards a venue: everything that goes wrong is a `FeedError` that says what, and nothing waits for ever."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trustme
from trio_websocket import WebSocketConnection, WebSocketRequest, serve_websocket

from broker.core.errors import FeedError, FeedPermanentError
from broker.transports import upstream
from broker.transports.upstream import UpstreamSocket, connect_ws, get_body, retry_after_s
from tests.feeds.fakes import scripted_server, scripted_venue


async def echo(socket: WebSocketConnection, path: str) -> None:
    while True:
        await socket.send_message(await socket.get_message())


async def mute(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def enter(connecting: AbstractAsyncContextManager[UpstreamSocket]) -> None:
    async with connecting:
        pytest.fail("connected to what should have been refused")


async def test_messages_go_both_ways_as_text_and_as_bytes() -> None:
    async with scripted_venue(echo) as url, connect_ws(f"{url}/path?a=b") as socket:
        for message in ("text", b"bytes", "x" * 100_000):
            await socket.send(message)
            assert await socket.receive() == message


async def test_path_and_query_reach_the_venue() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message(path)

    async with scripted_venue(script) as url, connect_ws(f"{url}/stream?streams=a@b/c") as socket:
        assert await socket.receive() == "/stream?streams=a@b/c"


async def test_messages_before_a_close_arrive_and_the_close_says_why() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message("last words")
        await socket.aclose(4321, "over and out")

    async with scripted_venue(script) as url, connect_ws(url) as socket:
        assert await socket.receive() == "last words"
        with pytest.raises(FeedError, match=r"closed with 4321.*over and out"):
            await socket.receive()
        with pytest.raises(FeedError):
            await socket.send("too late")


async def test_too_large_a_message_closes_the_connection() -> None:
    async with scripted_venue(echo) as url, connect_ws(url, max_message_bytes=1000) as socket:
        await socket.send("x" * 1001)
        with pytest.raises(FeedError, match="1009"):
            await socket.receive()


async def test_exception_of_the_block_comes_out_as_it_is() -> None:
    async with scripted_venue(echo) as url:
        with pytest.raises(KeyError, match="mine"):
            async with connect_ws(url):
                raise KeyError("mine")


async def test_cancelling_the_block_leaves_it() -> None:
    async with scripted_venue(echo) as url:
        with trio.CancelScope() as scope:
            async with connect_ws(url) as socket:
                scope.cancel()
                await socket.receive()
        assert scope.cancelled_caught


async def test_nobody_listening_is_a_feed_error() -> None:
    async with scripted_server(lambda stream: stream.aclose()) as port:
        pass
    with pytest.raises(FeedError, match=r"no connection: .*refused"):
        await enter(connect_ws(f"ws://127.0.0.1:{port}"))


@pytest.mark.parametrize("url", ["http://127.0.0.1", "ws://", "ws://127.0.0.1:99999", "ws://[", "nonsense"])
async def test_wrong_url_is_a_feed_error(url: str) -> None:
    with pytest.raises(FeedError):
        await enter(connect_ws(url))


async def test_refused_upgrade_says_with_what() -> None:
    async def handle(request: WebSocketRequest) -> None:
        await request.reject(451, body=b"not in your country")

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        with pytest.raises(FeedError, match=r"HTTP 451 not in your country"):
            await enter(connect_ws(f"ws://127.0.0.1:{server.port}"))
        nursery.cancel_scope.cancel()


async def refused_with(status: int, headers: list[tuple[bytes, bytes]]) -> FeedError:
    """Return what connecting to a venue raises that refuses the upgrade."""

    async def handle(request: WebSocketRequest) -> None:
        await request.reject(status, extra_headers=headers, body=b"no")

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        with pytest.raises(FeedError) as raised:
            await enter(connect_ws(f"ws://127.0.0.1:{server.port}"))
        nursery.cancel_scope.cancel()
    return raised.value


@pytest.mark.parametrize("status", [401, 404, 405, 410, 451])
async def test_refusal_that_is_about_what_was_asked_is_permanent_unless_it_has_worked(status: int) -> None:
    error = await refused_with(status, [])
    assert isinstance(error, FeedPermanentError)
    assert error.unless_live
    assert error.reason == "refused"


@pytest.mark.parametrize("status", [400, 403, 418, 429, 500, 502, 503])
async def test_refusal_that_may_pass_says_how_long_to_wait_where_the_venue_does(status: int) -> None:
    error = await refused_with(status, [(b"Retry-After", b"17")])
    assert not isinstance(error, FeedPermanentError)
    assert (error.reason, error.retry_after_s) == ("refused", 17.0)
    assert (await refused_with(status, [])).retry_after_s is None


async def test_get_that_is_refused_says_how_long_to_wait() -> None:
    answer = b"HTTP/1.1 429 Slow down\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n"
    async with answering(answer) as port:
        with pytest.raises(FeedError) as raised:
            await get_body(f"http://127.0.0.1:{port}/x")
    assert raised.value.retry_after_s == 9.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("-3", None),
        ("1.5", None),
        ("9" * 400, None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nonsense_is_none(text: str, seconds: float | None) -> None:
    assert retry_after_s(text) == seconds


def test_retry_after_a_date_to_come_is_as_long_as_it_takes_until_then() -> None:
    waits = retry_after_s("Fri, 31 Dec 2900 23:59:59 GMT")
    assert waits is not None
    assert waits > 86_400 * 365


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", b"SSH-2.0-x\r\n"])
async def test_peer_that_speaks_no_websocket_is_a_feed_error_before_the_deadline(answer: bytes) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with scripted_server(handle) as port:
        with pytest.raises(FeedError, match=r"handshake|refused with HTTP 200|connection failed"):
            await enter(connect_ws(f"ws://127.0.0.1:{port}", connect_timeout_s=3600))


async def test_peer_that_never_answers_the_upgrade_is_given_up() -> None:
    async with scripted_server(mute) as port:
        with pytest.raises(FeedError, match=r"no connection within 0.05 s"):
            await enter(connect_ws(f"ws://127.0.0.1:{port}", connect_timeout_s=0.05))


async def test_peer_that_answers_no_close_is_left() -> None:
    async def deaf(socket: WebSocketConnection, path: str) -> None:
        # Its receive queue is full from here on, so it reads no further, and never sees the close.
        await trio.sleep_forever()

    async with scripted_venue(deaf) as url:
        with trio.fail_after(60):
            async with connect_ws(url, close_timeout_s=0.05) as socket:
                for _ in range(10):
                    await socket.send("unread")


async def test_connection_that_is_cut_is_told_as_lost() -> None:
    async def cut(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message("hello")
        await trio.aclose_forcefully(socket._stream)

    async with scripted_venue(cut) as url, connect_ws(url) as socket:
        assert await socket.receive() == "hello"
        with pytest.raises(FeedError, match="the connection was lost"):
            await socket.receive()


async def test_certificate_of_somebody_else_is_a_feed_error() -> None:
    stranger = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(stranger)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, stranger)
        with pytest.raises(FeedError, match=r"(?i)certificate"):
            await enter(connect_ws(f"wss://localhost:{server.port}"))
        nursery.cancel_scope.cancel()


async def test_tls_works_where_the_certificate_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(upstream, "tls_context", lambda: trusting)

    async def handle(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.send_message("safe")
        await socket.get_message()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, serving)
        async with connect_ws(f"wss://localhost:{server.port}") as socket:
            assert await socket.receive() == "safe"
            await socket.send("bye")
        nursery.cancel_scope.cancel()


def answering(answer: bytes) -> AbstractAsyncContextManager[int]:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    return scripted_server(handle)


async def test_body_of_a_200_is_returned() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody") as port:
        assert await get_body(f"http://127.0.0.1:{port}/x") == b"body"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 418 Teapot\r\ncontent-length: 5\r\n\r\nshort", "HTTP 418: short"),
        (b"HTTP/1.1 301 Moved\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n", "HTTP 301"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", "GET http"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000, "more than 1000 bytes"),
        (b"nonsense\r\n\r\n", "GET http"),
        (b"", "GET http"),
    ],
)
async def test_any_other_answer_is_a_feed_error(answer: bytes, text: str) -> None:
    async with answering(answer) as port:
        with pytest.raises(FeedError, match=text):
            await get_body(f"http://127.0.0.1:{port}/x", max_bytes=1000)


async def test_answer_that_never_comes_is_given_up() -> None:
    async with scripted_server(mute) as port:
        with pytest.raises(FeedError, match=r"no answer within 0.05 s|timed out"):
            await get_body(f"http://127.0.0.1:{port}/x", timeout_s=0.05)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "nonsense", "http://", "http://[", "http://127.0.0.1:99999/"]
)
async def test_wrong_url_of_a_get_is_a_feed_error(url: str) -> None:
    with pytest.raises(FeedError, match="GET"):
        await get_body(url)
