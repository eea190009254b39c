"""Venues that refuse one symbol of several: what it costs the others, and what subscribers are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from broker.core.errors import FeedPermanentError
from broker.core.ticks import Status
from broker.runtime.sessions import SessionTimes
from feeds.binance import Binance
from feeds.binance_usdm import BinanceUsdm
from feeds.bitstamp import Bitstamp
from feeds.refusals import AGAIN_S, Refusals, named
from tests.fakes import open_broker
from tests.feeds.venues import CASES, Case, Running
from tests.raw import websocket


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


async def test_refused_symbol_costs_the_others_nothing_and_its_status_has_the_venues_words(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case)
    running.venue.missing = {case.natives[1]}
    await running.run(300)
    assert running.books == {running.first, running.last}
    assert running.states == [(running.foo, "halted")]
    [status] = [tick for tick in running.ctx.ticks if isinstance(tick, Status)]
    assert case.words in status.text
    # The supervisor says with the first tick that all are live; what is otherwise has to come behind it.
    assert not isinstance(running.ctx.ticks[0], Status)
    assert running.ctx.gaps == []
    assert running.venue.connections == 1
    [logged] = running.refusals_logged
    assert logged["symbol"] == running.foo
    assert case.words in logged["error"]


async def test_all_symbols_but_one_may_be_refused(case: Case, autojump_clock: MockClock) -> None:
    running = Running(case)
    running.venue.missing = set(case.natives[:2])
    await running.run(300)
    assert running.books == {running.last}
    assert sorted(running.states) == sorted([(running.first, "halted"), (running.foo, "halted")])
    assert running.venue.connections == 1


async def test_feed_of_which_all_symbols_are_refused_is_down_with_the_venues_words(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case)
    running.venue.missing = set(case.natives)
    with pytest.raises(FeedPermanentError, match="the venue says: ") as caught:
        await running.run(300)
    assert caught.value.reason == "venue"
    assert running.ctx.ticks == []


async def test_symbol_that_is_delisted_while_it_is_served_becomes_a_gap_and_halted(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case)

    async def delist() -> None:
        await trio.sleep(100)
        running.venue.missing = {case.natives[1]}
        running.venue.say(case.torn.replace("@", case.natives[1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delist)
        await running.run(400)
    assert running.books == set(running.feed.symbols)
    if not issubclass(case.feed, Bitstamp):
        # Bitstamp's books are asked for by REST, where this is nothing that could be told from a passing fault.
        assert running.states == [(running.foo, "halted")]
    assert {symbol for _, symbol in running.ctx.gaps} == {running.foo}
    assert running.venue.connections == 1


async def test_refused_symbol_is_asked_for_again_after_an_hour_and_said_to_be_live(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case)
    foo = case.natives[1]
    running.venue.missing = {foo}
    await running.run(60)
    for _ in range(2):
        before = running.venue.asked_for(foo)
        await running.run(60)
        assert running.venue.asked_for(foo) == before
    await trio.sleep(AGAIN_S)
    running.venue.missing.clear()
    await running.run(60)
    assert running.venue.asked_for(foo) > before
    assert running.foo in running.books
    # Each of the first three connections says it again, as the supervisor says with each that all are live.
    assert running.states == [(running.foo, "halted")] * 3 + [(running.foo, "live")]
    assert len(running.refusals_logged) == 1


async def test_refused_symbol_that_is_all_that_is_wanted_makes_no_connection_again_and_again(
    case: Case, autojump_clock: MockClock
) -> None:
    running = Running(case, on_demand=True)
    running.venue.missing = {case.natives[1]}

    async def want() -> None:
        running.ctx.demand.begin("book", running.foo)
        await trio.sleep(600)
        assert running.venue.connections == 1
        running.ctx.demand.begin("book", running.first)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want)
        await running.run(900)
    assert running.venue.connections == 2
    assert running.books == {running.first}
    assert running.states == [(running.foo, "halted")]


async def test_refusal_that_names_nothing_of_ours_ends_no_connection_that_brings_ticks(
    autojump_clock: MockClock,
) -> None:
    running = Running(CASES["coinbase"])

    async def complain() -> None:
        await trio.sleep(10)
        running.venue.say({"type": "error", "message": "Failed to subscribe", "reason": "invalid"})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(complain)
        await running.run(60)
    assert running.venue.connections == 1
    assert [str(error) for error in running.ctx.refusals] == ["the venue says: Failed to subscribe: invalid"]


async def test_subscribers_learn_through_the_whole_broker_which_symbol_is_refused(
    autojump_clock: MockClock,
) -> None:
    running = Running(CASES["kraken_v2"], stale_after_s=1e4)
    running.venue.missing = {running.case.natives[1]}
    feed: Any = running.feed
    patient = SessionTimes(ping_interval_s=1e6)
    async with open_broker(feeds=[feed], times=patient, guard_s=1e4) as broker:
        broker.runner._upstream = SimpleNamespace(  # type: ignore[assignment]
            connect_ws=running.ctx.connect_ws, get_body=running.ctx.get
        )
        await trio.sleep(100)
        async with websocket(broker.port) as ws:
            await ws.ask("subscribe", id=1, ch="status", symbols=["KRAKEN:*"])
            snapshot = await ws.receive_type("snapshot")
        assert running.venue.connections == 1
    states = {tick["sym"]: (tick["state"], tick["text"]) for tick in snapshot["data"]}
    words = "the venue says: Currency pair not supported FOO/USD"
    assert states == {running.first: ("live", ""), running.foo: ("halted", words), running.last: ("live", "")}


@pytest.mark.parametrize("kind", [Binance, BinanceUsdm])
async def test_symbol_of_which_nothing_comes_is_looked_for_by_rest(
    kind: type[Binance], autojump_clock: MockClock
) -> None:
    case = Case(
        kind,
        ("BTCUSDT", "FOOUSDT", "ETHUSDT"),
        lambda venue, request: iter(()),
        '{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1","e":"bookTicker","T":1600000000000}',
        "",
        "Invalid symbol.",
        {"channels": ("quote",), "rest_url": "http://venue"},
        page='{"lastUpdateId":1,"bids":[],"asks":[]}',
        page_error='HTTP 400: {"code":-1121,"msg":"Invalid symbol."}',
        names=("BTC-USDT", "FOO-USDT", "ETH-USDT"),
    )
    running = Running(case)
    running.venue.missing = {"FOOUSDT"}
    await running.run(300)
    assert running.states == [(running.foo, "halted")]
    assert [each["symbol"] for each in running.refusals_logged] == [running.foo]
    assert "Invalid symbol." in running.refusals_logged[0]["error"]
    assert running.venue.connections == 1


def test_words_name_symbols_in_either_case_and_whatever_stands_around_them() -> None:
    spellings = {"FOO-USD": "V:FOO-USD", "BTC-USD": "V:BTC-USD"}
    assert named("'foo-usd', is no product.", spellings) == {"V:FOO-USD"}
    assert named("no product: FOO-USD.", spellings) == {"V:FOO-USD"}
    assert named("FOO-USDT or XFOO-USD", spellings) == frozenset()


def test_refusal_is_news_until_the_symbol_was_served() -> None:
    refusals = Refusals()
    assert refusals.note("V:A", "no", 0)
    assert not refusals.note("V:A", "still no", 1)
    assert refusals.holds("V:A", AGAIN_S)
    refusals.forgive()
    assert not refusals.holds("V:A", 2)
    assert not refusals.note("V:A", "no", 3)
    refusals.served("V:A")
    assert refusals.note("V:A", "no", 4)
