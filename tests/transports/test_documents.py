"""The OpenAPI and AsyncAPI documents beside their standards, and beside what the broker does."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
import trio
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker import __version__
from broker.core import errors, messages
from broker.core.codecs import CODECS, JSON
from broker.core.errors import CloseReason, FrameError
from broker.core.history import HistoryLimits
from broker.core.router import Router
from broker.core.session import Session, SessionLimits
from broker.core.tape import Tape
from broker.core.topics import Topics
from broker.runtime.fanout import Fanout
from broker.runtime.ingest import Ingest
from broker.runtime.sessions import Sessions, SessionTimes
from broker.transports.documents import asyncapi, examples, openapi
from broker.transports.documents.descriptions import field_descriptions
from broker.transports.documents.schemas import STRUCTS, references
from broker.transports.http1 import parse_head
from broker.transports.http_stream import FORMATS, PARAMETERS, parse_query
from broker.transports.rest import Rest

ASYNCAPI, OPENAPI = asyncapi(), openapi()


def resolve(document: dict[str, Any], pointer: str) -> Any:
    assert pointer.startswith("#/"), f"{pointer} leads out of the document"
    found: Any = document
    for step in pointer[2:].split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def name_of(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def make_router() -> Router:
    topics = Topics()
    topics.declare("SIM", ["SIM:ACME"])
    return Router(topics, Tape("e0c4", topics, HistoryLimits()))


# ── the standards ────────────────────────────────────────────────────────────────────────────────


def test_openapi_document_is_valid_openapi_31() -> None:
    assert OPENAPI["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(OPENAPI).iter_errors()) == []


@pytest.mark.parametrize("document", [ASYNCAPI, OPENAPI], ids=["asyncapi", "openapi"])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 50
    for pointer in found:
        assert isinstance(resolve(document, pointer), dict), pointer


@pytest.mark.parametrize("document", [ASYNCAPI, OPENAPI], ids=["asyncapi", "openapi"])
def test_document_is_plain_json_names_the_version_and_no_host_of_its_own(document: dict[str, Any]) -> None:
    assert orjson.loads(orjson.dumps(document)) == document
    assert document["info"]["version"] == __version__
    assert "Version 1 of the protocol" in document["info"]["description"]
    if "openapi" in document:
        assert document["servers"] == [{"url": "/"}]
    else:
        assert {server["host"] for server in document["servers"].values()} == {"{host}"}


def test_asyncapi_document_has_the_shape_of_asyncapi_30() -> None:
    """By hand, after the specification's "Fixed Fields": no official validator comes without a network."""
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert set(ASYNCAPI) == {
        "asyncapi", "id", "info", "defaultContentType", "servers", "channels", "operations", "components",
    }  # fmt: skip
    for channel in ASYNCAPI["channels"].values():
        assert channel["address"].startswith("/v1/")
        assert channel["messages"]
        for server in channel["servers"]:
            assert set(resolve(ASYNCAPI, server["$ref"])) >= {"host", "protocol"}
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert_on_its_channel(operation)
        if "reply" in operation:
            assert_on_its_channel(operation["reply"])
    for message in ASYNCAPI["components"]["messages"].values():
        assert message["payload"]["$ref"].startswith("#/components/schemas/")
        assert message["examples"]


def assert_on_its_channel(operation: dict[str, Any]) -> None:
    """An operation's messages are references to those of its channel, not to the components."""
    for message in operation["messages"]:
        assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


# ── the protocol ─────────────────────────────────────────────────────────────────────────────────


def test_every_op_is_an_operation_that_the_broker_receives_and_answers() -> None:
    for op, kind in messages.REQUESTS.items():
        operation = ASYNCAPI["operations"][op]
        assert operation["action"] == "receive"
        [message] = operation["messages"]
        payload = resolve(ASYNCAPI, resolve(ASYNCAPI, message["$ref"])["$ref"])["payload"]
        assert payload == {"$ref": f"#/components/schemas/{kind.__name__}"}
        assert "error" in map(name_of, operation["reply"]["messages"])


def test_every_server_message_is_sent_in_some_operation() -> None:
    tags = {kind.__struct_config__.tag for kind in messages.ServerMessage.__args__}
    operations = ASYNCAPI["operations"].values()
    sent = {name_of(ref) for op in operations if op["action"] == "send" for ref in op["messages"]}
    replied = {name_of(ref) for op in operations if "reply" in op for ref in op["reply"]["messages"]}
    assert sent | replied == tags
    assert set(ASYNCAPI["channels"]["ws"]["messages"]) == tags | set(messages.REQUESTS)


def test_session_answers_every_example_with_a_message_that_the_document_promises() -> None:
    session = Session("s", make_router(), JSON, SessionLimits())
    session.welcome("test", 10.0)
    for op, example in examples.REQUESTS.items():
        promised = set(map(name_of, ASYNCAPI["operations"][op]["reply"]["messages"])) - {"error"}
        if op in ("unsubscribe", "modify"):
            session.handle(orjson.dumps(examples.REQUESTS["subscribe"]), 0.0, 1)
            example = {**example, "sub": max(session.subscriptions)}
        answer = orjson.loads(JSON.encode(session.handle(orjson.dumps(example), 0.0, 1)))
        assert {answer["type"]} == promised, answer
        assert answer["id"] == example["id"]


def test_table_of_close_codes_has_every_reason_that_goes_over_the_wire() -> None:
    text = ASYNCAPI["channels"]["ws"]["description"]
    reasons = [value for value in vars(errors).values() if isinstance(value, CloseReason)]
    assert len(reasons) > 10
    for reason in reasons:
        row = f"| {reason.code} | `{reason.name}` | {reason.text} |"
        assert (row in text) == (reason.code != 1006), reason


def test_handshake_offers_both_subprotocols() -> None:
    headers = ASYNCAPI["channels"]["ws"]["bindings"]["ws"]["headers"]["properties"]
    assert headers["Sec-WebSocket-Protocol"]["examples"] == [codec.subprotocol for codec in CODECS]


# ── the streams ──────────────────────────────────────────────────────────────────────────────────


def stream() -> dict[str, Any]:
    operation: dict[str, Any] = OPENAPI["paths"]["/v1/stream"]["get"]
    return operation


def test_stream_has_the_parameters_that_the_broker_reads_and_no_other() -> None:
    names = [parameter["name"] for parameter in stream()["parameters"] if parameter["in"] == "query"]
    assert sorted(names) == sorted(PARAMETERS)
    query = ASYNCAPI["operations"]["stream"]["bindings"]["http"]["query"]
    assert sorted(query["properties"]) == sorted(PARAMETERS)
    assert query["required"] == ["ch", "symbols"]


def edge_values(schema: dict[str, Any]) -> list[str]:
    """Return values at the bounds of a parameter's schema, as they stand in a query."""
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
        return [value for kind in kinds for value in edge_values(kind)]
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    if schema["type"] == "array":
        return schema["items"].get("enum", ["SIM:ACME"])  # type: ignore[no-any-return]
    if schema["type"] == "boolean":
        return ["true", "false"]
    if schema["type"] in ("integer", "number"):
        bounds = [str(schema[bound]) for bound in ("minimum", "maximum") if bound in schema]
        return bounds or ["1700000000000000000"]
    return ["ab-12"]


def read(query: str) -> list[messages.Subscribe]:
    return parse_query(parse_head(f"GET /v1/stream?{query} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), b""))[1]


@pytest.mark.parametrize("name", PARAMETERS)
def test_broker_reads_every_value_that_the_schema_of_a_parameter_allows_at_its_bounds(name: str) -> None:
    [schema] = [parameter["schema"] for parameter in stream()["parameters"] if parameter["name"] == name]
    values = edge_values(schema)
    assert values
    for value in values:
        base = {"ch": "trade", "symbols": "SIM:*", "replay": "tape"} | {name: value}
        requests = read("&".join(f"{key}={text}" for key, text in base.items()))
        assert len(requests) == 1


def test_last_event_id_is_documented_as_the_header_that_resumes() -> None:
    headers = [parameter["name"] for parameter in stream()["parameters"] if parameter["in"] == "header"]
    assert headers == ["Last-Event-ID"]


def test_stream_answers_in_both_formats_or_with_a_problem() -> None:
    responses = stream()["responses"]
    assert set(responses["200"]["content"]) == set(FORMATS.values())
    for status in ("400", "406", "429", "503"):
        assert set(responses[status]["content"]) == {"application/problem+json"}


def test_examples_of_both_formats_carry_the_same_messages() -> None:
    content = stream()["responses"]["200"]["content"]
    lines = content["application/x-ndjson"]["example"].splitlines()
    events = content["text/event-stream"]["example"].split("\n\n")[:-1]
    carried = [
        line.partition(": ")[2] for event in events for line in event.split("\n") if line[:5] == "data:"
    ]
    assert carried == lines
    assert [orjson.loads(line)["type"] for line in lines] == ["welcome", "ack", "snapshot", "update"]


# ── the pages ────────────────────────────────────────────────────────────────────────────────────


class NoUpstream:
    """Reaches no venue; nothing asks it to."""

    connect_ws = get_body = None


def make_rest(*recorders: Any) -> tuple[Rest, Sessions, Ingest]:
    """Return the pages of a broker that has had one tick of each channel."""
    router = make_router()
    fanout = Fanout(router, max_gap_s=0.01)
    ingest = Ingest(router.topics, fanout, upstream=NoUpstream(), time_ns=lambda: 1)  # type: ignore[arg-type]
    feed: Any = SimpleNamespace(venue="SIM", symbols=["SIM:ACME"], can_pause=False, stale_after_s=None)
    ingest.add("sim", "simulated", feed, random.Random(1))
    sessions = Sessions(
        fanout,
        most=9,
        most_per_address=0,
        limits=SessionLimits(),
        times=SessionTimes(),
        server="test",
        time_ns=lambda: 1,
    )
    sessions.closed["over_limit"] += 1
    fanout.publish(list(examples.TICKS))
    return Rest(router, ingest, sessions, recorders=recorders), sessions, ingest


async def get(rest: Rest, url: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=rest.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8765") as client:
        return await client.get(url)


def assert_documented(path: str, response: httpx.Response) -> Any:
    """Check status, content type, headers and body beside the document; return the body."""
    responses = OPENAPI["paths"][path]["get"]["responses"]
    answer = responses[str(response.status_code)]
    media = response.headers["content-type"].partition(";")[0]
    assert set(answer.get("headers", {})) <= {name.title() for name in response.headers}
    schema = {**answer["content"][media]["schema"], "components": OPENAPI["components"]}
    body = response.json()
    Draft202012Validator(schema).validate(body)
    if "$ref" in schema:
        assert set(body) <= set(resolve(OPENAPI, schema["$ref"])["properties"])
    return body


PAGES = [path for path, item in OPENAPI["paths"].items() if path != "/v1/stream" and "get" in item]


@pytest.mark.parametrize("path", PAGES)
async def test_page_answers_as_the_document_says(path: str) -> None:
    rest, _, ingest = make_rest()
    ingest.feeds[0].heard(trio.current_time(), 5)
    response = await get(rest, path)
    assert response.status_code == 200
    assert assert_documented(path, response)


async def test_feeds_page_shows_what_is_recorded_and_why_frames_are_refused() -> None:
    recorder = SimpleNamespace(
        name="sim", frames=9, ticks=8, events=17, lost=2, written_bytes=300, failure="full: no space"
    )
    rest, _, ingest = make_rest(recorder)
    for number in range(7):
        for _ in range(number + 1):
            ingest.feeds[0].refused(FrameError(str(number) * 999, kind=f"{'abcdefg'[number]}" * 999))
    body = assert_documented("/v1/feeds", await get(rest, "/v1/feeds"))
    [feed] = body["feeds"]
    assert feed["recording"] == {
        "frames": 9, "ticks": 8, "events": 17, "lost": 2, "bytes": 300, "failure": "full: no space",
    }  # fmt: skip
    assert feed["last_refusal"] == "6" * 500
    assert feed["refused_by"] == {
        letter * 160: count for letter, count in zip("gfedc", range(7, 2, -1), strict=True)
    }


async def test_feed_that_is_not_recorded_has_no_recording() -> None:
    rest, _, _ = make_rest()
    [feed] = (await get(rest, "/v1/feeds")).json()["feeds"]
    assert (feed["recording"], feed["refused_by"], feed["last_refusal"]) == (None, {}, None)


@pytest.mark.parametrize(
    "path", [path for path in PAGES if "400" in OPENAPI["paths"][path]["get"]["responses"]]
)
async def test_page_refuses_a_parameter_that_the_document_does_not_have(path: str) -> None:
    rest, _, _ = make_rest()
    response = await get(rest, f"{path}?colour=red")
    assert response.status_code == 400
    assert "colour" in assert_documented(path, response)["detail"]


async def test_snapshot_page_takes_the_parameters_of_the_document() -> None:
    rest, _, _ = make_rest()
    parameters = OPENAPI["paths"]["/v1/snapshot"]["get"]["parameters"]
    query = "&".join(f"{parameter['name']}={','.join(parameter['example'])}" for parameter in parameters)
    body = assert_documented("/v1/snapshot", await get(rest, f"/v1/snapshot?{query}"))
    assert [tick["ch"] for tick in body["data"]] == ["quote", "trade"]


async def test_readyz_of_a_broker_that_drains_is_the_documented_problem_with_its_reasons() -> None:
    rest, sessions, _ = make_rest()
    sessions.drain()
    response = await get(rest, "/readyz")
    assert response.status_code == 503
    body = assert_documented("/readyz", response)
    assert body["ready"] is False
    assert len(body["reasons"]) == 2


# ── the texts ────────────────────────────────────────────────────────────────────────────────────


def test_every_component_and_every_field_of_a_page_is_described() -> None:
    for document in (ASYNCAPI, OPENAPI):
        for name, schema in document["components"]["schemas"].items():
            assert schema["description"].strip(), name
    for name, kind in STRUCTS.items():
        if kind.__module__ == "broker.transports.pages":
            assert set(field_descriptions(kind)) == set(kind.__struct_fields__), name


def test_comments_and_attributes_of_the_source_become_descriptions() -> None:
    schemas = ASYNCAPI["components"]["schemas"]
    assert schemas["Trade"]["properties"]["count"]["description"].startswith("How many executions")
    assert schemas["Trade"]["description"].endswith("null where the venue does not say.")
    feed = OPENAPI["components"]["schemas"]["FeedInfo"]
    assert "Attributes" not in feed["description"]
    assert feed["properties"]["state"]["description"].endswith("`ended` has no more to give.")
