"""URLs, and messages on the client's side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client.backoff import CAP_S, Backoff
from broker.client.wire import Ack, BadMessage, ClientCodec, CodecName, Gap, Heartbeat, Welcome, parse_url
from broker.core import codecs, messages
from broker.core.codecs import JSON, MSGPACK
from broker.core.delivery import Delivery
from broker.core.mailbox import LedgerEntry


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("ws://h:9000/v1/ws", "ws://h:9000/v1/ws"),
        ("http://h:9000", "ws://h:9000/v1/ws"),
        ("http://h:9000/", "ws://h:9000/v1/ws"),
        ("https://h", "wss://h:443/v1/ws"),
        ("wss://h/feed/ws?key=1", "wss://h:443/feed/ws?key=1"),
        ("http://h", "ws://h:80/v1/ws"),
        ("h:9000", "ws://h:9000/v1/ws"),
        ("localhost", "ws://localhost:8765/v1/ws"),
        ("[::1]:9000", "ws://[::1]:9000/v1/ws"),
    ],
)
def test_url_is_completed(url: str, canonical: str) -> None:
    assert parse_url(url).url == canonical


@pytest.mark.parametrize("url", ["", "ftp://h", "h:port", "ws://", "h:99999", "ws://[::1", "a b:1", ":8765"])
def test_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="is not") as caught:
        parse_url(url)
    assert repr(url) in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_value_error(url: str) -> None:
    try:
        target = parse_url(url)
    except ValueError:
        return
    assert parse_url(target.url) == target


LIMITS = messages.LimitsInfo(1, 2, 3, 4, 5, 6)
DELIVERY = Delivery("latest", None, 0, None, None, None)
ENTRY = LedgerEntry(1, 10, 8, 1, 0, 1)


@pytest.mark.parametrize("codec", codecs.CODECS, ids=lambda codec: codec.name)
def test_what_the_broker_encodes_is_understood(codec: codecs.Codec) -> None:
    name: CodecName = "json" if codec.name == "json" else "msgpack"
    decode = ClientCodec(name).decode

    def sent(message: messages.Message) -> object:
        raw = codec.encode(message)
        return decode(raw if codec.is_binary else raw.decode())

    assert sent(messages.Welcome("s", "e", 10.0, LIMITS, "t/1")) == Welcome("s", "e", 10.0, "t/1")
    ack = sent(
        messages.Ack(3, "subscribe", sub=1, ch="quote", symbols=["A:B"], delivery=DELIVERY, cursor="e-1")
    )
    assert isinstance(ack, Ack)
    assert (ack.id, ack.sub, ack.symbols, ack.mode, ack.cursor) == (3, 1, ["A:B"], "latest", "e-1")
    assert sent(messages.Gap(1, "quote", "A:B", None, 4, "stale")) == Gap(1, "quote", "A:B", None, 4, "stale")
    assert sent(messages.Heartbeat(1, "e-2", [ENTRY])) == Heartbeat("e-2", [ENTRY])
    assert sent(messages.Error(None, "c", "m", False)) == messages.Error(None, "c", "m", False)


def test_types_fields_and_reasons_of_later_versions_do_no_harm() -> None:
    decode = ClientCodec("json").decode
    assert decode('{"type":"weather","sun":true}') is None
    gap = decode(
        '{"type":"gap","sub":1,"ch":"quote","sym":"A:B","from":1,"to":2,"reason":"new","mood":"sad"}'
    )
    assert gap == Gap(1, "quote", "A:B", 1, 2, "new")


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@given(payload=st.binary(max_size=60) | st.text(max_size=60))
def test_garbage_is_a_bad_message_and_nothing_else(codec: CodecName, payload: str | bytes) -> None:
    try:
        message = ClientCodec(codec).decode(payload)
    except BadMessage:
        return
    # By chance it is valid and has a type that nobody knows.
    assert message is None


def test_known_type_with_wrong_fields_is_a_bad_message() -> None:
    with pytest.raises(BadMessage, match="sub"):
        ClientCodec("json").decode('{"type":"gap","sub":"one"}')


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="'xml'"):
        ClientCodec("xml")  # type: ignore[arg-type]


def test_requests_can_be_read_by_the_broker() -> None:
    request = {"op": "ping", "id": 1}
    assert JSON.decode(ClientCodec("json").encode(request)) == request
    assert MSGPACK.decode(ClientCodec("msgpack").encode(request)) == request


def test_backoff_doubles_its_bound_up_to_the_cap() -> None:
    bounds: list[float] = []

    def uniform(low: float, high: float) -> float:
        bounds.append(high)
        return low

    backoff = Backoff(uniform)
    assert [backoff.next_delay(retry_after_s=3.0) for _ in range(2000)] == [3.0] * 2000
    assert bounds[:7] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, CAP_S])
    assert set(bounds[7:]) == {CAP_S}


def test_backoff_begins_anew_only_behind_a_stable_connection() -> None:
    backoff = Backoff(lambda low, high: high)
    backoff.next_delay()
    backoff.lasted(29.0)
    assert backoff.next_delay() == pytest.approx(0.4)
    backoff.lasted(30.0)
    assert backoff.next_delay() == pytest.approx(0.2)
