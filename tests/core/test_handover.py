"""A topic that goes from one subscription of a session to another, and back."""

from __future__ import annotations

from broker.core.delivery import DeliveryLimits
from broker.core.history import HistoryLimits
from broker.core.mailbox import Level
from broker.core.session import SessionLimits
from broker.core.ticks import Book
from tests.core.pair import Client, Market, account, types

EVERY = {"mode": "every"}
LATEST = {"mode": "latest"}


def ledger(client: Client) -> list[dict[str, int]]:
    entries: list[dict[str, int]] = client.request("list")["ledger"]
    assert all(entry["offered"] == account(entry) for entry in entries)
    return entries


def test_what_went_elsewhere_meanwhile_is_not_in_what_is_merged_afterwards() -> None:
    market = Market()
    client = Client(market)
    client.subscribe("trade", "SIM:*", delivery={**LATEST, "max_age_ms": 1000})
    market.trades("SIM:A", "SIM:A")
    client.subscribe("trade", "SIM:A", delivery=EVERY, snapshot=False)
    market.trades("SIM:A")
    client.request("unsubscribe", sub=2)
    market.trades("SIM:A")
    market.now = 5.0
    assert types(client.take()) == ["gap", "gap"]
    assert [(gap["from"], gap["to"]) for gap in client.gaps] == [(1, 2), (4, 4)]
    assert ledger(client) == [
        {"sub": 1, "offered": 3, "delivered": 0, "conflated": 0, "dropped": 3, "pending": 0}
    ]


def test_books_are_not_composed_across_what_went_elsewhere() -> None:
    market = Market()
    client = Client(market)
    client.subscribe("book", "SIM:*", delivery=LATEST)

    def change(price: str) -> None:
        market.publish(Book(sym="SIM:A", ts=1, rts=1, kind="delta", bids=[(price, "1")], asks=[]))

    change("1")
    client.subscribe("book", "SIM:A", delivery=EVERY, snapshot=False)
    change("2")
    client.request("unsubscribe", sub=2)
    change("3")
    change("4")
    client.take()
    assert [[price for price, _ in tick["bids"]] for tick in client.ticks["book", "SIM:A"]] == [
        ["1"],
        ["4", "3"],
    ]
    assert [(entry["delivered"], entry["conflated"]) for entry in ledger(client)] == [(2, 1)]


def test_gap_of_a_hand_over_ends_where_the_new_owner_begins() -> None:
    market = Market()
    market.trades(*["SIM:A"] * 8)
    client = Client(market)
    client.subscribe("trade", "SIM:*", cursor="e1-2")
    client.subscribe("trade", "SIM:A", cursor="e1-5")
    client.take()
    assert [(gap["sub"], gap["from"], gap["to"]) for gap in client.gaps] == [(1, 3, 5)]
    assert client.seqs("trade", "SIM:A") == [6, 7, 8]
    assert [(entry["offered"], entry["dropped"]) for entry in ledger(client)] == [(3, 3), (3, 0)]


def test_what_a_name_takes_over_with_a_cursor_is_counted_once() -> None:
    market = Market()
    market.quotes(*["SIM:A"] * 5, "SIM:B")
    client = Client(market)
    client.subscribe("quote", "SIM:*", cursor="e1-0")
    market.quotes("SIM:A", "SIM:A")
    client.subscribe("quote", "SIM:A", cursor="e1-0")
    client.take()
    assert client.seqs("quote", "SIM:A") == [7]
    assert [(entry["offered"], entry["conflated"], entry["delivered"]) for entry in ledger(client)] == [
        (1, 0, 1), (7, 6, 1),
    ]  # fmt: skip


def test_queue_that_is_emptied_by_a_hand_over_has_recovered() -> None:
    market = Market(HistoryLimits())
    client = Client(market)
    client.subscribe("trade", "SIM:*", delivery={"queue": 2, "overflow": "degrade"})
    market.trades("SIM:A", "SIM:A", "SIM:A")
    client.wait()
    client.subscribe("trade", "SIM:A", cursor="e1-0")
    assert client.session.subscriptions[1].mailbox.level is Level.LIVE
    client.take()
    assert [m["state"] for m in client.messages if m["type"] == "notice"] == ["degraded", "recovered"]
    market.trades("SIM:B", "SIM:B", "SIM:A")
    client.take()
    assert (client.seqs("trade", "SIM:A"), client.seqs("trade", "SIM:B")) == ([1, 2, 3, 4], [1, 2])


def test_queue_that_is_emptied_by_age_has_recovered_though_nothing_follows() -> None:
    market = Market()
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"queue": 10, "max_age_ms": 1000})
    market.trades(*["SIM:A"] * 8)
    client.wait()
    market.now = 5.0
    assert types(client.take()) == ["notice", "gap"]
    assert client.messages[-2]["state"] == "recovered"


def test_tick_larger_than_the_bound_is_delivered_under_latest_as_well() -> None:
    market = Market()
    limits = SessionLimits(delivery=DeliveryLimits(queue_bytes=500))
    client = Client(market, limits=limits)
    client.subscribe("book", "SIM:A", delivery=EVERY)
    levels = [(str(price), "1") for price in range(100)]
    market.publish(Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=levels, asks=[]))
    assert client.request("modify", sub=1, delivery=LATEST)["type"] == "ack"
    client.wait()
    client.take()
    assert client.seqs("book", "SIM:A") == [1]
    assert client.outbox.evicted is None
