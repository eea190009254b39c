"""What a client gets, and in which order: snapshots, updates, gaps, resumes."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.framing import Framing, NdjsonFraming, SseFraming
from broker.core.history import HistoryLimits
from broker.core.messages import Subscribe
from broker.core.outbox import WRITE_BOOKS, WRITE_GAPS, WRITE_TICKS, Outbox
from broker.core.session import Session, SessionLimits
from broker.core.ticks import Book
from tests.core.pair import Client, Market, account, quote, status, trade, types


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def codec(request: pytest.FixtureRequest) -> Codec:
    codec: Codec = request.param
    return codec


def offset(cursor: str | None) -> int:
    assert cursor is not None
    return int(cursor.rpartition("-")[2])


# ── snapshot and updates ─────────────────────────────────────────────────────────────────────────


def test_snapshot_comes_before_updates_and_nothing_is_missing_or_doubled(
    market: Market, codec: Codec
) -> None:
    market.trades("SIM:A", "SIM:A")
    client = Client(market, codec)
    client.subscribe("trade", "SIM:A", "SIM:B")
    market.trades("SIM:A", "SIM:B")
    assert types(client.take()) == ["snapshot", "update"]
    assert [tick["seq"] for tick in client.snapshots["trade", "SIM:A"]] == [2]
    assert client.seqs("trade", "SIM:A") == [3]
    assert client.seqs("trade", "SIM:B") == [1]
    assert client.cursor == "e1-4"


def test_snapshot_is_not_sent_where_it_is_not_wanted(market: Market) -> None:
    market.quotes("SIM:A")
    client = Client(market)
    client.subscribe("quote", "SIM:A", snapshot=False)
    assert client.take() == []
    market.quotes("SIM:A")
    assert types(client.take()) == ["update"]


def test_what_was_queued_goes_before_the_snapshot_of_a_later_subscription(market: Market) -> None:
    market.trades("SIM:A", "SIM:B")
    client = Client(market)
    client.subscribe("trade", "SIM:*")
    client.take()
    market.trades("SIM:A", "SIM:B")
    client.subscribe("trade", "SIM:A")
    market.trades("SIM:A", "SIM:B")
    assert types(client.take()) == ["update", "snapshot", "update"]
    assert client.seqs("trade", "SIM:A") == [2, 3]
    assert client.seqs("trade", "SIM:B") == [2, 3]
    assert [tick["seq"] for tick in client.snapshots["trade", "SIM:A"]] == [1, 2]


def test_large_snapshot_comes_in_parts_all_but_the_last_with_more(codec: Codec) -> None:
    symbols = [f"SIM:S{n}" for n in range(2000)]
    market = Market(symbols=symbols)
    market.quotes(*symbols)
    client = Client(market, codec)
    client.subscribe("quote", "*")
    client.take(1)
    market.quotes("SIM:S1999")
    messages = client.take()
    parts = [message for message in client.messages if message["type"] == "snapshot"]
    assert len(parts) > 2
    assert [part.get("more") for part in parts] == [True] * (len(parts) - 1) + [None]
    assert sum(len(part["data"]) for part in parts) == 2000
    assert len(client.snapshots) == 2000
    assert types(messages)[-1] == "update"
    assert client.seqs("quote", "SIM:S1999") == [2]


def test_snapshot_of_a_book_is_the_whole_book_at_its_seq(market: Market, codec: Codec) -> None:
    market.publish(
        Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=[("9", "1"), ("8", "1")], asks=[("10.50", "2")]),
        Book(sym="SIM:A", ts=2, rts=3, kind="delta", bids=[("9", "0")], asks=[("10.5", "4"), ("10", "1")]),
    )
    client = Client(market, codec)
    client.subscribe("book", "SIM:A")
    client.take()
    (book,) = client.snapshots["book", "SIM:A"]
    assert (book["kind"], book["seq"], int(book["ts"]), int(book["rts"])) == ("snapshot", 2, 2, 3)
    assert (book["bids"], book["asks"]) == ([["8", "1"]], [["10", "1"], ["10.5", "4"]])


def test_updates_hold_the_ticks_of_several_subscriptions_in_the_order_of_the_tape(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"mode": "every"})
    client.subscribe("trade", "SIM:*")
    for _ in range(3):
        market.publish(quote("SIM:A"), trade("SIM:A"), trade("SIM:B"), quote("SIM:B"))
    (update,) = client.take()
    assert [(tick["ch"], tick["sym"][-1]) for tick in update["data"]] == [
        ("quote", "A"), ("trade", "A"), ("trade", "B"), ("quote", "B"),
    ] * 3  # fmt: skip


@pytest.mark.parametrize("subscriptions", [["SIM:*"], ["SIM:A", "SIM:B"]])
def test_no_write_holds_more_than_a_client_can_take_at_once(market: Market, subscriptions: list[str]) -> None:
    client = Client(market)
    for symbol in subscriptions:
        client.subscribe("trade", symbol, delivery={"queue": 5000})
    market.trades(*["SIM:A", "SIM:B"] * WRITE_TICKS)
    sizes = [len(message["data"]) for message in client.take()]
    assert sizes == [WRITE_TICKS, WRITE_TICKS]
    assert client.seqs("trade", "SIM:A") == list(range(1, WRITE_TICKS + 1))


def test_what_goes_before_a_snapshot_is_bounded_too(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"queue": 5000})
    market.quotes("SIM:B")
    market.trades(*["SIM:A"] * 3 * WRITE_TICKS)
    client.subscribe("quote", "SIM:B")
    sizes = [len(message["data"]) for message in client.take()]
    assert sizes == [WRITE_TICKS] * 3 + [1]


def test_large_ticks_are_measured(market: Market) -> None:
    client = Client(market)
    client.subscribe("book", "SIM:A")
    levels = [(str(price), "1.00000000") for price in range(400)]
    for _ in range(WRITE_BOOKS + 1):
        market.publish(Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=levels, asks=levels))
    updates = client.take()
    assert len(updates) > 3
    assert client.seqs("book", "SIM:A") == list(range(1, WRITE_BOOKS + 2))


def test_every_cursor_says_what_has_been_sent(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:*", delivery={"queue": 5000})
    market.trades(*["SIM:A"] * (WRITE_TICKS + 10))
    assert client.heartbeat()["cursor"] == "e1-0"
    ack = client.subscribe("quote", "SIM:A")
    assert ack["cursor"] == "e1-0", "the trades before it have not been sent yet"
    client.take(1)
    assert offset(client.cursor) == WRITE_TICKS == offset(client.heartbeat()["cursor"])
    client.take()
    assert offset(client.heartbeat()["cursor"]) == WRITE_TICKS + 10


def test_sessions_with_the_same_account_share_their_heartbeat_and_others_have_their_own(
    market: Market, codec: Codec
) -> None:
    made: dict[Hashable, bytes] = {}

    def outbox(*symbols: str, framing: Framing) -> Outbox:
        session = Session("s", market.router, codec, SessionLimits())
        outbox = Outbox(session, codec, framing)
        session.welcome("broker", 10.0)
        for symbol in symbols:
            session.subscribe(Subscribe(id=1, ch="quote", symbols=[symbol], snapshot=False), 0.0)
        flush(outbox)
        return outbox

    def flush(of: Outbox) -> None:
        while of.take(0.0):
            pass

    def beat(of: Outbox) -> bytes:
        data = of.heartbeat(7, made)
        assert data == of.heartbeat(7), "it is what it would have been alone"
        return data

    plain = NdjsonFraming(chunked=False)
    idle, same = outbox("SIM:A", framing=plain), outbox("SIM:A", framing=plain)
    assert beat(idle) is beat(same)
    others = [
        outbox(framing=plain),
        outbox("SIM:A", "SIM:B", framing=plain),
        outbox("SIM:A", framing=NdjsonFraming(chunked=True)),
    ]
    assert len({beat(idle), *map(beat, others)}) == 4
    before = beat(idle)
    market.quotes("SIM:A")
    assert b"pending" in idle.heartbeat(7, made) != before
    flush(idle)
    after = beat(idle)
    assert after not in (before, beat(same)), "the other has not been sent the tick yet"
    flush(same)
    assert beat(same) is after
    late, later = outbox("SIM:A", framing=plain), outbox("SIM:A", framing=plain)
    market.quotes("SIM:A")
    flush(later)
    latest = outbox("SIM:A", framing=plain)
    assert beat(later) != beat(latest), "who came behind the tick was never offered it"
    flush(late)
    assert beat(late) is beat(later)


def test_many_gaps_come_in_several_writes_all_before_the_ticks() -> None:
    symbols = [f"SIM:S{n}" for n in range(WRITE_GAPS + 50)]
    market = Market(symbols=symbols)
    client = Client(market)
    client.subscribe("trade", "*", delivery={"queue": 3})
    market.trades(*symbols, *symbols)
    client.wait()
    messages = client.take()
    assert types(messages) == ["gap"] * len(symbols) + ["update", "notice"]
    assert sum(gap["to"] - gap["from"] + 1 for gap in client.gaps) == 2 * len(symbols) - 3
    assert {gap["reason"] for gap in client.gaps} == {"overflow"}


def test_tick_that_waited_too_long_is_told_and_not_sent(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"max_age_ms": 500})
    market.quotes("SIM:A", "SIM:A")
    market.now = 1.0
    market.quotes("SIM:B")
    assert types(client.take()) == ["gap", "update"]
    assert (client.gaps[0]["sym"], client.gaps[0]["from"], client.gaps[0]["to"]) == ("SIM:A", 2, 2)
    assert client.gaps[0]["reason"] == "stale"
    (entry,) = client.request("list")["ledger"]
    assert (entry["conflated"], entry["dropped"], entry["delivered"]) == (1, 1, 1)


def test_reset_of_a_feed_is_told_to_those_who_have_the_topic(market: Market) -> None:
    market.trades("SIM:A")
    client, other = Client(market), Client(market)
    client.subscribe("trade", "SIM:A", snapshot=False)
    other.subscribe("trade", "SIM:B")
    assert market.router.gap("trade", "SIM:A") == [client.session.subscriptions[1].mailbox]
    assert market.router.gap("trade", "SIM:C") == []
    (gap,) = client.take()
    assert (gap["reason"], gap["from"], gap["to"]) == ("feed_reset", None, None)
    assert other.take() == []
    assert client.request("list")["ledger"][0]["dropped"] == 0


# ── resume ───────────────────────────────────────────────────────────────────────────────────────


def test_resume_brings_every_tick_since_once_and_then_the_live_ones(market: Market, codec: Codec) -> None:
    client = Client(market, codec)
    client.subscribe("trade", "SIM:A")
    market.trades("SIM:A", "SIM:A")
    client.take()
    market.trades("SIM:A", "SIM:A")
    cursor = client.disconnect()
    market.trades("SIM:A")
    back = Client(market, codec)
    ack = back.subscribe("trade", "SIM:A", cursor=cursor)
    assert ack["cursor"] == cursor
    market.trades("SIM:A")
    assert "snapshot" not in types(back.take())
    market.trades("SIM:A")
    back.take()
    assert back.seqs("trade", "SIM:A") == [3, 4, 5, 6, 7]
    (entry,) = back.request("list")["ledger"]
    assert (entry["offered"], entry["delivered"], entry["pending"]) == (5, 5, 0)


def test_replayed_ticks_are_the_same_objects_as_live_ones(market: Market, codec: Codec) -> None:
    live = Client(market, codec)
    live.subscribe("trade", "SIM:A")
    market.publish(trade("SIM:A", "no decimals checked here: " + "x" * 99), trade("SIM:A"))
    live.take()
    back = Client(market, codec)
    back.subscribe("trade", "SIM:A", cursor="e1-0")
    back.take()
    assert back.ticks == live.ticks


def test_resume_in_latest_brings_the_newest_of_each_symbol_that_moved(market: Market) -> None:
    market.quotes("SIM:A", "SIM:B", "SIM:C")
    cursor = market.tape.cursor()
    market.quotes("SIM:A", "SIM:B", "SIM:A")
    client = Client(market)
    client.subscribe("quote", "SIM:*", cursor=cursor)
    client.take()
    assert (client.seqs("quote", "SIM:A"), client.seqs("quote", "SIM:B")) == ([3], [2])
    assert client.seqs("quote", "SIM:C") == []
    (entry,) = client.request("list")["ledger"]
    assert (entry["offered"], entry["conflated"], entry["delivered"]) == (3, 1, 2)


def test_each_change_of_state_is_replayed(market: Market) -> None:
    client = Client(market)
    for state in ("live", "down", "live"):
        market.publish(status("SIM:A", state))
    client.subscribe("status", "SIM:A", cursor="e1-0")
    client.take()
    assert [tick["state"] for tick in client.ticks["status", "SIM:A"]] == ["live", "down", "live"]


@pytest.mark.parametrize(
    "cursor", ["e0-1", "garbage", "", "-", "e1-", "e1-x", "e1--1", "e1-999", "e1-" + "9" * 30, "e1-²"]
)
def test_cursor_that_this_tape_did_not_give_out_brings_a_gap_and_a_snapshot(
    market: Market, cursor: str
) -> None:
    market.trades("SIM:A", "SIM:A")
    client = Client(market)
    client.subscribe("trade", "SIM:A", "SIM:B", cursor=cursor)
    market.trades("SIM:A", "SIM:B")
    assert types(client.take()) == ["gap", "snapshot", "update"]
    (gap,) = client.gaps
    assert (gap["sym"], gap["from"], gap["to"], gap["reason"]) == ("SIM:A", None, None, "cursor_too_old")
    assert client.seqs("trade", "SIM:A") == [3]
    assert client.seqs("trade", "SIM:B") == [1]


def test_cursor_that_is_too_old_brings_a_gap_and_a_snapshot_of_what_was_forgotten_only(codec: Codec) -> None:
    market = Market(HistoryLimits(ticks=3))
    market.trades("SIM:A", "SIM:A", "SIM:B", "SIM:A", "SIM:B")
    client = Client(market, codec)
    client.subscribe("trade", "SIM:*", cursor="e1-1")
    assert types(client.take()) == ["gap", "update", "snapshot"]
    assert (client.gaps[0]["sym"], client.gaps[0]["from"], client.gaps[0]["to"]) == ("SIM:A", None, 3)
    assert [tick["seq"] for tick in client.snapshots["trade", "SIM:A"]] == [3]
    assert client.seqs("trade", "SIM:B") == [1, 2]
    assert client.cursor == "e1-5"


def test_history_that_forgets_while_a_resume_is_read_is_told_as_a_gap() -> None:
    market = Market(HistoryLimits(ticks=2 * WRITE_TICKS))
    market.trades(*["SIM:A"] * 2 * WRITE_TICKS)
    client = Client(market)
    client.subscribe("trade", "SIM:A", cursor="e1-0")
    client.take(1)
    market.trades(*["SIM:B"] * (WRITE_TICKS + 10))
    assert offset(client.heartbeat()["cursor"]) <= WRITE_TICKS + 9, "the lost ones have not been told"
    client.take()
    (gap,) = client.gaps
    assert (gap["from"], gap["to"], gap["reason"]) == (WRITE_TICKS + 1, WRITE_TICKS + 10, "overflow")
    assert client.seqs("trade", "SIM:A") == [
        *range(1, WRITE_TICKS + 1),
        *range(WRITE_TICKS + 11, 2 * WRITE_TICKS + 1),
    ]
    (entry,) = client.request("list")["ledger"]
    assert entry["dropped"] == 10
    assert entry["offered"] == 2 * WRITE_TICKS == account(entry)


def test_history_that_forgets_all_that_a_resume_waits_for_is_told_and_the_topic_goes_live() -> None:
    market = Market(HistoryLimits(ticks=5))
    market.trades("SIM:A", "SIM:A")
    client = Client(market)
    client.subscribe("trade", "SIM:A", cursor="e1-0")
    market.trades(*["SIM:B"] * 10)
    cursor = client.heartbeat()["cursor"]
    late = Client(market)
    late.subscribe("trade", "SIM:A", cursor=cursor)
    assert types(late.take()) == ["gap", "snapshot"], "the cursor doesn't hide what was not told"
    assert types(client.take()) == ["gap"]
    market.trades("SIM:A")
    client.take()
    assert client.seqs("trade", "SIM:A") == [3]


def test_snapshot_asked_for_with_a_cursor_comes_in_its_place_among_the_ticks(market: Market) -> None:
    market.trades("SIM:A", "SIM:B", "SIM:A")
    client = Client(market)
    client.subscribe("trade", "SIM:*", cursor="e1-2", snapshot=True)
    market.trades("SIM:A", "SIM:B")
    shown = [
        (message["type"], [f"{tick['sym']} {tick['seq']}" for tick in message["data"]])
        for message in client.take()
    ]
    assert shown == [
        ("update", ["SIM:A 2"]),
        ("snapshot", ["SIM:A 2", "SIM:B 1"]),
        ("update", ["SIM:A 3", "SIM:B 2"]),
    ]


def test_cursor_in_the_middle_of_a_resume_is_true_of_what_is_live_as_well(market: Market) -> None:
    market.trades(*["SIM:A"] * (WRITE_TICKS + 5))
    client = Client(market)
    client.subscribe("trade", "SIM:*", cursor="e1-0")
    for _ in range(WRITE_TICKS):
        market.trades("SIM:B", "SIM:A")
    client.take(2)
    back = Client(market)
    back.subscribe("trade", "SIM:*", cursor=client.disconnect())
    back.take()
    for sym, count in (("SIM:A", 2 * WRITE_TICKS + 5), ("SIM:B", WRITE_TICKS)):
        assert client.seqs("trade", sym) + back.seqs("trade", sym) == list(range(1, count + 1))


def test_backlog_whose_topics_went_to_a_name_does_not_hold_up_the_rest(market: Market) -> None:
    market.trades("SIM:A", "SIM:A")
    client = Client(market)
    client.subscribe("trade", "SIM:*", cursor="e1-0")
    client.subscribe("trade", "SIM:A", snapshot=False)
    market.trades("SIM:A", "SIM:B")
    assert types(client.take()) == ["update"]
    assert types(client.messages)[-3:] == ["gap", "ack", "update"], "the ack has a cursor behind the gap"
    assert (client.gaps[0]["sub"], client.gaps[0]["from"], client.gaps[0]["to"]) == (1, 1, 2)
    assert client.seqs("trade", "SIM:A") == [3]
    assert [entry["dropped"] for entry in client.request("list")["ledger"]] == [2, 0]


def test_write_of_replayed_and_live_ticks_is_bounded_too(market: Market) -> None:
    market.trades("SIM:A")
    client = Client(market)
    client.subscribe("trade", "SIM:*", cursor="e1-0", delivery={"queue": 5000})
    market.trades(*["SIM:B"] * 5 * WRITE_TICKS)
    sizes = [len(message["data"]) for message in client.take()]
    assert max(sizes) <= 2 * WRITE_TICKS
    assert client.seqs("trade", "SIM:B") == list(range(1, 5 * WRITE_TICKS + 1))


def test_names_may_be_resumed_behind_the_pattern_that_covers_them_too(market: Market, codec: Codec) -> None:
    market.publish(trade("SIM:A"), quote("SIM:A"), trade("SIM:B"), quote("SIM:B"), quote("SIM:A"))
    client = Client(market, codec)
    for ch in ("trade", "quote"):
        for symbol in ("SIM:*", "SIM:A"):
            client.subscribe(ch, symbol, cursor="e1-0")
    client.take()
    assert client.gaps == []
    assert (client.seqs("trade", "SIM:A"), client.seqs("trade", "SIM:B")) == ([1], [1])
    assert (client.seqs("quote", "SIM:A"), client.seqs("quote", "SIM:B")) == ([2], [1])
    ledger = client.request("list")["ledger"]
    assert [entry["delivered"] for entry in ledger] == [1, 1, 1, 1]
    assert all(entry["offered"] == account(entry) for entry in ledger)


def test_long_resume_leaves_the_live_ticks_of_other_symbols_in_order(market: Market) -> None:
    market.trades(*["SIM:A"] * 3 * WRITE_TICKS)
    client = Client(market)
    client.subscribe("trade", "SIM:*", cursor="e1-0")
    for _ in range(3):
        client.take(1)
        market.trades("SIM:A", "SIM:B")
    client.take()
    assert client.seqs("trade", "SIM:A") == list(range(1, 3 * WRITE_TICKS + 4))
    assert client.seqs("trade", "SIM:B") == [1, 2, 3]
    assert client.gaps == []


# ── an EventSource ───────────────────────────────────────────────────────────────────────────────


def ids(written: bytes) -> list[tuple[str, bool]]:
    """Return each event's type, and whether it has an id to come back with."""
    blocks = [block.split("\n") for block in written.decode().split("\n\n") if block]
    return [
        (
            next(line[7:] for line in block if line.startswith("event: ")),
            any(line.startswith("id: ") for line in block),
        )
        for block in blocks
    ]


def test_event_source_is_given_an_id_only_once_it_has_seen_every_snapshot() -> None:
    symbols = [f"SIM:S{n}" for n in range(1000)]
    market = Market(symbols=symbols)
    market.quotes(*symbols)
    market.trades("SIM:S0")
    session = Session("s", market.router, JSON, SessionLimits())
    outbox = Outbox(session, JSON, SseFraming(chunked=False, retry_ms=1000))
    session.welcome("tapecast", 5.0)
    for ch in ("quote", "trade"):
        session.handle(f'{{"op":"subscribe","id":1,"ch":"{ch}","symbols":["*"]}}', 0.0, 0)
    market.quotes("SIM:S1")
    written = b""
    while data := outbox.take(0.0):
        written += data + outbox.heartbeat(1)
    seen = ids(written)
    first = [has_id for _, has_id in seen].index(True)
    last_snapshot = max(index for index, (kind, _) in enumerate(seen) if kind == "snapshot")
    assert seen[first][0] == "snapshot"
    assert first == last_snapshot
    assert all(has_id for _, has_id in seen[first:])


def test_message_is_one_write_in_the_framing_of_the_transport(market: Market) -> None:
    session = Session("s", market.router, JSON, SessionLimits())
    outbox = Outbox(session, JSON, NdjsonFraming(chunked=True))
    written = outbox.message(session.welcome("tapecast", 5.0))
    size, _, rest = written.partition(b"\r\n")
    assert len(rest) == int(size, 16) + 2
    assert rest.endswith(b"}\n\r\n")
    assert outbox.take(0.0) == b""
