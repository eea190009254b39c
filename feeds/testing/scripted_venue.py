"""A venue without a network: it plays golden frames, and misbehaves as it is told, by Trio's clock.

It stands where `broker.transports.upstream` stands. An adapter that subscribes again on a connection is answered as
venues do: what they send after a subscription comes anew.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from broker.core.errors import FeedError
from feeds.testing.golden import Golden, GoldenFrame

#: Between two frames, and for connecting and each answer; in seconds. Kept ticks have times that are made of these.
PAUSE_S = 0.02
CONNECT_S = 0.05
#: What the real connection takes, at most, to close towards a peer that doesn't answer.
STUCK_CLOSE_S = 2.0

#: What a connection does when its frames are through: says nothing more, is lost, or takes in nothing either.
End = Literal["mute", "lost", "stuck"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the venue does with one connection.

    Attributes:
        refusal: why it does not come about; empty: it does.
        frames: what it sends; ``None``: all golden frames.
        end: what it does then.
        is_stuck: whether it takes in nothing from the beginning.
    """

    refusal: str = ""
    frames: Sequence[GoldenFrame] | None = None
    end: End = "mute"
    is_stuck: bool = False


class VirtualSocket:
    """One connection, as `feeds.base.VenueSocket` describes it.

    Attributes:
        number: of the venue's connections, from 0.
        sent: what the adapter sent, and when.
        is_drained: whether the adapter has taken all frames, and waits for more.
    """

    def __init__(
        self, venue: ScriptedVenue, number: int, url: str, plan: Plan, max_message_bytes: int
    ) -> None:
        self.number = number
        self.url = url
        self.sent: list[tuple[float, str | bytes]] = []
        self.is_drained = False
        self.is_open = True
        self.is_stuck = plan.is_stuck
        self._venue = venue
        self._plan = plan
        self._most = max_message_bytes
        frames = venue.golden.frames if plan.frames is None else plan.frames
        self._frames = [each for each in frames if each.is_body or each.url in url]
        self._next = 0
        self._asked: set[str | bytes] = set()

    async def send(self, message: str | bytes) -> None:
        """See `VenueSocket.send`."""
        if self.is_stuck:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self._check_open()
        self.sent.append((trio.current_time(), message))
        if self._next and self._is_subscription(message):
            self._next = 0
            self.is_drained = False
        elif not self._next:
            self._asked.add(message)

    async def receive(self) -> str | bytes:
        """See `VenueSocket.receive`. A cancelled call leaves the frame for the next."""
        while True:
            self._check_open()
            while self._next < len(self._frames) and self._frames[self._next].is_body:
                self._venue.bodies[self._frames[self._next].url] = self._frames[self._next]
                self._next += 1
            if self.is_stuck or self._next >= len(self._frames):
                await self._end()
                continue
            await self._pause()
            frame = self._frames[self._next]
            self._next += 1
            if len(frame.payload) > self._most:
                self.is_open = False
                raise FeedError(f"{self.url}: closed with 1009 MESSAGE_TOO_BIG")
            self._venue.delivered += 1
            self._venue.texts.append(frame.payload)
            return frame.payload

    async def _pause(self) -> None:
        if self._venue.pause_s:
            await trio.sleep(self._venue.pause_s)
        elif not self._next % 64:
            await trio.lowlevel.checkpoint()

    async def _end(self) -> None:
        self.is_drained = True
        if self._plan.end == "lost" and not self.is_stuck:
            await trio.sleep(PAUSE_S)
            self.is_open = False
            return
        self.is_stuck = self.is_stuck or self._plan.end == "stuck"
        # A new subscription starts the frames again.
        while self.is_stuck or self._next >= len(self._frames):  # noqa: ASYNC110  # rarely looked at
            await trio.sleep(1.0)

    def _check_open(self) -> None:
        if not self.is_open:
            raise FeedError(f"{self.url}: the connection was lost")

    def _is_subscription(self, message: str | bytes) -> bool:
        """Tell whether the adapter asks again for what it asked for at the beginning, or for a part of it."""
        if message in self._asked:
            return True
        text = (message if isinstance(message, str) else message.decode("utf-8", "replace")).lower()
        return "subscribe" in text and "unsubscribe" not in text


class ScriptedVenue:
    """A venue; connections follow ``plan``.

    Attributes:
        attempts: when a connection was asked for.
        gets: when a page was asked for, and its URL.
        sockets: all connections, in order.
        most_open: at the same time.
        delivered: frames that adapters have taken, on all connections.
        texts: all that was delivered, bodies too.
        bodies: what a GET gets by now.
    """

    def __init__(
        self, golden: Golden, plan: Callable[[int], Plan] | None = None, *, pause_s: float = PAUSE_S
    ) -> None:
        """``plan``: by a connection's number, from 0; each plays the golden frames, and then is mute, by default."""
        self.golden = golden
        self.pause_s = pause_s
        self.attempts: list[float] = []
        self.gets: list[tuple[float, str]] = []
        self.sockets: list[VirtualSocket] = []
        self.most_open = self.delivered = 0
        self.texts: list[str | bytes] = []
        self.bodies: dict[str, GoldenFrame] = {}
        #: Why pages are refused now; empty: they are not.
        self.get_refusal = ""
        self._plan = plan or (lambda number: Plan())

    @property
    def open(self) -> int:
        """How many connections are held by the adapter now."""
        return self._held

    _held = 0

    @asynccontextmanager
    async def connect_ws(
        self, url: str, *, max_message_bytes: int = 16 << 20
    ) -> AsyncGenerator[VirtualSocket, None]:
        """See `feeds.base.FeedContext.connect_ws`."""
        number = len(self.attempts)
        self.attempts.append(trio.current_time())
        plan = self._plan(number)
        await trio.sleep(CONNECT_S)
        if plan.refusal:
            raise FeedError(f"{url}: {plan.refusal}")
        socket = VirtualSocket(self, number, url, plan, max_message_bytes)
        self.sockets.append(socket)
        self._held += 1
        self.most_open = max(self.most_open, self._held)
        try:
            yield socket
        finally:
            try:
                if socket.is_stuck:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(STUCK_CLOSE_S)
            finally:
                socket.is_open = False
                self._held -= 1

    async def get_body(self, url: str) -> bytes:
        """See `feeds.base.FeedContext.get_body`."""
        self.gets.append((trio.current_time(), url))
        await trio.sleep(CONNECT_S)
        if self.get_refusal:
            raise FeedError(f"GET {url}: {self.get_refusal}")
        body = next((each for text, each in reversed(self.bodies.items()) if text in url), None)
        body = body or next((each for each in self.golden.frames if each.is_body and each.url in url), None)
        if body is None:
            raise FeedError(f"GET {url}: HTTP 404: the golden frames have no such page")
        self.texts.append(body.payload)
        return body.payload if isinstance(body.payload, bytes) else body.payload.encode()
