"""Which symbols there are, and who waits for new ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RequestError
from broker.core.history import HistoryLimits
from broker.core.router import Router
from broker.core.tape import Tape
from broker.core.ticks import CHANNELS
from broker.core.topics import Topic, Topics, check_channel, parse_pattern
from tests import strategies
from tests.core.pair import Client, Market, quote, trade


@pytest.mark.parametrize(
    ("text", "venue"),
    [("*", "*"), ("SIM:*", "SIM"), ("A_1:*", "A_1"), ("SIM:A", None), ("sim:*", None), ("SIM:A*", None),
     ("SIM:**", None), (":*", None), ("SIM*", None), ("", None), ("**", None), ("SIM:*:*", None)],
)  # fmt: skip
def test_pattern_is_a_venue_or_all(text: str, venue: str | None) -> None:
    assert parse_pattern(text) == venue


@given(strategies.SYMBOLS)
def test_no_symbol_is_a_pattern(symbol: str) -> None:
    assert parse_pattern(symbol) is None


def test_declared_symbols_are_known_and_of_an_open_venue_any_well_formed_one() -> None:
    topics = Topics()
    topics.declare("SIM", ["SIM:A"])
    topics.declare("OPEN", None)
    assert topics.symbols == ["SIM:A"]
    assert topics.knows("SIM:A")
    assert topics.knows("OPEN:ANY-1")
    assert not topics.knows("SIM:B")
    assert not topics.knows("OPEN:any")
    assert [topics.knows_venue(venue) for venue in ("SIM", "OPEN", "*", "NO")] == [True, True, True, False]


def test_symbol_becomes_known_with_its_first_tick() -> None:
    topics = Topics()
    Tape("e1", topics, HistoryLimits()).append([quote("NEW:X"), trade("NEW:X")], 0.0)
    assert topics.knows("NEW:X")
    assert topics.knows_venue("NEW")
    assert topics.channels_of("NEW:X") == ["quote", "trade"]
    assert topics.channels_of("NEW:Y") == []
    assert [topic.sym for topic in topics.matching("quote", "NEW")] == ["NEW:X"]
    assert topics.matching("quote", "SIM") == []


def test_watchers_of_a_venue_and_of_all_see_each_new_topic_once_until_they_stop() -> None:
    topics = Topics()
    seen: list[tuple[str, Topic]] = []
    topics.watch("quote", "SIM", "a", lambda topic: seen.append(("a", topic)))
    topics.watch("quote", "*", "b", lambda topic: seen.append(("b", topic)))
    first = topics.get("quote", "SIM:A")
    assert topics.get("quote", "SIM:A") is first
    topics.get("trade", "SIM:A")
    topics.unwatch("quote", "SIM", "a")
    topics.unwatch("quote", "SIM", "a")
    second = topics.get("quote", "SIM:B")
    assert seen == [("a", first), ("b", first), ("b", second)]


def test_topic_that_nobody_wants_and_that_never_had_a_tick_is_forgotten() -> None:
    market = Market()
    client = Client(market)
    client.subscribe("quote", "OTHER:X")
    other = Client(market)
    other.subscribe("quote", "OTHER:X")
    client.session.closed()
    assert "OTHER:X" in market.topics.on_channel("quote")
    other.session.closed()
    assert "OTHER:X" not in market.topics.on_channel("quote")
    assert "OTHER:X" not in market.topics.symbols


def test_wrong_channel_is_refused_with_those_there_are() -> None:
    assert [check_channel(ch) for ch in CHANNELS] == list(CHANNELS)
    with pytest.raises(RequestError, match=r"ch: 'Quote' .* quote, trade, book, bar, status"):
        check_channel("Quote")


@given(st.lists(st.sampled_from(["SIM:A", "SIM:B", "SIM:C", "OTHER:N"]), max_size=10), st.booleans())
def test_touched_mailboxes_are_those_with_something_in_the_inbox(symbols: list[str], many: bool) -> None:
    market = Market()
    clients = [Client(market) for _ in range(4 if many else 1)]
    for client, pattern in zip(clients, ["SIM:*", "*", "SIM:A", "OTHER:*"], strict=False):
        client.subscribe("trade", pattern)
    touched: dict[Topic, None] = {}
    market.router.publish(map(trade, symbols), 0.0, touched)
    found = market.router.touched_mailboxes(touched)
    assert len(set(found)) == len(found)
    assert set(found) == {mailbox for mailbox in market.router.mailboxes if mailbox.inbox}
    assert market.router.offered == sum(len(mailbox.inbox) for mailbox in market.router.mailboxes)
    assert isinstance(market.router, Router)


def test_router_counts_what_was_offered_and_delivered() -> None:
    market = Market()
    clients = [Client(market), Client(market)]
    for client in clients:
        client.subscribe("trade", "SIM:*")
    market.trades("SIM:A", "SIM:B", "SIM:A")
    assert (market.router.offered, market.router.delivered) == (6, 0)
    clients[0].take()
    assert (market.router.offered, market.router.delivered) == (6, 3)
