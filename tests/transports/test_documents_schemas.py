"""The documents' schemas beside what the codec writes and the broker reads, for every type of the wire."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import (  # type: ignore[import-untyped]
    Draft7Validator,
    Draft202012Validator,
    FormatChecker,
)
from msgspec import inspect

from broker.core import messages
from broker.core.codecs import JSON
from broker.core.encoding import tick_to_json
from broker.core.requests import to_request
from broker.core.ticks import TICK_TYPES, Tick
from broker.transports.documents import asyncapi, examples, openapi
from broker.transports.pages import SnapshotPage

ASYNCAPI, OPENAPI = asyncapi(), openapi()
SINGLE = list(messages.Message.__args__)
SERVER_MESSAGES = examples.server_messages()

#: Section 1 and 2 of the protocol, which the types have to meet: fields by `ch`, by `op`, by `type`.
COMMON = "ch sym seq ts rts "
PROTOCOL = {
    "Quote": COMMON + "bid bid_size ask ask_size",
    "Trade": COMMON + "price size side id count",
    "Book": COMMON + "kind bids asks",
    "Bar": COMMON + "interval start open high low close volume count final",
    "Status": COMMON + "state text",
    "Subscribe": "op id ch symbols delivery cursor snapshot",
    "Unsubscribe": "op id sub",
    "Modify": "op id sub delivery",
    "List": "op id",
    "Ping": "op id",
    "Auth": "op id token",
    "Welcome": "type session epoch heartbeat_s limits server",
    "Ack": "type id op sub ch symbols rejected delivery cursor ledger",
    "Snapshot": "type sub cursor data more",
    "Update": "type cursor data",
    "Gap": "type sub ch sym from to reason",
    "Notice": "type state sub queued limit",
    "Heartbeat": "type ts cursor ledger",
    "Ledger": "type id subscriptions ledger",
    "Pong": "type id ts",
    "Error": "type id code message retry",
    "Closing": "type code reason retry_after_ms ledger",
    "DeliveryRequest": "mode max_rate max_delay_ms queue overflow max_age_ms",
    "Delivery": "mode max_rate max_delay_ms queue overflow max_age_ms",
    "LedgerEntry": "sub offered delivered conflated dropped pending",
    "SubscriptionInfo": "sub ch symbols delivery",
    "Rejected": "symbol code",
}


def validator(document: dict[str, Any], name: str) -> Any:
    """Return what validates instances of one component, by the draft that the document's standard names."""
    kind = Draft7Validator if "asyncapi" in document else Draft202012Validator
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return kind(schema, format_checker=FormatChecker())


VALIDATORS = {name: validator(ASYNCAPI, name) for name in ASYNCAPI["components"]["schemas"]}
OPENAPI_VALIDATORS = {name: validator(OPENAPI, name) for name in OPENAPI["components"]["schemas"]}


def assert_valid(name: str, raw: bytes) -> None:
    instance = orjson.loads(raw)
    for validators in (VALIDATORS, OPENAPI_VALIDATORS):
        if name in validators:
            validators[name].validate(instance)
    unknown = set(instance) - set(ASYNCAPI["components"]["schemas"][name]["properties"])
    assert not unknown, f"{name} is sent with {unknown}, which the document does not know"


def instances(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Return a strategy for any value of a type, within its bounds."""
    match kind:
        case inspect.Metadata(type=inner):
            return instances(inner)
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=least, le=most):
            return st.integers(-(2**63) if least is None else least, 2**63 - 1 if most is None else most)
        case inspect.FloatType(ge=least, le=most):
            return st.floats(least, most, allow_nan=False, allow_infinity=False)
        case inspect.StrType(pattern=str(pattern), max_length=most):
            return st.from_regex(
                pattern.replace("$", r"\Z"), alphabet=st.characters(max_codepoint=127)
            ).filter(lambda text: len(text) <= (most or 99))
        case inspect.StrType(max_length=most):
            return st.text(st.characters(codec="utf-8"), max_size=min(most or 20, 20))
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.UnionType(types=kinds):
            return st.one_of(*map(instances, kinds))
        case inspect.ListType(item_type=item, min_length=least):
            return st.lists(instances(item), min_size=least or 0, max_size=3)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(instances, items))
        case inspect.StructType(cls=cls, fields=fields):
            given_ = {field.name: instances(field.type) for field in fields if field.required}
            maybe = {field.name: instances(field.type) for field in fields if not field.required}
            return st.fixed_dictionaries(given_, optional=maybe).map(lambda values: cls(**values))
    raise AssertionError(f"no strategy for {kind}")


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    return instances(inspect.type_info(kind))


@pytest.mark.parametrize("kind", TICK_TYPES, ids=lambda kind: kind.__name__)
def test_any_tick_as_the_codec_writes_it_meets_its_schema(kind: type[Tick]) -> None:
    @settings(max_examples=30, deadline=None)
    @given(any_of(kind))
    def check(tick: Tick) -> None:
        raw = tick_to_json(tick)
        assert_valid(kind.__name__, raw)
        assert msgspec.json.decode(raw, type=Tick, strict=False) == tick

    check()


@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: kind.__name__)
def test_any_message_as_the_codec_writes_it_meets_its_schema(kind: type[messages.Message]) -> None:
    @settings(max_examples=30, deadline=None)
    @given(any_of(kind))
    def check(message: messages.Message) -> None:
        raw = JSON.encode(message)
        assert_valid(kind.__name__, raw)
        assert msgspec.json.decode(raw, type=messages.ServerMessage, strict=False) == message

    check()


@settings(max_examples=30, deadline=None)
@given(st.lists(any_of(Tick), max_size=4), st.booleans())
def test_any_snapshot_or_update_meets_its_schema(ticks: list[Tick], more: bool) -> None:
    encoded = [tick_to_json(tick) for tick in ticks]
    snapshot, update = JSON.snapshot(3, "ab-7", encoded, more=more), JSON.update("ab-7", encoded)
    assert_valid("Snapshot", snapshot)
    assert_valid("Update", update)
    assert msgspec.json.decode(snapshot, type=messages.ServerMessage, strict=False) == messages.Snapshot(
        sub=3, cursor="ab-7", data=ticks, more=more
    )


@pytest.mark.parametrize("kind", messages.REQUESTS.values(), ids=lambda kind: kind.__name__)
def test_any_request_that_the_broker_can_read_meets_its_schema(kind: type[messages.Request]) -> None:
    @settings(max_examples=30, deadline=None)
    @given(any_of(kind))
    def check(request: messages.Request) -> None:
        raw = msgspec.json.encode(request)
        assert_valid(kind.__name__, raw)
        assert to_request(orjson.loads(raw)) == request

    check()


@pytest.mark.parametrize("name", PROTOCOL)
def test_schema_has_the_fields_of_the_protocol(name: str) -> None:
    schema = ASYNCAPI["components"]["schemas"][name]
    missing = set(PROTOCOL[name].split()) - set(schema["properties"])
    assert not missing, f"the protocol gives {name} {missing}, and its type has lost it"


def wrong_versions(instance: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    without = [
        (f"without {name}", {key: value for key, value in instance.items() if key != name})
        for name in schema["required"]
    ]
    return without + [(f"{name} is an object", {**instance, name: {"no": "such"}}) for name in instance]


EXAMPLES = {
    **{messages.REQUESTS[op].__name__: example for op, example in examples.REQUESTS.items()},
    **{kind.capitalize(): orjson.loads(raw) for kind, raw in SERVER_MESSAGES.items()},
    **{type(tick).__name__: orjson.loads(tick_to_json(tick)) for tick in examples.TICKS},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_schema_refuses_an_example_that_lacks_a_field_or_has_one_of_the_wrong_type(name: str) -> None:
    VALIDATORS[name].validate(EXAMPLES[name])
    for what, wrong in wrong_versions(EXAMPLES[name], ASYNCAPI["components"]["schemas"][name]):
        assert not VALIDATORS[name].is_valid(wrong), what


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Quote", "ts"), ("Quote", "rts"), ("Bar", "start"), ("Pong", "ts"), ("Heartbeat", "ts"),
    ],
)  # fmt: skip
def test_nanoseconds_are_text_in_json_and_a_number_is_refused(name: str, field: str) -> None:
    example = EXAMPLES[name]
    assert isinstance(example[field], str)
    assert not VALIDATORS[name].is_valid({**example, field: int(example[field])})


def test_number_in_the_place_of_a_price_is_refused() -> None:
    for field in ("bid", "ask_size"):
        assert not VALIDATORS["Quote"].is_valid({**EXAMPLES["Quote"], field: 101.25})


@pytest.mark.parametrize("op", messages.REQUESTS)
def test_request_with_a_field_that_is_not_known_is_refused_as_the_broker_does(op: str) -> None:
    name = messages.REQUESTS[op].__name__
    assert not VALIDATORS[name].is_valid({**examples.REQUESTS[op], "speed": 3})


def test_message_with_a_field_of_a_later_version_is_still_valid() -> None:
    for kind, raw in SERVER_MESSAGES.items():
        VALIDATORS[kind.capitalize()].validate({**orjson.loads(raw), "new_in_version_9": {}})


def test_every_example_matches_one_branch_of_the_union_of_its_direction() -> None:
    for name, example in EXAMPLES.items():
        union = {"op": "Request", "type": "ServerMessage", "ch": "Tick"}[next(iter(example))]
        VALIDATORS[union].validate(example)
        assert VALIDATORS[name].is_valid(example)


def test_snapshot_page_takes_any_tick() -> None:
    page = SnapshotPage("ab-7", list(examples.TICKS), [messages.Rejected("X", "invalid_symbol")])
    instance = orjson.loads(msgspec.json.encode(page))
    instance["data"] = [orjson.loads(tick_to_json(tick)) for tick in examples.TICKS]
    OPENAPI_VALIDATORS["SnapshotPage"].validate(instance)


def test_both_documents_have_the_same_schema_for_what_they_share() -> None:
    shared = set(VALIDATORS) & set(OPENAPI_VALIDATORS)
    assert {"Quote", "Snapshot", "Closing"} <= shared
    for name in shared - {"Tick", "ServerMessage"}:
        assert ASYNCAPI["components"]["schemas"][name] == OPENAPI["components"]["schemas"][name]


def test_schemas_are_well_formed_in_the_dialect_of_their_document() -> None:
    for schema in ASYNCAPI["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
        # Draft 7 would take it for an unknown keyword, and let any tuple pass.
        assert "prefixItems" not in orjson.dumps(schema).decode()
    for schema in OPENAPI["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_what_the_broker_always_sends_is_required_though_its_type_has_a_default() -> None:
    schemas = {**OPENAPI["components"]["schemas"], **ASYNCAPI["components"]["schemas"]}
    assert {"seq", "text"} <= set(schemas["Status"]["required"])
    assert schemas["Ready"]["required"] == ["ready", "reasons"]
    # Left out on purpose: the codec omits them, or a client may.
    assert "count" not in schemas["Trade"]["required"]
    assert "more" not in schemas["Snapshot"]["required"]
    assert schemas["DeliveryRequest"]["required"] == []
