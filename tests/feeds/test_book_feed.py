"""Books that come over a venue's WebSocket: how often those that break, or don't come, are asked for again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from broker.core.errors import FeedError, FeedPermanentError
from feeds.bitstamp import Bitstamp
from tests.feeds.venues import CASES, Case, Running, Venue

#: Bitstamp's books come by REST.
OVER_THE_SOCKET = {name: case for name, case in CASES.items() if case.feed is not Bitstamp}


@pytest.fixture(params=list(OVER_THE_SOCKET.values()), ids=list(OVER_THE_SOCKET))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


class Asked:
    """Answers as the venue does, but for its second symbol; keeps when that was subscribed to on its own."""

    def __init__(self, case: Case, instead: str) -> None:
        self.case = replace(case, reply=self._reply)
        self.times: list[float] = []
        self._foo = case.natives[1]
        self._proper = case.reply
        self._instead = [instead] if instead else []

    def _reply(self, venue: Venue, request: Any) -> Iterator[Any]:
        text = json.dumps(request)
        if "unsubscribe" not in text and self._foo in text and venue.case.natives[0] not in text:
            self.times.append(trio.current_time())
        has_foo = False
        for frame in self._proper(venue, request):
            if self._foo in (frame if isinstance(frame, str) else json.dumps(frame)):
                has_foo = True
            else:
                yield frame
        yield from self._instead if has_foo else []


async def test_book_that_never_becomes_readable_is_asked_for_with_growing_pauses_and_costs_no_other(
    case: Case, autojump_clock: MockClock
) -> None:
    asked = Asked(case, case.torn.replace("@", case.natives[1]))
    running = Running(asked.case)
    await running.run(300)
    pauses = [later - earlier for earlier, later in pairwise(asked.times)]
    assert pauses[:8] == [pytest.approx(each, abs=1.1) for each in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert running.books == {running.first, running.last}
    assert running.venue.connections == 1
    assert running.ctx.gaps == []


async def test_book_that_does_not_come_is_worth_one_new_connection_and_no_more(
    case: Case, autojump_clock: MockClock
) -> None:
    asked = Asked(case, "")
    running = Running(asked.case)
    began = trio.current_time()
    with pytest.raises(FeedError, match=f"book of {running.foo} has not come") as caught:
        await running.run(300)
    assert not isinstance(caught.value, FeedPermanentError)
    assert trio.current_time() - began == pytest.approx(61, abs=2)
    await running.run(3600)
    assert running.venue.connections == 2
    assert running.books == {running.first, running.last}
    # Once a minute at most.
    assert 55 <= len(asked.times) <= 65


async def test_book_that_has_come_after_a_new_connection_is_worth_another_one(
    case: Case, autojump_clock: MockClock
) -> None:
    asked = Asked(case, "")
    running = Running(asked.case)
    for _ in range(2):
        with pytest.raises(FeedError, match="has not come"):
            await running.run(300)
        running.venue.case = case
        await running.run(60)
        running.venue.case = asked.case
    assert running.venue.connections == 4


async def test_book_that_breaks_now_and_then_is_asked_for_at_once(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case)

    async def tear() -> None:
        for _ in range(10):
            await trio.sleep(150)
            running.venue.say(case.torn.replace("@", case.natives[1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tear)
        await running.run(1600)
    assert [symbol for channel, symbol in running.ctx.gaps if channel == "book"] == [running.foo] * 10
    assert [tick.sym for tick in running.ctx.ticks if tick.ch == "book"].count(running.foo) == 11
    assert running.venue.connections == 1


async def test_books_that_break_together_are_asked_for_in_as_few_requests_as_one(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case)

    async def tear() -> None:
        await trio.sleep(100)
        asked = len(running.venue.requests)
        for native in case.natives:
            running.venue.say(case.torn.replace("@", native))
        await trio.sleep(1)
        assert len(running.venue.requests) - asked == 6
        await trio.sleep(200)
        asked = len(running.venue.requests)
        # What begins like a frame and shows nothing else may have been for any book.
        running.venue.say(case.torn[:1])
        await trio.sleep(1)
        assert len(running.venue.requests) - asked == 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tear)
        await running.run(400)
    assert [tick.sym for tick in running.ctx.ticks if tick.ch == "book"].count(running.last) == 3
    assert running.venue.connections == 1
