"""A ``max_rate``: what is held back, for how long, and that nothing overtakes it."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from broker.core.delivery import DeliveryLimits
from broker.core.session import SessionLimits
from broker.core.ticks import Bar, Book, Trade
from tests.core.pair import Client, Market, account, quote, status, trade, types


def bar(interval: str, sym: str = "SIM:A") -> Bar:
    ones: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), "1")
    return Bar(sym=sym, ts=1, rts=2, interval=interval, start=0, count=1, final=False, **ones)


def book(kind: Literal["snapshot", "delta"]) -> Book:
    return Book(sym="SIM:A", ts=1, rts=2, kind=kind, bids=[("1", "1")], asks=[])


@pytest.fixture
def market() -> Market:
    return Market()


def test_newest_comes_when_its_time_has_come_though_no_other_tick_follows(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:A", delivery={"max_rate": 2})
    market.quotes("SIM:A")
    client.take()
    market.now = 0.1
    market.quotes("SIM:A", "SIM:A")
    assert client.take() == []
    assert client.outbox.due is not None
    market.now = client.outbox.due
    client.take()
    assert client.seqs("quote", "SIM:A") == [1, 3]
    assert client.request("list")["ledger"][0] == {
        "sub": 1, "offered": 3, "delivered": 2, "conflated": 1, "dropped": 0, "pending": 0,
    }  # fmt: skip


def test_change_of_state_takes_along_what_was_held_back_before_it(market: Market) -> None:
    client = Client(market)
    client.subscribe("status", "SIM:A", "SIM:B", delivery={"max_rate": 1})
    market.publish(status(), status("SIM:B"))
    client.take()
    market.publish(status(), status("SIM:B"), status(state="down"))
    client.take()
    market.now = 9.0
    client.take()
    assert [(tick["seq"], tick["state"]) for tick in client.ticks["status", "SIM:A"]] == [
        (1, "live"), (2, "live"), (3, "down"),
    ]  # fmt: skip
    assert client.seqs("status", "SIM:B") == [1, 2]


def test_bars_of_all_intervals_of_a_symbol_go_by_one_beat_in_order(market: Market) -> None:
    client = Client(market)
    client.subscribe("bar", "SIM:A", delivery={"max_rate": 1})
    market.publish(bar("1s"))
    client.take()
    market.publish(bar("1s"))
    market.publish(bar("1m"))
    market.publish(bar("1s"))
    assert client.take() == []
    market.now = 2.0
    client.take()
    assert [(tick["seq"], tick["interval"]) for tick in client.ticks["bar", "SIM:A"]] == [
        (1, "1s"), (3, "1m"), (4, "1s"),
    ]  # fmt: skip


def test_bars_that_went_together_do_not_put_off_the_next_twice(market: Market) -> None:
    client = Client(market)
    client.subscribe("bar", "SIM:A", delivery={"max_rate": 1})
    for now in (0.0, 1.0, 2.0, 3.0):
        market.now = now
        market.publish(bar("1s"), bar("1m"), bar("1h"))
        client.take()
    assert len(client.seqs("bar", "SIM:A")) == 12


def test_what_is_held_back_goes_first_when_another_subscription_takes_the_symbol_over(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"max_rate": 1})
    market.quotes("SIM:A")
    client.take()
    market.quotes("SIM:A", "SIM:B")
    client.subscribe("quote", "SIM:A", delivery={"mode": "every"}, snapshot=False)
    market.quotes("SIM:A")
    client.take()
    market.now = 9.0
    client.take()
    assert client.seqs("quote", "SIM:A") == [1, 2, 3]


def test_trade_that_can_not_be_merged_does_not_overtake_the_one_before_it(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:*", delivery={"mode": "latest", "max_rate": 1, "max_age_ms": 60_000})
    market.trades("SIM:A")
    client.take()
    market.now = 0.5
    market.trades("SIM:B")
    client.take()
    market.publish(
        trade(), Trade(sym="SIM:A", ts=1, rts=1, price="1", size="much", side=None, id="x"), trade()
    )
    market.trades("SIM:B")
    for _ in range(100):
        market.now += 0.05
        client.take()
    assert client.seqs("trade", "SIM:A") == [1, 2, 3, 4]


def test_what_is_too_much_to_be_held_goes_before_its_time_instead_of_costing_the_session(
    market: Market,
) -> None:
    limits = SessionLimits(delivery=DeliveryLimits(queue_bytes=1800))
    client = Client(market, limits=limits)
    client.subscribe("book", "SIM:*", delivery={"mode": "latest", "max_rate": 0.1})
    levels = [(str(price), "1") for price in range(100, 140)]
    for kind in ("snapshot", "delta"):
        for sym in ("SIM:A", "SIM:B", "SIM:C"):
            market.publish(Book(sym=sym, ts=1, rts=1, kind=kind, bids=levels, asks=[]))
            client.take()
    # The first deltas were held; with the last one they were more than half of what may wait.
    assert [client.seqs("book", sym) for sym in ("SIM:A", "SIM:B", "SIM:C")] == [[1, 2], [1, 2], [1, 2]]
    assert client.outbox.evicted is None
    assert client.request("list")["ledger"][0]["pending"] == 0


# ── the cursor ───────────────────────────────────────────────────────────────────────────────────


def test_cursor_says_what_is_held_back_and_a_resume_shows_it_once_and_nothing_else(market: Market) -> None:
    market.trades("SIM:A")
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"max_rate": 1}, snapshot=False)
    client.subscribe("trade", "SIM:*", snapshot=False)
    market.quotes("SIM:A", "SIM:B")
    client.take()
    market.quotes("SIM:A")
    for _ in range(3):
        market.trades("SIM:A")
        client.take()
    cursor = client.disconnect()
    assert cursor == "e1-7~4"
    market.trades("SIM:A")
    # Whatever the contract is now, and however long it took: nobody knows but the cursor.
    market.now = 1e6
    back = Client(market)
    ack = back.subscribe("quote", "SIM:*", cursor=cursor)
    assert ack["cursor"] == cursor, "the snapshot has not come yet"
    back.subscribe("trade", "SIM:*", cursor=cursor)
    assert "gap" not in types(back.take())
    assert [tick["seq"] for tick in back.snapshots["quote", "SIM:A"]] == [2]
    assert ("quote", "SIM:B") not in back.snapshots
    assert (back.seqs("trade", "SIM:A"), ("trade", "SIM:A") in back.snapshots) == ([5], False)
    assert back.cursor == "e1-8"


def test_topic_that_ticked_on_begins_with_a_snapshot_behind_what_was_held_back(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:A", delivery={"max_rate": 1}, snapshot=False)
    market.quotes("SIM:A")
    client.take()
    market.quotes("SIM:A", "SIM:A")
    cursor = client.heartbeat()["cursor"]
    market.quotes("SIM:A", "SIM:A")
    back = Client(market)
    back.subscribe("quote", "SIM:A", delivery={"max_rate": 1}, cursor=cursor)
    assert types(back.take()) == ["snapshot"]
    assert [tick["seq"] for tick in back.snapshots["quote", "SIM:A"]] == [5]
    assert back.request("list")["ledger"][0]["offered"] == 0, "the count begins at the snapshot"


def test_book_that_was_held_back_and_is_lost_since_begins_behind_a_reset(market: Market) -> None:
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "latest", "max_rate": 1})
    market.publish(book("snapshot"))
    client.take()
    market.publish(book("delta"))
    cursor = client.heartbeat()["cursor"]
    market.publish(book("delta"))
    market.router.gap("book", "SIM:A")
    back = Client(market)
    back.subscribe("book", "SIM:A", delivery={"mode": "latest"}, cursor=cursor)
    market.publish(book("snapshot"))
    back.take()
    [gap] = [message for message in back.messages if message["type"] == "gap"]
    assert (gap["from"], gap["to"], gap["reason"]) == (None, 3, "feed_reset")
    assert back.seqs("book", "SIM:A") == [4]
    assert back.request("list")["ledger"][0]["offered"] == 1


@pytest.mark.parametrize("since", [0, 2])
def test_trades_that_were_held_back_are_told_of_where_they_can_not_come_again(
    market: Market, since: int
) -> None:
    client = Client(market)
    contract = {"mode": "latest", "max_rate": 1}
    client.subscribe("trade", "SIM:A", delivery=contract)
    market.trades("SIM:A")
    client.take()
    market.trades("SIM:A", "SIM:A")
    cursor = client.heartbeat()["cursor"]
    assert cursor == "e1-3~1", "they are one by now"
    market.trades(*["SIM:A"] * since)
    back = Client(market)
    ack = back.subscribe("trade", "SIM:A", delivery=contract, cursor=cursor)
    assert ack["cursor"] == cursor, "the gap has not come yet"
    came = types(back.take())
    assert came == (["gap", "update"] if since else ["gap", "snapshot"])
    [gap] = [message for message in back.messages if message["type"] == "gap"]
    assert (gap["from"], gap["to"], gap["reason"]) == (None, 3, "overflow")
    assert back.seqs("trade", "SIM:A") == list(range(4, 4 + since))
    [entry] = back.request("list")["ledger"]
    assert (entry["offered"], entry["delivered"], entry["dropped"]) == (since, since, 0)


def test_what_is_dropped_behind_such_a_gap_is_told_beside_it(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"mode": "latest", "max_rate": 1})
    market.trades("SIM:A")
    client.take()
    market.trades("SIM:A")
    cursor = client.heartbeat()["cursor"]
    back = Client(market)
    back.subscribe("trade", "SIM:A", delivery={"mode": "latest", "max_rate": 1}, cursor=cursor)
    back.request("modify", sub=1, delivery={"mode": "every", "queue": 1})
    market.trades("SIM:A", "SIM:A", "SIM:A")
    back.wait()
    back.take()
    told = [(gap["from"], gap["to"]) for gap in back.messages if gap["type"] == "gap"]
    assert told == [(None, 2), (3, 4)]
    assert back.request("list")["ledger"][0]["dropped"] == 2


def test_what_was_held_back_does_not_bring_others_ticks_twice(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:A", delivery={"max_rate": 1})
    client.subscribe("trade", "SIM:A")
    market.quotes("SIM:A")
    client.take()
    market.quotes("SIM:A")
    market.trades("SIM:A")
    client.take()
    market.now = 5.0
    next(iter(client.session.subscriptions.values())).mailbox.release(market.now)
    cursor = client.heartbeat()["cursor"]
    back = Client(market)
    back.subscribe("trade", "SIM:A", cursor=cursor)
    back.take()
    assert back.seqs("trade", "SIM:A") == []


def test_bar_of_an_interval_that_was_held_back_comes_beside_a_newer_one_of_another(market: Market) -> None:
    client = Client(market)
    client.subscribe("bar", "SIM:A", delivery={"max_rate": 1}, snapshot=False)
    market.publish(bar("1s"))
    client.take()
    market.publish(bar("1m"))
    cursor = client.heartbeat()["cursor"]
    market.publish(bar("1s"))
    back = Client(market)
    back.subscribe("bar", "SIM:A", delivery={"max_rate": 1}, cursor=cursor)
    back.take()
    came = back.ticks["bar", "SIM:A"] + back.snapshots["bar", "SIM:A"]
    assert {(tick["seq"], tick["interval"]) for tick in came} == {(3, "1s"), (2, "1m")}


def test_every_gets_nothing_again_that_another_subscription_held_back(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"mode": "latest", "max_rate": 1})
    market.trades("SIM:A")
    client.take()
    market.trades("SIM:A")
    cursor = client.heartbeat()["cursor"]
    market.trades("SIM:A")
    back = Client(market)
    back.subscribe("trade", "SIM:A", cursor=cursor)
    assert types(back.take()) == ["update"]
    assert back.seqs("trade", "SIM:A") == [3]


@pytest.mark.parametrize(
    "cursor", ["e1-3~", "e1-3~4", "e1-3~-1", "e1-~1", "e1~1-3", "e1-3~1~1", "e1-4~1", "e1-3~²"]
)
def test_cursor_that_was_never_given_out_is_too_old(market: Market, cursor: str) -> None:
    market.quotes("SIM:A", "SIM:A", "SIM:A")
    client = Client(market)
    client.subscribe("quote", "SIM:A", cursor=cursor)
    assert types(client.take()) == ["gap", "snapshot"]


def test_account_adds_up_after_all_that(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"max_rate": 1, "max_age_ms": 1000})
    market.publish(quote(), quote(), quote("SIM:B"))
    client.take()
    market.publish(quote(), quote("SIM:B"))
    market.now = 1.5
    market.publish(quote("SIM:C"))
    client.take()
    (entry,) = client.request("list")["ledger"]
    assert entry["offered"] == account(entry) == 6
    assert (entry["delivered"], entry["conflated"], entry["dropped"]) == (3, 1, 2)


def test_contract_that_holds_nothing_back_any_more_does_not_bring_others_ticks_twice(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"max_rate": 1})
    client.subscribe("trade", "SIM:A")
    market.quotes("SIM:A")
    client.take()
    market.quotes("SIM:A")
    market.trades("SIM:A")
    client.take()
    client.request("modify", sub=1, delivery={"max_rate": None})
    assert client.heartbeat()["cursor"] == "e1-3~2"
    market.quotes("SIM:B")
    assert client.heartbeat()["cursor"] == "e1-3~2"
    client.take()
    assert client.seqs("quote", "SIM:A") == [1, 2]
    assert client.cursor == "e1-4"
