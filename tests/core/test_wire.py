"""Both codecs against golden vectors, and against `json` and `msgpack`, which nobody here wrote.

The vectors (``tests/wire``) are written by those two from plain objects, so they say what the protocol
says and not what the broker does. A vector that has to change is a change of the protocol.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.codecs import CODECS, JSON, MSGPACK, Codec
from broker.core.encoding import tick_to_json
from broker.core.errors import RequestError
from broker.core.history import HistoryLimits
from broker.core.messages import Ack, Message, Request, ServerMessage
from broker.core.requests import to_request
from broker.core.tape import Entry, Tape
from broker.core.ticks import Tick
from broker.core.topics import Topic, Topics
from tests import strategies
from tests.fakes import put

WIRE = Path(__file__).parent.parent / "wire"
NANOS = {"ts", "rts", "start"}


def vectors(name: str) -> list[Any]:
    return [pytest.param(item, id=item["name"]) for item in json.loads((WIRE / f"{name}.json").read_text())]


def with_nanos(plain: Any) -> Any:
    """Return JSON's objects with nanoseconds as MessagePack has them."""
    if isinstance(plain, list):
        return [with_nanos(item) for item in plain]
    if isinstance(plain, dict):
        return {key: int(item) if key in NANOS else with_nanos(item) for key, item in plain.items()}
    return plain


def entry_of(tick: Tick) -> Entry:
    packed = msgspec.msgpack.encode(tick)
    return Entry(b"", packed, Topic(tick.ch, tick.sym), None, tick.seq, 1, 0.0, tick, len(packed))


def encode(codec: Codec, message: Any) -> bytes:
    """Encode any message of the broker, as the outbox does."""
    if message["type"] not in ("update", "snapshot"):
        decoded: Message = msgspec.convert(with_nanos(message), ServerMessage)
        return codec.encode(decoded)
    ticks = codec.ticks([entry_of(msgspec.convert(tick, Tick)) for tick in with_nanos(message["data"])])
    if message["type"] == "update":
        return codec.update(message["cursor"], ticks)
    return codec.snapshot(message["sub"], message["cursor"], ticks, more=message.get("more", False))


@pytest.mark.parametrize("name", ["ticks", "messages", "batches", "requests"])
def test_vectors_say_the_same_in_both_codecs(name: str) -> None:
    items = json.loads((WIRE / f"{name}.json").read_text())
    assert len({item["name"] for item in items}) == len(items)
    for item in items:
        plain = json.loads(item["json"])
        packed = msgpack.unpackb(bytes.fromhex(item["msgpack"]))
        assert item["why"]
        assert list(plain) == list(packed)
        assert with_nanos(plain) == packed


@pytest.mark.parametrize("vector", vectors("ticks"))
def test_tick_is_written_as_its_vector_and_read_back(vector: dict[str, str]) -> None:
    packed = bytes.fromhex(vector["msgpack"])
    tick = msgspec.msgpack.decode(packed, type=Tick)
    assert tick_to_json(tick).decode() == vector["json"]
    assert MSGPACK.ticks([entry_of(tick)]) == [packed]
    assert msgspec.json.decode(vector["json"], type=Tick, strict=False) == tick
    assert JSON.repack([packed]) == [vector["json"].encode()]


@pytest.mark.parametrize("vector", [*vectors("messages"), *vectors("batches")])
def test_message_is_written_as_its_vector(vector: dict[str, str]) -> None:
    message = json.loads(vector["json"])
    assert encode(JSON, message).decode() == vector["json"]
    assert encode(MSGPACK, message).hex() == vector["msgpack"]


@pytest.mark.parametrize("vector", [*vectors("messages"), *vectors("batches")])
def test_message_is_read_back_into_its_type(vector: dict[str, str]) -> None:
    from_json = msgspec.json.decode(vector["json"], type=ServerMessage, strict=False)
    assert from_json == msgspec.msgpack.decode(bytes.fromhex(vector["msgpack"]), type=ServerMessage)


@pytest.mark.parametrize("vector", vectors("requests"))
def test_request_is_read_alike_from_both_codecs(vector: dict[str, str]) -> None:
    from_json = to_request(JSON.decode(vector["json"]))
    assert from_json == to_request(MSGPACK.decode(bytes.fromhex(vector["msgpack"])))
    assert from_json.__struct_config__.tag == json.loads(vector["json"])["op"]
    again = msgspec.json.decode(msgspec.json.encode(from_json), type=Request)
    assert again == from_json


def test_every_kind_of_message_and_request_has_a_vector() -> None:
    def kinds(name: str, field: str) -> set[str]:
        return {json.loads(item["json"])[field] for item in json.loads((WIRE / f"{name}.json").read_text())}

    def tags(union: Any) -> set[str]:
        return {str(kind.__struct_config__.tag) for kind in union.__args__}

    assert kinds("messages", "type") | kinds("batches", "type") == tags(ServerMessage)
    assert kinds("requests", "op") == tags(Request)
    assert kinds("ticks", "ch") == tags(Tick)


@given(strategies.TICKS)
def test_any_tick_reads_the_same_from_json_and_msgpack_live_and_replayed(tick: Tick) -> None:
    (entry,) = put(Tape("e1", Topics(), HistoryLimits()), [tick])
    (live,), (packed,) = JSON.ticks([entry]), MSGPACK.ticks([entry])
    assert JSON.repack([packed, live]) == [live, live]
    assert MSGPACK.repack([packed, live]) == [packed, packed]
    assert JSON.ticks([entry])[0] is live
    assert MSGPACK.ticks([entry])[0] is packed
    plain = msgpack.unpackb(packed)
    assert with_nanos(json.loads(live)) == plain
    assert list(json.loads(live)) == list(plain)
    assert list(plain)[:5] == ["ch", "sym", "seq", "ts", "rts"]
    assert all(isinstance(json.loads(live)[name], str) for name in NANOS & set(plain))


@given(st.lists(strategies.TICKS, max_size=20), strategies.TEXT, st.booleans(), st.integers(1, 2**40))
def test_any_batch_is_one_message_of_its_ticks(ticks: list[Tick], epoch: str, more: bool, sub: int) -> None:
    entries = [entry_of(tick) for tick in ticks]
    plain = [msgpack.unpackb(entry.packed) for entry in entries]
    epoch = "".join(letter for letter in epoch if letter.isalnum())
    for codec in CODECS:
        update = _read(codec, codec.update(f"{epoch}-1", codec.ticks(entries)))
        assert update == {"type": "update", "cursor": f"{epoch}-1", "data": plain}
        snapshot = _read(codec, codec.snapshot(sub, f"{epoch}-1", codec.ticks(entries), more=more))
        part = {"type": "snapshot", "sub": sub, "cursor": f"{epoch}-1", "data": plain}
        assert snapshot == ({**part, "more": True} if more else part)


def _read(codec: Codec, payload: bytes) -> Any:
    return msgpack.unpackb(payload) if codec.is_binary else with_nanos(json.loads(payload))


def test_arrays_of_every_size_have_the_right_head_in_msgpack() -> None:
    for count in (0, 15, 16, 65_535, 65_536):
        assert len(msgpack.unpackb(MSGPACK.update("e-1", [b"\xc0"] * count))["data"]) == count


def test_unset_fields_of_an_ack_are_left_out_in_both() -> None:
    for codec in CODECS:
        assert set(_read(codec, codec.encode(Ack(1, "auth")))) == {"type", "id", "op"}


def test_text_is_no_messagepack_and_bytes_may_be_json() -> None:
    with pytest.raises(RequestError, match="binary"):
        MSGPACK.decode("{}")
    assert JSON.decode(b'{"a":1}') == {"a": 1}
