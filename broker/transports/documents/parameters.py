"""The query parameters of the HTTP side, for both documents."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from broker.core.delivery import DeliveryRequest
from broker.core.messages import ReplayRequest
from broker.core.ticks import CHANNELS
from broker.transports.documents.descriptions import field_descriptions
from broker.transports.documents.schemas import components
from broker.transports.http_stream import FORMATS, REPLAY_FIELDS
from broker.transports.pages import SessionQuery

Parameter: TypeAlias = dict[str, Any]


def topic_parameters(*, required: bool) -> list[Parameter]:
    """Return what chooses topics: ``ch`` and ``symbols``; all of them where none is required."""
    otherwise = "" if required else "; all, if left out"
    channel = {"type": "string", "enum": list(CHANNELS)}
    return [
        _list("ch", channel, f"Channels, separated by commas{otherwise}.", ["quote", "trade"], required),
        _list(
            "symbols",
            {"type": "string"},
            f"Symbols, `VENUE:*` or `*`, separated by commas{otherwise}.",
            ["SIM:ACME", "SIM:*"],
            required,
        ),
    ]


def _list(name: str, items: dict[str, Any], text: str, example: list[str], required: bool) -> Parameter:
    return {
        **_query(name, {"type": "array", "items": items, "minItems": 1}, text),
        "required": required,
        "style": "form",
        "explode": False,
        "example": example,
    }


def stream_parameters() -> list[Parameter]:
    """Return the parameters of ``/v1/stream``, its header for resuming included."""
    formats = {"type": "string", "enum": list(FORMATS)}
    boolean = {"type": "boolean"}
    return [
        *topic_parameters(required=True),
        _query("format", formats, "Decides over `Accept`; `sse` where neither is given."),
        _query("cursor", {"type": "string"}, "Resume behind it; decides over `Last-Event-ID`."),
        _query(
            "snapshot", boolean, "Begin with a snapshot; the default is true without a cursor, else false."
        ),
        *_of_fields(DeliveryRequest),
        *_replay_parameters(),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Resume behind this cursor, as a reconnecting `EventSource` does.",
            "schema": {"type": "string"},
        },
    ]


def session_parameters() -> list[Parameter]:
    """Return the parameters of ``/v1/sessions``."""
    return _of_fields(SessionQuery)


def query_schema() -> dict[str, Any]:
    """Return the query of ``/v1/stream`` as one object, each value as it is before it is put in a URL."""
    parameters = [parameter for parameter in stream_parameters() if parameter["in"] == "query"]
    return {
        "type": "object",
        "properties": {
            parameter["name"]: {"description": parameter["description"], **parameter["schema"]}
            for parameter in parameters
        },
        "required": [parameter["name"] for parameter in parameters if parameter.get("required")],
        "additionalProperties": False,
    }


def _query(name: str, schema: dict[str, Any], text: str) -> Parameter:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _of_fields(kind: type[Struct]) -> list[Parameter]:
    """Return a parameter for each field of a struct."""
    texts = field_descriptions(kind)
    properties = components([kind.__name__])[kind.__name__]["properties"]
    return [
        _query(name, _not_null(schema), texts.get(name, f"As `delivery.{name}` over a WebSocket."))
        for name, schema in properties.items()
    ]


def _replay_parameters() -> list[Parameter]:
    """Return a parameter for each field of a replay, by the name that it has in a query."""
    texts = field_descriptions(ReplayRequest)
    properties = components(["ReplayRequest"])["ReplayRequest"]["properties"]
    attributes = {field.encode_name: field.name for field in msgspec.structs.fields(ReplayRequest)}
    return [
        _query(name, _not_null(properties[field]), texts[attributes[field]])
        for name, field in REPLAY_FIELDS.items()
    ]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Leave out null, which a query says by leaving out the parameter."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "description")}
    if rest.get("default", ...) is None:
        del rest["default"]
    if not kinds:
        return rest
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}
