"""From the task that reads the socket to the one that iterates: bounded, one for each subscription."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from broker.client.events import AnyEvent, Gap, Notice


class Pipe:
    """Events that have arrived and were not taken yet.

    Attributes:
        weight: of what waits: a tick, a gap or a notice is 1. Over ``limit`` the reader of the socket stops.
        answered: set once the broker has accepted or refused the subscription, or never will.
        ended: set once there will be no more events.
        ledger_known: set once the broker has said its last word, or can't any more.
        cursor: behind the last event that the application has done with.
    """

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        """``on_room`` is called whenever there is more room."""
        self.limit = limit
        self.weight = 0
        self.answered = trio.Event()
        self.ended = trio.Event()
        self.ledger_known = trio.Event()
        self.cursor: str | None = None
        self._events: deque[AnyEvent] = deque()
        self._failure: Exception | None = None
        self._readable = trio.Event()
        self._on_room = on_room
        self._held: str | None = None

    def put(self, event: AnyEvent) -> None:
        """Add an event; never refuses, the caller looks at ``weight``."""
        if self.ended.is_set():
            return
        self._events.append(event)
        self.weight += _weight(event)
        self._readable.set()

    def advance(self, cursor: str | None) -> None:
        """Move ``cursor`` on where nothing waits: the application has had everything before it."""
        if cursor is None:
            return
        if self._held is not None:
            self._held = cursor if not self._events else self._held
        elif not self._events:
            self.cursor = cursor

    def fail(self, failure: Exception) -> None:
        """Raise ``failure`` behind what still waits."""
        if not self.ended.is_set():
            self._failure = failure
            self._finish()

    def close(self) -> None:
        """End, and forget what waits."""
        self._events.clear()
        self.weight = 0
        self._finish()
        self._on_room()

    def _finish(self) -> None:
        self.ended.set()
        self.answered.set()
        self._readable.set()

    async def take(self) -> AnyEvent | None:
        """Return the next event, ``None`` at the end. A checkpoint in any case.

        Raises:
            ClientError: as `fail` was told.
        """
        await trio.lowlevel.checkpoint()
        if self._held is not None:
            self.cursor, self._held = self._held, None
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self.ended.is_set():
                return None
            if self._readable.is_set():
                # Not otherwise: several tasks may share one subscription, and wait for the same event.
                self._readable = trio.Event()
            await self._readable.wait()
        event = self._events.popleft()
        self.weight -= _weight(event)
        self._on_room()
        self._held = None if isinstance(event, Gap | Notice) else event.cursor
        return event

    def raise_if_refused(self) -> None:
        """Raise what `fail` was told, if nothing waits before it."""
        if self._failure is not None and not self._events:
            raise self._failure


def _weight(event: AnyEvent) -> int:
    return 1 if isinstance(event, Gap | Notice) else max(1, len(event.ticks))
