"""A book that lacks deltas is mended by the client itself, through the real broker's core."""

from __future__ import annotations

from broker.client import events
from broker.client.state import SubscriptionState
from broker.core.books import BookState
from broker.core.ticks import Book
from tests.client.peers import Peers


def book(sym: str, price: int, kind: str = "delta") -> Book:
    return Book(sym=sym, ts=1, rts=2, kind=kind, bids=[(str(price), "1")], asks=[])  # type: ignore[arg-type]


def shown(peers: Peers, state: SubscriptionState, sym: str) -> list[str]:
    """Return what an application sees of one book: events in order."""
    seen = []
    for event in peers.seen[state]:
        if isinstance(event, events.Gap):
            seen += [f"gap {event.first}-{event.last}"] if event.sym == sym else []
        elif not isinstance(event, events.Notice):
            kind = type(event).__name__.lower()
            seen += [f"{kind} {tick.seq}" for tick in event.ticks if tick.sym == sym]
    return seen


def levels(peers: Peers, state: SubscriptionState, sym: str) -> object:
    """Return the book that an application makes which looks at ticks only, never at gaps."""
    made = BookState()
    for event in peers.seen[state]:
        if isinstance(event, events.Snapshot | events.Update):
            for tick in event.ticks:
                if isinstance(tick, Book) and tick.sym == sym:
                    made.apply(tick)
    return made.levels()


def truth(peers: Peers, sym: str) -> object:
    made = peers.router.topics.get("book", sym).book
    assert made is not None
    return made.levels()


def test_gap_is_followed_by_a_snapshot_with_nothing_in_between() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"))
    state = peers.follow("book", "SIM:A", delivery={"queue": 2})
    peers.publish(*[book("SIM:A", price) for price in range(2, 7)])
    # The gap and what is left, before the broker hears of anything.
    peers.write()
    peers.write()
    peers.settle()
    peers.publish(book("SIM:A", 9))
    peers.settle()
    assert shown(peers, state, "SIM:A") == ["snapshot 1", "gap 2-4", "snapshot 6", "update 7"]
    assert state.statistics(0).withheld == 2
    assert levels(peers, state, "SIM:A") == truth(peers, "SIM:A")
    peers.heartbeat()
    peers.settle()
    assert peers.client.verdict().is_exact
    # One ledger of the subscription that was ended for it, and one of the new one.
    assert state.verdict().checks == 2


def test_delta_that_was_too_old_is_mended_as_well() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"))
    state = peers.follow("book", "SIM:A", delivery={"max_age_ms": 5})
    peers.publish(book("SIM:A", 2))
    peers.now += 1.0
    peers.publish(book("SIM:A", 3))
    peers.settle()
    assert shown(peers, state, "SIM:A") == ["snapshot 1", "gap 2-2", "snapshot 3"]
    assert levels(peers, state, "SIM:A") == truth(peers, "SIM:A")


def test_other_books_of_the_subscription_go_on() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"), book("SIM:B", 1, "snapshot"))
    state = peers.follow("book", "SIM:*", delivery={"queue": 3})
    peers.publish(*[book("SIM:A", price) for price in range(2, 5)], book("SIM:B", 2), book("SIM:B", 3))
    peers.settle()
    peers.publish(book("SIM:A", 7), book("SIM:B", 7))
    peers.settle()
    assert "gap 2-3" in shown(peers, state, "SIM:A")
    assert [what for what in shown(peers, state, "SIM:B") if what.startswith("gap")] == []
    for sym in ("SIM:A", "SIM:B"):
        assert levels(peers, state, sym) == truth(peers, sym)


def test_overlapping_patterns_keep_their_symbols() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"), book("OTHER:C", 1, "snapshot"))
    first = peers.follow("book", "SIM:*", delivery={"queue": 2})
    second = peers.follow("book", "*")
    peers.publish(*[book("SIM:A", price) for price in range(2, 6)])
    peers.settle()
    peers.publish(book("SIM:A", 8), book("OTHER:C", 8))
    peers.settle()
    assert levels(peers, first, "SIM:A") == truth(peers, "SIM:A")
    assert shown(peers, first, "SIM:A")[-1] == "update 6"
    assert shown(peers, second, "OTHER:C")[-1] == "update 2"
    assert not peers.disagreements


def test_connection_lost_in_the_middle_of_mending_is_no_harm() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"))
    state = peers.follow("book", "SIM:A", delivery={"queue": 2})
    peers.publish(*[book("SIM:A", price) for price in range(2, 6)])
    peers.write()
    peers.receive()
    assert state.broken
    peers.disconnect()
    peers.settle()
    peers.publish(book("SIM:A", 9))
    peers.settle()
    assert not state.broken
    assert levels(peers, state, "SIM:A") == truth(peers, "SIM:A")


def test_whole_book_in_the_flow_mends_it_too() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"))
    state = peers.follow("book", "SIM:A", delivery={"queue": 2})
    peers.publish(book("SIM:A", 2), book("SIM:A", 3), book("SIM:A", 4, "snapshot"))
    peers.write()
    peers.write()
    peers.settle()
    assert shown(peers, state, "SIM:A")[:3] == ["snapshot 1", "gap 2-2", "update 4"]
    assert levels(peers, state, "SIM:A") == truth(peers, "SIM:A")


def test_book_that_comes_back_to_its_pattern_is_shown_whole() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"))
    pattern = peers.follow("book", "SIM:*")
    named = peers.follow("book", "SIM:A")
    peers.publish(book("SIM:A", 2))
    peers.settle()
    peers.client.unsubscribe(named)
    peers.settle()
    peers.publish(book("SIM:A", 3))
    peers.settle()
    assert levels(peers, pattern, "SIM:A") == truth(peers, "SIM:A")
    assert not peers.disagreements


def test_book_that_the_feed_itself_has_lost_is_not_asked_for_over_and_over() -> None:
    peers = Peers()
    peers.publish(book("SIM:A", 1, "snapshot"))
    state = peers.follow("book", "SIM:A", delivery={"queue": 2})
    peers.publish(*[book("SIM:A", price) for price in range(2, 7)])
    peers.router.gap("book", "SIM:A")
    for _ in range(20):
        while peers.write():
            pass
        peers.request()
        peers.receive()
    assert peers.session is not None
    assert peers.session.requests <= 3
    peers.publish(book("SIM:A", 9, "snapshot"))
    peers.settle()
    assert levels(peers, state, "SIM:A") == truth(peers, "SIM:A")
    peers.heartbeat()
    peers.settle()
    assert peers.client.verdict().is_exact
    assert not peers.disagreements
