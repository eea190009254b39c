"""WebSocket towards subscribers: wsproto reads, our own framing writes.

The handshake is checked here (RFC 6455, section 4.2.1) and not by wsproto, which would parse the head a
second time, keep the parser for the connection's life, and drop bytes that came behind the blank line.
No extension is accepted: permessage-deflate with a context costs 93 KiB a connection.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio
from wsproto.connection import Connection as WsConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, generate_accept_token

from broker.core import errors
from broker.core.codecs import CODECS, Codec
from broker.core.errors import CloseReason
from broker.core.framing import WEBSOCKET_BINARY, WEBSOCKET_TEXT, WebSocketFraming
from broker.runtime.sessions import Sessions
from broker.runtime.stream import Stream
from broker.runtime.subscriber import Subscriber
from broker.transports.closing import answer, leave, refused
from broker.transports.door import FINISH_S, Connection
from broker.transports.http1 import Head, problem

log = structlog.get_logger()

#: Messages of the echo, which the Autobahn suite fills to the last byte.
ECHO_BYTES = 16 << 20
#: RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code.
CLOSE_REASON_BYTES = 123
#: Frames handled before the others have their turn: a read can bring ten thousand empty ones, 100 ms of work.
FRAMES_PER_TURN = 64

OnMessage = Callable[[str | bytes], Awaitable[None]]


class HandshakeError(Exception):
    """The upgrade can't be accepted.

    Attributes:
        answer: the HTTP response that says why.
    """

    def __init__(
        self, status: int, code: str, text: str, headers: list[tuple[str, str]] | None = None
    ) -> None:
        super().__init__(text)
        self.answer = problem(status, code, text, headers)


def check_upgrade(head: Head) -> bytes:
    """Return the key of a WebSocket upgrade.

    Raises:
        HandshakeError: it is not one (RFC 6455, section 4.2.1).
    """
    if head.method != "GET" or head.http_version != "1.1":
        raise HandshakeError(
            405, "method_not_allowed", "a WebSocket begins with GET and HTTP/1.1", [("Allow", "GET")]
        )
    upgrade = [token.lower() for token in head.tokens("upgrade")]
    connection = [token.lower() for token in head.tokens("connection")]
    if "websocket" not in upgrade or "upgrade" not in connection:
        raise HandshakeError(
            426,
            "upgrade_required",
            "this is a WebSocket: send Connection: Upgrade and Upgrade: websocket",
            [("Upgrade", "websocket")],
        )
    if head.get("sec-websocket-version") != "13":
        raise HandshakeError(
            426, "version_required", "Sec-WebSocket-Version must be 13", [("Sec-WebSocket-Version", "13")]
        )
    key = (head.get("sec-websocket-key") or "").encode("latin-1")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise HandshakeError(400, "bad_key", "Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def choose_codec(head: Head) -> tuple[Codec, bool]:
    """Return the codec of the first subprotocol that we know, and whether it has to be named.

    Raises:
        HandshakeError: only unknown ones are listed.
    """
    listed = head.tokens("sec-websocket-protocol")
    for name in listed:
        for codec in CODECS:
            if codec.subprotocol == name:
                return codec, True
    if listed:
        ours = ", ".join(codec.subprotocol for codec in CODECS)
        raise HandshakeError(
            400, "unknown_subprotocol", f"of {', '.join(listed)!r:.200} none is known; there are {ours}"
        )
    return CODECS[0], False


def accept(key: bytes, subprotocol: str | None) -> bytes:
    """Return the 101 that opens the connection."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + generate_accept_token(key),
    ]
    if subprotocol is not None:
        lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("ascii"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Peer:
    """An open WebSocket: reads messages, answers pings and closes. Writing data is not its business."""

    def __init__(self, stream: Stream, rest: bytes, *, message_bytes: int) -> None:
        """Begin to read.

        Args:
            rest: what came behind the blank line of the upgrade.
            message_bytes: the most that one message may have, text in UTF-8.
        """
        self._stream = stream
        self._ws = WsConnection(ConnectionType.SERVER, [], rest)
        self._message_bytes = message_bytes
        #: The message so far, text in UTF-8. One buffer, so that it takes its size however finely it is cut.
        self._gathered = bytearray()
        #: Whether it ever answered a ping.
        self.has_answered = False

    async def run(self, on_message: OnMessage, on_bytes: Callable[[], None]) -> CloseReason:
        """Read until the end; return why it came.

        Args:
            on_message: called with each whole message; what it awaits is felt by the client alone.
            on_bytes: called whenever something came.
        """
        while True:
            for count, event in enumerate(self._ws.events(), 1):
                ended = await self._handle(event, on_message)
                if ended is not None:
                    return ended
                if count % FRAMES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            data = await self._stream.receive_some()
            if not data:
                return errors.CLIENT_GONE
            on_bytes()
            self._ws.receive_data(data)

    async def _handle(self, event: Event, on_message: OnMessage) -> CloseReason | None:
        match event:
            case TextMessage() | BytesMessage():
                return await self._gather(event, on_message)
            case Ping():
                self._send(event.response())
                # A client that pings and does not read would fill our queue: wait for it to read.
                await self._stream.wait_send_all_might_not_block()
            case Pong():
                self.has_answered = True
            case CloseConnection():
                # Also how wsproto says that what came is not valid: then the peer has not closed.
                asked = self._ws.state is not ConnectionState.OPEN
                self._send(CloseConnection(event.code, None if event.reason is None else _cut(event.reason)))
                return errors.ASKED if asked else errors.PROTOCOL_ERROR
        return None

    async def _gather(self, event: TextMessage | BytesMessage, on_message: OnMessage) -> CloseReason | None:
        self._gathered += event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._gathered) > self._message_bytes:
            return errors.TOO_BIG
        if event.message_finished:
            whole, self._gathered = self._gathered, bytearray()
            await on_message(whole.decode() if isinstance(event, TextMessage) else bytes(whole))
        return None

    def ping(self) -> None:
        """Send a ping; any answer at all is sign of life."""
        self._send(Ping(b""))

    def close(self, reason: CloseReason) -> bytes:
        """Return the frame that begins the close; empty if one has been sent."""
        try:
            return self._ws.send(CloseConnection(reason.code, _cut(reason.text)))
        except LocalProtocolError:
            return b""

    def _send(self, event: Event) -> None:
        with suppress(LocalProtocolError):
            self._stream.offer(self._ws.send(event))


def _cut(text: str) -> str:
    return text.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")


class WebSocketTransport:
    """`/v1/ws` and `/debug/echo`."""

    def __init__(self, sessions: Sessions, *, time_ns: Callable[[], int]) -> None:
        self._sessions = sessions
        self._time_ns = time_ns

    async def serve(self, connection: Connection) -> None:
        """Run one subscriber's session, from the upgrade to the close."""
        stream = connection.stream
        try:
            key = check_upgrade(connection.head)
            codec, is_named = choose_codec(connection.head)
        except HandshakeError as exc:
            await answer(stream, exc.answer)
            return
        stream.offer(accept(key, codec.subprotocol if is_named else None))
        peer = Peer(stream, connection.head.rest, message_bytes=self._sessions.limits.message_bytes)
        framing = WEBSOCKET_BINARY if codec.is_binary else WEBSOCKET_TEXT
        refusal = self._sessions.refusal(connection.address)
        if refusal is not None:
            await self._turn_away(stream, peer, codec, framing, refusal)
            return
        subscriber, welcome = self._sessions.open(
            stream,
            codec,
            framing,
            address=connection.address,
            finish=peer.close,
            keep_alive=lambda subscriber, now: self._keep_alive(subscriber, peer, now),
        )
        try:
            subscriber.say(welcome)
            with subscriber.scope:
                reason = await peer.run(
                    lambda payload: self._request(subscriber, stream, payload), lambda: _hear(subscriber)
                )
                if reason is errors.TOO_BIG:
                    subscriber.end(reason)
                elif subscriber.ended is None:
                    subscriber.ended = reason
        finally:
            await leave(self._sessions, subscriber, stream)

    async def _request(self, subscriber: Subscriber, stream: Stream, payload: str | bytes) -> None:
        session = subscriber.session
        if subscriber.ended is not None:
            return
        try:
            reply = session.handle(payload, trio.current_time(), self._time_ns())
        except Exception:
            # Ours, whatever it is: the client is told to come back.
            subscriber.fail("a request failed", request=payload[:200])
            return
        subscriber.say(reply)
        if session.close_reason is not None:
            subscriber.end(session.close_reason)
            return
        subscriber.wake()
        # Answers have no queue of their own to overflow: whoever does not read them is not read either.
        if stream.is_blocked:
            await stream.wait_send_all_might_not_block()

    def _keep_alive(self, subscriber: Subscriber, peer: Peer, now: float) -> None:
        """Ping a silent client, and give up one that used to answer pings and no longer does.

        A client that never answered any is left to TCP: RFC 6455 obliges it to, but one that counts bytes
        and reads them all does no harm.
        """
        times = self._sessions.times
        stream = subscriber.wire
        assert isinstance(stream, Stream)
        heard = max(subscriber.last_heard, stream.last_progress)
        silent = now - heard
        pinged = subscriber.ping_sent_at
        # Looked at once a second: whoever was not pinged since it last said something has failed to answer nothing.
        has_missed = peer.has_answered and pinged is not None and pinged > heard
        if has_missed and silent >= times.ping_interval_s + times.ping_timeout_s:
            subscriber.end(errors.CLIENT_SILENT)
            return
        is_due = pinged is None or now - pinged >= times.ping_interval_s
        if is_due and not stream.is_blocked and (silent >= times.ping_interval_s or not peer.has_answered):
            subscriber.ping_sent_at = now
            peer.ping()

    async def _turn_away(
        self, stream: Stream, peer: Peer, codec: Codec, framing: WebSocketFraming, reason: CloseReason
    ) -> None:
        """Say why there is no session, in the way that a client of ours understands."""
        self._sessions.closed[reason.name] += 1
        closing = refused(reason)
        stream.offer(framing.frame("closing", codec.encode(closing)) + peer.close(reason))
        await stream.finish(FINISH_S)

    async def echo(self, connection: Connection) -> None:
        """Send every message back, for the Autobahn test suite; only with `[debug] echo`."""
        stream = connection.stream
        try:
            key = check_upgrade(connection.head)
        except HandshakeError as exc:
            await answer(stream, exc.answer)
            return
        stream.offer(accept(key, None))
        peer = Peer(stream, connection.head.rest, message_bytes=ECHO_BYTES)
        # Not the shared ones: they remember what they framed last, and would keep 16 MiB.
        text, binary = WebSocketFraming(is_binary=False), WebSocketFraming(is_binary=True)

        async def send_back(payload: str | bytes) -> None:
            if isinstance(payload, str):
                await stream.send_all(text.frame("", payload.encode()))
            else:
                await stream.send_all(binary.frame("", payload))

        reason = await peer.run(send_back, lambda: None)
        if reason is errors.TOO_BIG:
            stream.offer(peer.close(reason))
        await stream.finish(FINISH_S)


def _hear(subscriber: Subscriber) -> None:
    subscriber.last_heard = trio.current_time()
