"""WebSocket towards subscribers: wsproto reads, our own framing writes.

The handshake is checked here (RFC 6455, section 4.2.1) and not by wsproto, which would parse the head a
second time, keep the parser for the connection's life, and drop bytes that came behind the blank line.
No extension is accepted: permessage-deflate with a context costs 93 KiB a connection.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from math import inf
from typing import Self

import trio
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import generate_accept_token

from broker.core import errors
from broker.core.codecs import CODECS, Codec
from broker.core.errors import CloseReason
from broker.core.framing import WEBSOCKET_BINARY, WEBSOCKET_TEXT, WebSocketFraming
from broker.runtime.sessions import Sessions
from broker.runtime.stream import Stream
from broker.runtime.turns import TURN_S
from broker.transports.closing import answer, leave, refused
from broker.transports.door import FINISH_S, Connection
from broker.transports.http1 import Head, problem
from broker.transports.websocket_frames import PING, FrameReader, close, is_empty_pong, pong

#: Messages of the echo, which the Autobahn suite fills to the last byte.
ECHO_BYTES = 16 << 20
#: Frames handled before the others have their turn: a read can bring ten thousand empty ones, 100 ms of work.
FRAMES_PER_TURN = 64

#: A client that has much to read is looked after again after so long, in seconds.
BLOCKED_S = 1.0

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

    __slots__ = ("_gathered", "_has_closed", "_message_bytes", "_reader", "_rest", "_stream", "has_answered")

    def __init__(self, stream: Stream, rest: bytes, *, message_bytes: int) -> None:
        """Begin to read.

        Args:
            rest: what came behind the blank line of the upgrade.
            message_bytes: the most that one message may have, text in UTF-8.
        """
        self._stream = stream
        self._rest = rest
        self._message_bytes = message_bytes
        #: While a message has begun and not ended.
        self._reader: FrameReader | None = None
        #: The message so far, text in UTF-8. One buffer, so that it takes its size however finely it is cut.
        self._gathered: bytearray | None = None
        self._has_closed = False
        #: Whether it ever answered a ping.
        self.has_answered = False

    async def run(self, on_message: OnMessage, on_bytes: Callable[[], None]) -> CloseReason:
        """Read until the end; return why it came.

        Args:
            on_message: called with each whole message; what it awaits is felt by the client alone.
            on_bytes: called whenever something came.
        """
        data, self._rest = self._rest, b""
        while True:
            if self._reader is None and is_empty_pong(data):
                self.has_answered = True
            elif data:
                ended = await self._read(data, on_message)
                if ended is not None:
                    return ended
            # What was read is not kept while it waits for more, most of its life.
            data = b""
            data = await self._stream.receive_some()
            if not data:
                return errors.CLIENT_GONE
            on_bytes()

    async def _read(self, data: bytes, on_message: OnMessage) -> CloseReason | None:
        reader = self._reader = self._reader or FrameReader()
        for count, event in enumerate(reader.read(data), 1):
            ended = await self._handle(event, on_message)
            if ended is not None:
                return ended
            if count % FRAMES_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        if reader.is_at_rest:
            self._reader = None
        return None

    async def _handle(self, event: Event, on_message: OnMessage) -> CloseReason | None:
        match event:
            case TextMessage() | BytesMessage():
                return await self._gather(event, on_message)
            case Ping():
                if not self._has_closed:
                    self._stream.offer(pong(bytes(event.payload)))
                # A client that pings and does not read would fill our queue: wait for it to read.
                await self._stream.wait_send_all_might_not_block()
            case Pong():
                self.has_answered = True
            case CloseConnection():
                # Also how wsproto says that what came is not valid: then the peer has not closed.
                asked = self._reader is not None and self._reader.has_valid_end
                if not self._has_closed:
                    self._has_closed = True
                    self._stream.offer(close(event.code, event.reason))
                return errors.ASKED if asked else errors.PROTOCOL_ERROR
        return None

    async def _gather(self, event: TextMessage | BytesMessage, on_message: OnMessage) -> CloseReason | None:
        if self._gathered is None:
            self._gathered = bytearray()
        self._gathered += event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._gathered) > self._message_bytes:
            return errors.TOO_BIG
        if event.message_finished:
            whole, self._gathered = self._gathered, None
            await on_message(whole.decode() if isinstance(event, TextMessage) else bytes(whole))
        return None

    def close(self, reason: CloseReason) -> bytes:
        """Return the frame that begins the close; empty if one has been sent."""
        if self._has_closed:
            return b""
        self._has_closed = True
        return close(reason.code, reason.text)


class _Client(Peer):
    """The far end of a session.

    One object with methods, for there are thousands: each closure of its own would take two hundred bytes.
    """

    __slots__ = ("_sessions", "_time_ns", "subscriber")

    def __init__(self, stream: Stream, rest: bytes, sessions: Sessions, time_ns: Callable[[], int]) -> None:
        """See `Peer`; `join` must follow."""
        super().__init__(stream, rest, message_bytes=sessions.limits.message_bytes)
        self._sessions = sessions
        self._time_ns = time_ns

    def join(self, codec: Codec, framing: WebSocketFraming, address: str) -> Self:
        """Open its session, and say `welcome`; `leave` must follow."""
        self.subscriber, welcome = self._sessions.open(
            self._stream, codec, framing, address=address, finish=self.close, keep_alive=self.keep_alive
        )
        self.subscriber.say(welcome)
        return self

    def hear(self) -> None:
        """Note that something came."""
        self.subscriber.last_heard = trio.current_time()

    async def request(self, payload: str | bytes) -> None:
        """Carry out what it asks for."""
        subscriber, stream = self.subscriber, self._stream
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

    def keep_alive(self, now: float, interval_s: float) -> tuple[bytes, float]:
        """Ping it if it is silent, and give it up if it used to answer pings and no longer does.

        One that never answered any is left to TCP: RFC 6455 obliges it to, but one that counts bytes
        and reads them all does no harm.
        """
        subscriber, times = self.subscriber, self._sessions.times
        heard = max(subscriber.last_heard, self._stream.last_progress)
        pinged = subscriber.ping_sent_at
        if self._has_closed:
            return b"", inf
        # What is due within this turn is due: later by one would be later by a second.
        now += TURN_S
        if self.has_answered and pinged is not None and pinged > heard:
            # Not before a slow consumer would have been evicted as what it is.
            patience = max(heard + times.ping_interval_s, pinged) + times.ping_timeout_s
            if now >= patience:
                subscriber.end(errors.CLIENT_SILENT)
                return b"", inf
            return b"", patience
        due = -inf if pinged is None else pinged + interval_s
        if self.has_answered:
            due = max(due, heard + interval_s)
        if now < due:
            return b"", due
        if self._stream.is_blocked:
            return b"", now + BLOCKED_S
        # Not when its turn was: that may be long ago, and the client has its time from now on.
        subscriber.ping_sent_at = pinged = trio.current_time()
        return PING, pinged + min(interval_s, times.ping_timeout_s)


class WebSocketTransport:
    """`/v1/ws` and `/debug/echo`."""

    def __init__(self, sessions: Sessions, *, time_ns: Callable[[], int]) -> None:
        self._sessions = sessions
        self._time_ns = time_ns

    async def serve(self, connection: Connection) -> None:
        """Run one subscriber's session, from the upgrade to the close."""
        stream = connection.stream
        client = await self._let_in(connection)
        # It holds the request, which nobody needs any more.
        del connection
        if client is None:
            return
        subscriber = client.subscriber
        try:
            with subscriber.scope:
                reason = await client.run(client.request, client.hear)
                if reason is errors.TOO_BIG:
                    subscriber.end(reason)
                elif subscriber.ended is None:
                    subscriber.ended = reason
        finally:
            await leave(self._sessions, subscriber, stream)

    async def _let_in(self, connection: Connection) -> _Client | None:
        """Answer the upgrade; return who has a session now, ``None`` if there is none."""
        stream, head = connection.stream, connection.head
        try:
            key = check_upgrade(head)
            codec, is_named = choose_codec(head)
        except HandshakeError as exc:
            await answer(stream, exc.answer)
            return None
        stream.offer(accept(key, codec.subprotocol if is_named else None))
        framing = WEBSOCKET_BINARY if codec.is_binary else WEBSOCKET_TEXT
        refusal = self._sessions.refusal(connection.address)
        if refusal is not None:
            await self._turn_away(stream, codec, framing, refusal)
            return None
        return _Client(stream, head.rest, self._sessions, self._time_ns).join(
            codec, framing, connection.address
        )

    async def _turn_away(
        self, stream: Stream, codec: Codec, framing: WebSocketFraming, reason: CloseReason
    ) -> None:
        """Say why there is no session, in the way that a client of ours understands."""
        self._sessions.closed[reason.name] += 1
        closing = framing.frame("closing", codec.encode(refused(reason)))
        stream.offer(closing + close(reason.code, reason.text))
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
