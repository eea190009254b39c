"""Requests of the application that wait for their answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from broker.client.errors import ClientClosed, RequestRefused, SubscribeError
from broker.client.requests import Request
from broker.client.state import SubscriptionState
from broker.client.wire import Ack, Ledger
from broker.core.messages import Error

Answer: TypeAlias = Ack | Ledger | Error | None


@dataclass(eq=False, slots=True)
class _Slot:
    came: trio.Event = field(default_factory=trio.Event)
    answer: Answer = None
    failure: ClientClosed | None = None


class Answers:
    """Brings each answer to the task that waits for it."""

    def __init__(self, send: Callable[[Request], None], forget: Callable[[Request], None]) -> None:
        """``send`` sees to it that a request goes out, ``forget`` that it does not any more."""
        self._send = send
        self._forget = forget
        self._slots: dict[Request, _Slot] = {}
        self._end: ClientClosed | None = None

    async def ask(self, request: Request) -> Ack | Ledger:
        """Send a request, and return its answer, however many connections that takes.

        Raises:
            SubscribeError: the broker refuses it, or the subscription that it is about has ended.
            RequestRefused: the broker refuses it, and it is about no subscription.
            ClientClosed: the client is at its end.
        """
        if self._end is not None:
            raise self._end
        slot = self._slots[request] = _Slot()
        try:
            self._send(request)
            await slot.came.wait()
        finally:
            del self._slots[request]
            self._forget(request)
        if slot.failure is not None:
            raise slot.failure
        match slot.answer:
            case Error(code=code, message=message):
                raise (RequestRefused if request.state is None else SubscribeError)(code, message)
            case None:
                raise SubscribeError("unknown_subscription", "the subscription has ended")
            case answer:
                return answer

    def give(self, request: Request, answer: Answer) -> None:
        """Hand over an answer; nobody may be waiting for it any more."""
        if (slot := self._slots.get(request)) is not None:
            slot.answer = answer
            slot.came.set()

    def give_up(self, state: SubscriptionState) -> None:
        """Let those fail that wait for something about a subscription that has ended."""
        for request in [request for request in self._slots if request.state is state]:
            self.give(request, None)

    def fail(self, reason: ClientClosed) -> None:
        """Let all fail, from now on."""
        self._end = self._end or reason
        for slot in self._slots.values():
            slot.failure = self._end
            slot.came.set()
