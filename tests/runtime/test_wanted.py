"""What a feed is asked for: by names and patterns, of sessions that come and go, and for a while after."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import broker.runtime.wanted as wanted_module
from broker.core.demand import Demand
from broker.core.ticks import Channel
from broker.runtime.wanted import Wanted
from tests.core.pair import Client, Market

A, B, C = "SIM:A", "SIM:B", "SIM:C"
LINGER_S = 30.0


@pytest.fixture
def market() -> Market:
    return Market()


def wanted_of(market: Market, venue: str = "SIM", declared: tuple[str, ...] | None = None) -> Wanted:
    return Wanted(market.topics.demand(venue), declared, LINGER_S)


async def test_symbols_are_those_that_sessions_name_by_channel(market: Market) -> None:
    wanted = wanted_of(market)
    assert wanted.symbols() == frozenset()
    client = Client(market)
    client.subscribe("quote", A, B)
    client.subscribe("trade", B, C)
    client.subscribe("quote", "OTHER:X")
    assert wanted.symbols("quote") == {A, B}
    assert wanted.symbols("trade") == {B, C}
    assert wanted.symbols("book") == frozenset()
    assert wanted.symbols("book", "trade") == {B, C}
    assert wanted.symbols() == {A, B, C}
    assert wanted_of(market, "OTHER").symbols() == {"OTHER:X"}


async def test_who_asks_late_hears_of_what_is_wanted_already(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", A)
    client.subscribe("trade", "SIM:*")
    wanted = wanted_of(market)
    assert wanted.symbols() == {A}
    assert wanted.everything("trade")
    assert not wanted.everything("quote")


async def test_symbol_lingers_after_its_last_subscriber(market: Market, autojump_clock: object) -> None:
    wanted = wanted_of(market)
    first, second = Client(market), Client(market)
    first.subscribe("quote", A)
    second.subscribe("quote", A)
    first.request("unsubscribe", sub=1)
    await trio.sleep(LINGER_S * 2)
    assert wanted.symbols() == {A}, "the second one still wants it"
    second.request("unsubscribe", sub=1)
    await trio.sleep(LINGER_S - 1)
    assert wanted.symbols("quote") == {A}
    await trio.sleep(1)
    assert wanted.symbols() == frozenset()


@pytest.mark.parametrize("ending", ["unsubscribe", "leave"])
async def test_session_that_ends_wants_nothing(market: Market, autojump_clock: object, ending: str) -> None:
    wanted = wanted_of(market)
    client = Client(market)
    client.subscribe("quote", A, "OTHER:X", "SIM:*")
    if ending == "leave":
        client.session.closed()
    else:
        client.request("unsubscribe", sub=1)
    await trio.sleep(LINGER_S)
    assert wanted.symbols() == frozenset()
    assert not wanted.everything()


async def test_symbol_that_comes_back_in_time_was_never_gone(market: Market, autojump_clock: object) -> None:
    wanted = wanted_of(market)
    client = Client(market)
    client.subscribe("quote", A)
    client.request("unsubscribe", sub=1)
    await trio.sleep(LINGER_S - 1)
    client.subscribe("quote", A)
    await trio.sleep(LINGER_S * 2)
    assert wanted.symbols() == {A}


async def test_symbol_that_passes_from_a_pattern_to_a_name_and_back_stays(
    market: Market, autojump_clock: object
) -> None:
    wanted = wanted_of(market)
    market.quotes(A)
    client = Client(market)
    client.subscribe("quote", "SIM:*")
    client.subscribe("quote", A)
    client.request("unsubscribe", sub=2)
    await trio.sleep(LINGER_S * 2)
    assert wanted.symbols() == {A}
    assert wanted.everything("quote")


@pytest.mark.parametrize("pattern", ["SIM:*", "*"])
async def test_pattern_stands_for_what_is_declared_and_seen(
    market: Market, autojump_clock: object, pattern: str
) -> None:
    wanted, open_ended = wanted_of(market, declared=(A, B)), wanted_of(market)
    market.quotes(C)
    client = Client(market)
    client.subscribe("quote", pattern)
    assert wanted.symbols("quote") == {A, B, C}
    assert open_ended.symbols("quote") == {C}
    assert wanted.everything()
    assert not wanted.everything("trade", "book")
    assert wanted.symbols("trade") == frozenset()
    client.request("unsubscribe", sub=1)
    assert wanted.everything("quote"), "it lingers, too"
    await trio.sleep(LINGER_S)
    assert not wanted.everything("quote")
    assert wanted.symbols() == frozenset()


async def test_two_patterns_over_one_venue_are_wanted_until_both_are_gone(
    market: Market, autojump_clock: object
) -> None:
    wanted = wanted_of(market)
    client = Client(market)
    client.subscribe("quote", "SIM:*")
    client.subscribe("quote", "*")
    client.request("unsubscribe", sub=1)
    await trio.sleep(LINGER_S * 2)
    assert wanted.everything("quote")
    client.request("unsubscribe", sub=2)
    await trio.sleep(LINGER_S * 2)
    assert not wanted.everything("quote")


class Follower:
    """A feed's task that keeps up with what is wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.seen: list[tuple[float, frozenset[str]]] = []

    async def run(self) -> None:
        while True:
            await self.wanted.wait_changed()
            self.seen.append((trio.current_time(), self.wanted.symbols()))


async def test_waiting_ends_with_each_change_and_when_the_lingering_is_over(
    market: Market, autojump_clock: object, nursery: trio.Nursery
) -> None:
    follower = Follower(wanted_of(market))
    begin = trio.current_time()
    nursery.start_soon(follower.run)
    await trio.sleep(100)
    assert follower.seen == []
    client = Client(market)
    client.subscribe("quote", A)
    client.subscribe("quote", B)
    await trio.sleep(1)
    assert follower.seen == [(begin + 100, {A, B})], "what comes at once is one change"
    client.request("unsubscribe", sub=1)
    await trio.sleep(100)
    assert follower.seen[1:] == [(begin + 101 + LINGER_S, {B})]


async def test_new_life_of_a_feed_hears_of_everything_again(market: Market, autojump_clock: object) -> None:
    wanted = wanted_of(market)
    Client(market).subscribe("quote", A)
    await wanted.wait_changed()
    with trio.move_on_after(1) as waiting:
        await wanted.wait_changed()
    assert waiting.cancelled_caught
    wanted.begin_anew()
    await wanted.wait_changed()
    assert wanted.symbols() == {A}


async def test_change_between_two_waits_is_not_lost(market: Market, autojump_clock: object) -> None:
    wanted = wanted_of(market)
    client = Client(market)
    client.subscribe("quote", A)
    await wanted.wait_changed()
    client.subscribe("quote", B)
    with trio.fail_after(1):
        await wanted.wait_changed()
    assert wanted.symbols() == {A, B}


async def test_nothing_is_told_with_a_tick(market: Market) -> None:
    told: list[tuple[Channel, str, bool]] = []
    demand: Demand = market.topics.demand("SIM")
    demand.listeners.append(lambda *change: told.append(change))
    Client(market).subscribe("quote", A, "SIM:*")
    del told[:]
    market.quotes(A, A, A)
    assert told == []
    market.quotes(B)
    assert told == [("quote", B, True)], "only that the pattern takes in a new symbol"


async def test_made_up_symbols_do_not_linger_without_a_bound(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wanted_module, "MOST_LINGERING", 3)
    wanted = wanted_of(market, "OTHER")
    client = Client(market)
    for number in range(10):
        sub = client.subscribe("quote", f"OTHER:X{number}")["sub"]
        client.request("unsubscribe", sub=sub)
    assert wanted.symbols() == {"OTHER:X7", "OTHER:X8", "OTHER:X9"}
