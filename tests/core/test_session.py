"""Subscriptions as a client sees them: who gets which topic, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import errors
from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.delivery import DeliveryLimits
from broker.core.session import GARBAGE_PER_MINUTE, SessionLimits, State
from tests import strategies
from tests.core.pair import Client, Market, account, quote, trade, types


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def codec(request: pytest.FixtureRequest) -> Codec:
    codec: Codec = request.param
    return codec


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def test_welcome_tells_what_the_session_may_use(market: Market, codec: Codec) -> None:
    client = Client(market, codec)
    (welcome,) = client.messages
    assert welcome["type"] == "welcome"
    assert welcome["epoch"] == "e1"
    assert welcome["limits"]["symbols"] == 10_000


def test_subscribe_is_acknowledged_with_the_contract_in_force(market: Market, codec: Codec) -> None:
    ack = Client(market, codec).subscribe("trade", "SIM:A", "SIM:*", "nope", "SIM:X", "GONE:*")
    assert ack["sub"] == 1
    assert ack["symbols"] == ["SIM:A", "SIM:*"]
    assert ack["rejected"] == [
        {"symbol": "nope", "code": "invalid_symbol"},
        {"symbol": "SIM:X", "code": "unknown_symbol"},
        {"symbol": "GONE:*", "code": "unknown_venue"},
    ]
    assert ack["delivery"] == {
        "mode": "every",
        "max_rate": None,
        "max_delay_ms": 0,
        "queue": 1000,
        "overflow": "gap",
        "max_age_ms": None,
    }
    assert ack["cursor"] == "e1-0"


def test_more_than_the_operator_allows_is_cut_and_echoed(market: Market) -> None:
    limits = SessionLimits(delivery=DeliveryLimits(queue_ticks=7))
    ack = Client(market, limits=limits).subscribe("trade", "SIM:A", delivery={"queue": 10**18})
    assert ack["delivery"]["queue"] == 7


def test_ping_list_and_auth_are_answered(market: Market, codec: Codec) -> None:
    client = Client(market, codec)
    pong = client.request("ping")
    assert pong["ts"] == (99 if codec.is_binary else "99")
    client.subscribe("quote", "SIM:A", delivery={"max_delay_ms": 5})
    listed = client.request("list")
    assert types([listed]) == ["ledger"]
    assert [(sub["sub"], sub["ch"], sub["symbols"]) for sub in listed["subscriptions"]] == [
        (1, "quote", ["SIM:A"])
    ]
    assert listed["ledger"] == [
        {"sub": 1, "offered": 0, "delivered": 0, "conflated": 0, "dropped": 0, "pending": 0}
    ]
    assert client.request("auth", token="t")["op"] == "auth"


def test_modify_changes_the_contract_and_keeps_account_and_queue(market: Market, codec: Codec) -> None:
    client = Client(market, codec)
    client.subscribe("quote", "SIM:*", delivery={"mode": "every"})
    market.quotes("SIM:A", "SIM:A", "SIM:B")
    ack = client.request("modify", sub=1, delivery={"mode": "latest"})
    assert ack["delivery"]["queue"] is None
    market.quotes("SIM:B", "SIM:C")
    client.take()
    assert client.seqs("quote", "SIM:A") == [2]
    assert client.seqs("quote", "SIM:B") == [2]
    (entry,) = client.request("list")["ledger"]
    assert (entry["offered"], entry["delivered"], entry["conflated"]) == (5, 3, 2)
    back = client.request("modify", sub=1, delivery={"mode": "every", "queue": 2})
    assert back["delivery"] == {**back["delivery"], "mode": "every", "queue": 2, "overflow": "gap"}
    market.quotes("SIM:C", "SIM:C", "SIM:C")
    client.wait()
    client.take()
    assert client.seqs("quote", "SIM:C") == [1, 3, 4]
    assert [(gap["from"], gap["to"]) for gap in client.gaps] == [(2, 2)]


def test_modify_that_would_evict_at_once_is_refused_and_changes_nothing(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A")
    market.trades("SIM:A", "SIM:A", "SIM:A")
    before = client.request("list")
    error = client.request("modify", sub=1, delivery={"queue": 1, "overflow": "evict"})
    assert error["code"] == "invalid_delivery"
    assert error["retry"] is True
    assert "delivery.queue: 1" in error["message"]
    after = client.request("list")
    assert {**before, "id": 0} == {**after, "id": 0}
    market.trades("SIM:A")
    client.take()
    assert client.seqs("trade", "SIM:A") == [1, 2, 3, 4]
    assert len(market.router.mailboxes) == 1


def test_unsubscribe_answers_with_the_final_account(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A")
    market.trades("SIM:A", "SIM:A")
    client.take()
    market.trades("SIM:A")
    ack = client.request("unsubscribe", sub=1)
    assert ack["ledger"] == {
        "sub": 1,
        "offered": 3,
        "delivered": 2,
        "conflated": 0,
        "dropped": 0,
        "pending": 1,
    }
    market.trades("SIM:A")
    assert client.take() == []
    assert client.request("unsubscribe", sub=1)["code"] == "unknown_subscription"


def test_gaps_that_an_account_counts_are_told_before_it(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"queue": 1})
    asks: list[Callable[[], dict[str, int]]] = [
        lambda: client.request("list")["ledger"][0],
        lambda: client.heartbeat()["ledger"][0],
        lambda: client.request("unsubscribe", sub=1)["ledger"],
    ]
    for ask in asks:
        market.trades("SIM:A", "SIM:A", "SIM:A")
        client.wait()
        entry = ask()
        assert entry["dropped"] == sum(gap["to"] - gap["from"] + 1 for gap in client.gaps)
        assert entry["offered"] == account(entry)
    assert [gap["from"] for gap in client.gaps] == [1, 3, 6]


def test_closing_is_the_last_message_and_names_every_gap_before(market: Market) -> None:
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"queue": 1, "overflow": "evict"})
    market.trades("SIM:A", "SIM:A", "SIM:A")
    client.wait()
    assert client.take() == []
    assert client.outbox.evicted is client.session.subscriptions[1]
    client._read(client.outbox.message(client.session.close(errors.OVER_LIMIT)))
    assert types(client.messages[-2:]) == ["gap", "closing"]
    closing = client.messages[-1]
    assert (closing["code"], closing["retry_after_ms"]) == (4408, 1000)
    assert closing["ledger"][0]["dropped"] == 2
    assert (client.gaps[0]["from"], client.gaps[0]["to"]) == (2, 3)
    assert client.session.state is State.DRAINING
    assert client.take() == []


def test_session_that_is_over_holds_nothing(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:A", "OTHER:NEW", "*")
    client.subscribe("trade", "SIM:*")
    market.quotes("SIM:B")
    client.session.closed()
    client.session.closed()
    assert client.session.state is State.CLOSED
    assert market.router.mailboxes == {}
    assert not any(topic.mailboxes for topic in market.topics.on_channel("quote").values())
    assert "OTHER:NEW" not in market.topics.on_channel("quote")
    market.quotes("SIM:B", "SIM:NEW")
    assert client.take() == []


# ── who gets which topic ─────────────────────────────────────────────────────────────────────────


def owners(client: Client, market: Market) -> dict[str, int]:
    """Return which subscription gets the next quote of each symbol."""
    found = {}
    for sub in client.session.subscriptions.values():
        for topic in sub.topics:
            assert sub.mailbox in topic.mailboxes
            assert topic.sym not in found
            found[topic.sym] = sub.id
    return found


def test_names_go_before_patterns_and_the_earlier_before_the_later(market: Market) -> None:
    market.quotes("SIM:A", "SIM:B", "OTHER:C")
    client = Client(market)
    client.subscribe("quote", "SIM:*")
    client.subscribe("quote", "*")
    client.subscribe("quote", "SIM:A")
    assert owners(client, market) == {"SIM:B": 1, "OTHER:C": 2, "SIM:A": 3}


def test_named_topic_returns_to_the_pattern_when_its_subscription_ends(market: Market) -> None:
    market.quotes("SIM:A", "SIM:B", "OTHER:C")
    client = Client(market)
    for symbol in ("*", "SIM:*", "SIM:A"):
        client.subscribe("quote", symbol)
    client.request("unsubscribe", sub=3)
    assert owners(client, market) == {"SIM:A": 1, "SIM:B": 1, "OTHER:C": 1}
    client.request("unsubscribe", sub=1)
    assert owners(client, market) == {"SIM:A": 2, "SIM:B": 2}
    client.take()
    market.quotes("SIM:A", "OTHER:C")
    client.take()
    assert client.seqs("quote", "SIM:A") == [2]
    assert client.seqs("quote", "OTHER:C") == []


def test_pattern_takes_in_symbols_that_appear_later_from_their_first_tick(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "SIM:*", delivery={"mode": "every"})
    other = Client(market)
    other.subscribe("quote", "*", delivery={"mode": "every"})
    market.quotes("SIM:NEW", "SIM:NEW", "OTHER:NEW")
    client.take()
    other.take()
    assert client.seqs("quote", "SIM:NEW") == other.seqs("quote", "SIM:NEW") == [1, 2]
    assert client.seqs("quote", "OTHER:NEW") == []
    assert other.seqs("quote", "OTHER:NEW") == [1]


def test_symbol_that_somebody_else_names_first_belongs_to_the_patterns_as_well(market: Market) -> None:
    client = Client(market)
    client.subscribe("quote", "*")
    Client(market).subscribe("quote", "OTHER:NEW")
    market.quotes("OTHER:NEW")
    client.take()
    assert client.seqs("quote", "OTHER:NEW") == [1]


def test_symbol_named_twice_is_already_subscribed_and_a_channel_is_another_topic(market: Market) -> None:
    client = Client(market)
    assert client.subscribe("quote", "SIM:A", "SIM:A")["rejected"] == [
        {"symbol": "SIM:A", "code": "already_subscribed"}
    ]
    assert client.subscribe("quote", "SIM:B", "SIM:A")["rejected"][0]["code"] == "already_subscribed"
    assert client.request("subscribe", ch="quote", symbols=["SIM:A"])["code"] == "already_subscribed"
    assert client.subscribe("trade", "SIM:A")["rejected"] == []
    client.subscribe("quote", "SIM:*")
    assert client.request("subscribe", ch="quote", symbols=["SIM:*"])["code"] == "already_subscribed"
    client.request("unsubscribe", sub=1)
    assert client.subscribe("quote", "SIM:A")["rejected"] == []


# ── what is refused ──────────────────────────────────────────────────────────────────────────────

REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"ch": "quotes"}, "unknown_channel", ["ch: 'quotes'", "quote, trade, book, bar, status"]),
    ({"ch": 5}, "invalid_request", ["ch: 5", "str"]),
    ({"ch": None}, "invalid_request", ["ch: None", "str"]),
    ({"symbols": "SIM:A"}, "invalid_request", ["symbols: 'SIM:A'", "array"]),
    ({"symbols": []}, "invalid_request", ["symbols: list of 0", ">= 1"]),
    ({"symbols": ["SIM:A", 7]}, "invalid_request", ["symbols[1]: 7", "str"]),
    ({"symbols": ["sim:a"]}, "invalid_symbol", ["symbols:", "'sim:a'", "VENUE:SYMBOL"]),
    ({"symbols": ["SIM:ZZ"]}, "unknown_symbol", ["'SIM:ZZ'", "/v1/symbols"]),
    ({"symbols": ["GONE:*"]}, "unknown_venue", ["'GONE:*'", "/v1/symbols"]),
    ({"symbols": ["SIM:ZZ", "GONE:*"]}, "no_symbols", ["'SIM:ZZ' (unknown_symbol)"]),
    ({"colour": "red"}, "unknown_field", ["colour: 'red'", "symbols, delivery, cursor"]),
    ({"de`l - at `$.x": 1}, "unknown_field", ["de`l - at `$.x: 1", "delivery"]),
    ({"simbols": 1}, "unknown_field", ["simbols: 1", "did you mean 'symbols'"]),
    ({"cursor": 5}, "invalid_request", ["cursor: 5", "str"]),
    ({"cursor": "x" * 300}, "invalid_request", ["cursor: 'xxx", "<= 256"]),
    ({"snapshot": "yes"}, "invalid_request", ["snapshot: 'yes'", "bool"]),
    ({"delivery": 5}, "invalid_request", ["delivery: 5", "object"]),
    ({"delivery": {"mod": 1}}, "unknown_field", ["delivery.mod: 1", "did you mean 'mode'"]),
    ({"delivery": {"mode": "newest"}}, "invalid_request", ["delivery.mode: 'newest'", "latest, every"]),
    ({"delivery": {"queue": 0, "mode": "every"}}, "invalid_request", ["delivery.queue: 0", ">= 1"]),
    ({"delivery": {"queue": 1.5}}, "invalid_request", ["delivery.queue: 1.5", "int"]),
    ({"delivery": {"queue": 5}}, "invalid_delivery", ["delivery.queue: 5", "'every'"]),
    ({"delivery": {"overflow": "gap"}}, "invalid_delivery", ["delivery.overflow: 'gap'", "'every'"]),
    ({"delivery": {"max_delay_ms": -1}}, "invalid_request", ["delivery.max_delay_ms: -1", ">= 0"]),
    ({"delivery": {"max_delay_ms": True}}, "invalid_request", ["delivery.max_delay_ms: True", "int"]),
    ({"delivery": {"max_age_ms": 0}}, "invalid_request", ["delivery.max_age_ms: 0", ">= 1"]),
    ({"delivery": {"max_age_ms": 2**63}}, "invalid_request", ["delivery.max_age_ms: 9223", "<="]),
    ({"delivery": {"max_rate": 0}}, "invalid_request", ["delivery.max_rate: 0", "0.1"]),
]


@pytest.mark.parametrize(("fields", "code", "texts"), REFUSED, ids=[str(item[0])[:40] for item in REFUSED])
def test_refused_subscription_names_field_value_and_what_is_right_and_changes_nothing(
    market: Market, codec: Codec, fields: dict[str, Any], code: str, texts: list[str]
) -> None:
    client = Client(market, codec)
    before = client.request("list")
    error = client.request("subscribe", **{"ch": "quote", "symbols": ["SIM:A"], **fields})
    assert error["type"] == "error"
    assert error["code"] == code
    for text in texts:
        assert text in error["message"]
    after = client.request("list")
    assert {**before, "id": 0} == {**after, "id": 0}
    assert market.router.mailboxes == {}
    assert market.topics.on_channel("quote") == {}
    # The next one gets the number that this one would have had.
    assert client.subscribe("quote", "SIM:A")["sub"] == 1


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        ({"op": "subscribe"}, "invalid_request", "ch: is missing"),
        ({"op": "unsubscribe"}, "invalid_request", "sub: is missing"),
        ({"op": "unsubscribe", "sub": "1"}, "invalid_request", "sub: '1'"),
        ({"op": "unsubscribe", "sub": 4}, "unknown_subscription", "sub: 4"),
        ({"op": "modify", "sub": 4, "delivery": {}}, "unknown_subscription", "(none)"),
        ({"op": "ping", "ch": "quote"}, "unknown_field", "ch: 'quote'"),
        ({"op": "auth"}, "invalid_request", "token: is missing"),
        ({"op": "subscrbe"}, "unknown_op", "did you mean 'subscribe'"),
        ({"op": ["list"]}, "unknown_op", "op: list of 1"),
        ({}, "unknown_op", "op: None"),
    ],
)
def test_wrong_request_is_answered_under_its_own_id(
    market: Market, request_: dict[str, Any], code: str, text: str
) -> None:
    answer = Client(market).send(json.dumps({"id": 12, **request_}))
    assert (answer["type"], answer["id"], answer["code"]) == ("error", 12, code)
    assert text in answer["message"]


def test_limits_of_a_session_are_named(market: Market) -> None:
    client = Client(market, limits=SessionLimits(subscriptions=2, symbols=3))
    client.subscribe("quote", "SIM:A", "SIM:B")
    error = client.request("subscribe", ch="trade", symbols=["SIM:A", "SIM:B"])
    assert error["code"] == "too_many_symbols"
    assert "2 more to the 2" in error["message"]
    client.subscribe("trade", "SIM:A")
    error = client.request("subscribe", ch="book", symbols=["SIM:A"])
    assert error["code"] == "too_many_subscriptions"
    client.request("unsubscribe", sub=1)
    client.subscribe("book", "SIM:A")


def test_ten_thousand_symbols_are_taken_and_one_more_is_not() -> None:
    symbols = [f"SIM:S{n}" for n in range(10_001)]
    market = Market(symbols=symbols)
    client = Client(market)
    error = client.request("subscribe", ch="quote", symbols=symbols)
    assert error["code"] == "too_many_symbols"
    assert market.topics.on_channel("quote") == {}
    ack = client.subscribe("quote", *symbols[1:])
    assert (len(ack["symbols"]), ack["rejected"]) == (10_000, [])
    market.quotes(*symbols)
    client.take()
    assert len(client.ticks) == 10_000


# ── what can't be understood ─────────────────────────────────────────────────────────────────────

GARBAGE_JSON: list[str | bytes] = [
    "",
    "x",
    "null",
    "[]",
    "5",
    '"ping"',
    '{"op":"ping"}',
    '{"op":"ping","id":null}',
    '{"op":"ping","id":"1"}',
    '{"op":"ping","id":1.0}',
    '{"op":"ping","id":true}',
    '{"op":"ping","id":[1]}',
    f'{{"op":"ping","id":{2**64}}}',
    f'{{"op":"ping","id":{-(2**63) - 1}}}',
    '{"op":"ping","id":' + "9" * 5000 + "}",
    '{"op":"ping","id":1}{"op":"ping","id":2}',
    '{"op":"ping","id":1e999}',
    "[" * 100_000,
    '{"a":' * 100_000,
    b"\xff\xfe",
    b'{"op":"\xed\xa0\x80","id":1}',
    '{"op":"\ud800","id":1}',
    '{"op":"\\ud800","id":1}',
    '\ufeff{"op":"ping","id":1}',
]
GARBAGE_MSGPACK: list[str | bytes] = [
    "",
    '{"op":"ping","id":1}',
    b"",
    b"\xc0",
    b"\xc1",
    b"\xa2\xff\xff",
    b"\x81\x80\x01",
    b"\x81\x90\x01",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff" * 80_000,
    b"\x91" * 200_000,
    b"\xd7\xff" + b"\xff" * 8,
    b"\xc7\x0c\xff" + b"\x00" * 4 + b"\x7f" + b"\xff" * 7,
    b"\xd4\x05\x00",
    msgpack.packb({"op": "ping", "id": b"1"}),
    msgpack.packb({1: 1, b"id": 5}),
    msgpack.packb({"op": "ping", "id": 1}) + b"\xc0",
]


@pytest.mark.parametrize(
    ("codec", "payload"),
    [*((JSON, item) for item in GARBAGE_JSON), *((MSGPACK, item) for item in GARBAGE_MSGPACK)],
    ids=lambda value: repr(value)[:30] if isinstance(value, str | bytes) else value.name,
)
def test_what_cannot_be_understood_gets_an_error_without_id_and_the_session_lives(
    market: Market, codec: Codec, payload: str | bytes
) -> None:
    client = Client(market, codec)
    error = client.send(payload)
    assert (error["type"], error["id"], error["code"]) == ("error", None, "invalid_message")
    assert len(error["message"]) < 300
    assert client.session.close_reason is None
    assert client.request("ping")["type"] == "pong"


def test_request_with_names_that_are_no_text_is_refused_by_name(market: Market) -> None:
    client = Client(market, MSGPACK)
    error = client.send(msgpack.packb({"op": "ping", "id": 1, b"x": 2}))
    assert (error["id"], error["code"]) == (1, "unknown_field")
    assert "b'x': 2" in error["message"]


@pytest.mark.parametrize("id_", [0, -1, 2**64 - 1, -(2**63)])
def test_any_integer_that_both_codecs_can_carry_is_an_id(market: Market, codec: Codec, id_: int) -> None:
    message = {"op": "ping", "id": id_}
    payload: str | bytes = msgpack.packb(message) if codec.is_binary else json.dumps(message)
    assert Client(market, codec).send(payload)["id"] == id_


def test_more_garbage_than_twenty_in_a_minute_ends_the_session(market: Market) -> None:
    client = Client(market)
    for _ in range(GARBAGE_PER_MINUTE):
        client.send("x")
    assert client.session.close_reason is None
    client.request("colour")
    assert client.session.close_reason is None, "it had an id, so it was understood"
    client.send("x")
    assert client.session.close_reason is errors.GARBAGE


def test_garbage_that_comes_slowly_is_forgiven(market: Market) -> None:
    client = Client(market)
    for _ in range(5 * GARBAGE_PER_MINUTE):
        client.send("x")
        market.now += 3.01
    assert client.session.close_reason is None


def test_too_many_requests_in_a_minute_end_the_session_and_a_pause_refills(market: Market) -> None:
    client = Client(market, limits=SessionLimits(requests_per_minute=60))
    for _ in range(60):
        assert client.request("ping")["type"] == "pong"
    market.now += 2.5
    assert client.request("ping")["type"] == client.request("ping")["type"] == "pong"
    error = client.send('{"op":"ping","id":1}')
    assert (error["code"], error["retry"]) == ("too_many_requests", True)
    assert client.session.close_reason is errors.TOO_MANY_REQUESTS


@given(st.one_of(st.text(), st.binary()), st.sampled_from([JSON, MSGPACK]))
def test_no_bytes_make_it_raise(payload: str | bytes, codec: Codec) -> None:
    Client(Market(), codec).send(payload)


@given(strategies.PLAIN, st.sampled_from([JSON, MSGPACK]))
def test_no_object_makes_it_raise(message: Any, codec: Codec) -> None:
    Client(Market(), codec).send(msgpack.packb(message) if codec.is_binary else json.dumps(message))


@given(st.lists(strategies.REQUESTS, max_size=8), st.sampled_from([JSON, MSGPACK]))
def test_requests_that_are_nearly_right_get_one_answer_each_and_refused_ones_change_nothing(
    requests: list[dict[str, Any]], codec: Codec
) -> None:
    market = Market()
    client = Client(market, codec)
    market.publish(quote("SIM:A"), trade("SIM:A"), quote("SIM:B"))
    for message in requests:
        before = client.session.subscriptions.copy(), list(market.router.mailboxes)
        answers = len(client.messages)
        answer = client.send(msgpack.packb(message) if codec.is_binary else json.dumps(message))
        assert len(client.messages) == answers + 1
        if answer["type"] == "error":
            assert before == (client.session.subscriptions, list(market.router.mailboxes))
            assert answer["id"] in (None, message["id"])
        else:
            assert answer["id"] == message["id"]
            assert answer["type"] in ("ack", "pong", "ledger")
        market.quotes("SIM:A", "SIM:B")
        client.take()
