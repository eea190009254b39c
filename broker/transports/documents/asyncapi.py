"""The AsyncAPI 3.0 document: the WebSocket channel and the streams, as the broker sees them.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0 and the bindings for WebSockets (0.1.0)
and HTTP (0.3.0). An operation's action is the broker's: it *receives* requests and *sends* messages.
"""

from __future__ import annotations

from typing import Any

import orjson

from broker import __version__
from broker.core import errors
from broker.core.codecs import CODECS
from broker.core.errors import CloseReason
from broker.core.messages import REQUESTS
from broker.transports.documents import examples
from broker.transports.documents.descriptions import description, summary
from broker.transports.documents.parameters import query_schema
from broker.transports.documents.schemas import STRUCTS, components, ref

#: Where a request is not answered by `ack` (protocol, section 2).
ANSWERS = {"ping": "pong", "list": "ledger"}
#: Sent on the broker's own account, on both channels.
EVENTS = ("welcome", "snapshot", "update", "gap", "notice", "heartbeat", "closing")
#: What a stream carries: its subscriptions are acknowledged, and nothing can be asked for later.
STREAMED = ("welcome", "ack", *EVENTS[1:])
#: RFC 6455, section 7.4.1: never on the wire.
UNSENT_CODE = 1006

_INFO = """\
Live market data, fanned out: one feed in, any number of subscribers out, every tick accounted for.

Version 1 of the protocol. Clients ignore types and fields that they don't know; the broker refuses fields \
that it doesn't know, and names them. Prices and sizes are decimal text in every encoding. Nanoseconds are \
text in JSON, as described here, and integers in MessagePack; there is no other difference.

At any moment, for each subscription: `offered = delivered + conflated + dropped + pending`."""

_WEBSOCKET = """\
Subprotocols {subprotocols}: the first that the client lists and the broker knows; JSON where none is \
listed, HTTP 400 where only unknown ones are. Each request gets exactly one answer with its `id`. What can't \
be understood at all gets an `error` with `id` null.

Close codes:

| code | name | meaning | come back? |
|---|---|---|---|
{close_codes}"""

_STREAM = """\
The same messages over HTTP/1.1, always as JSON, without requests: the query says what is subscribed to. \
As server-sent events, `event:` is the message's type, `id:` its cursor where it has one, `data:` the \
message; as NDJSON each line is a message. `/openapi.json` has the request and its errors."""


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document. A new one each time, for the caller to keep; costs 10 ms or so."""
    encoded = {kind: orjson.loads(message) for kind, message in examples.server_messages().items()}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:tapecast:v1",
        "info": {
            "title": "Tapecast",
            "version": __version__,
            "description": _INFO,
            "license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {
            "ws": {
                "address": "/v1/ws",
                "title": "WebSocket",
                "description": _WEBSOCKET.format(
                    subprotocols=" and ".join(_codec_text(codec) for codec in CODECS),
                    close_codes="\n".join(_close_codes()),
                ),
                "servers": [{"$ref": "#/servers/websocket"}],
                "messages": _refs("#/components/messages", [*REQUESTS, *encoded]),
                "bindings": {"ws": _handshake()},
            },
            "stream": {
                "address": "/v1/stream",
                "title": "Server-sent events and NDJSON",
                "description": _STREAM,
                "servers": [{"$ref": "#/servers/http"}],
                "messages": _refs("#/components/messages", STREAMED),
            },
        },
        "operations": _operations(),
        "components": {
            "schemas": _without_discriminators(components(["Request", "ServerMessage"])),
            "messages": {
                **{op: _message(op, REQUESTS[op].__name__, examples.REQUESTS[op]) for op in REQUESTS},
                **{kind: _message(kind, kind.capitalize(), message) for kind, message in encoded.items()},
            },
        },
    }


def _servers() -> dict[str, Any]:
    # AsyncAPI knows no relative server as OpenAPI does; the document must hold wherever it is served.
    host = {"default": "localhost:8765", "description": "where this document was read from"}
    return {
        name: {
            "host": "{host}",
            "protocol": protocol,
            "description": f"`{protocol}s` where the broker has a certificate.",
            "variables": {"host": host},
        }
        for name, protocol in (("websocket", "ws"), ("http", "http"))
    }


def _operations() -> dict[str, Any]:
    requests = {
        op: {
            "action": "receive",
            "channel": {"$ref": "#/channels/ws"},
            "title": op,
            "summary": summary(kind),
            "messages": [_on_channel("ws", op)],
            "reply": {
                "channel": {"$ref": "#/channels/ws"},
                "messages": [_on_channel("ws", ANSWERS.get(op, "ack")), _on_channel("ws", "error")],
            },
        }
        for op, kind in REQUESTS.items()
    }
    return {
        **requests,
        "deliver": {
            "action": "send",
            "channel": {"$ref": "#/channels/ws"},
            "title": "deliver",
            "summary": "What the broker sends of itself; `error` for what can't be understood at all.",
            "messages": [_on_channel("ws", kind) for kind in (*EVENTS, "error")],
        },
        "stream": {
            "action": "send",
            "channel": {"$ref": "#/channels/stream"},
            "title": "stream",
            "summary": "What the broker sends to a stream.",
            "messages": [_on_channel("stream", kind) for kind in STREAMED],
            "bindings": {"http": {"method": "GET", "query": query_schema(), "bindingVersion": "0.3.0"}},
        },
    }


def _message(name: str, struct: str, example: dict[str, Any]) -> dict[str, Any]:
    kind = STRUCTS[struct]
    message = {
        "name": name,
        "title": name,
        "summary": summary(kind),
        "description": description(kind),
        "contentType": "application/json",
        "payload": ref(struct),
        "examples": [{"name": name, "payload": example}],
    }
    if "id" in kind.__struct_fields__:
        message["correlationId"] = {
            "description": "The request's number, chosen by the client.",
            "location": "$message.payload#/id",
        }
    return message


def _refs(prefix: str, names: Any) -> dict[str, Any]:
    return {name: {"$ref": f"{prefix}/{name}"} for name in names}


def _on_channel(channel: str, message: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}/messages/{message}"}


def _codec_text(codec: Any) -> str:
    return f"`{codec.subprotocol}` ({'binary' if codec.is_binary else 'text'} frames)"


def _handshake() -> dict[str, Any]:
    names = [codec.subprotocol for codec in CODECS]
    text = "One of them, or several in the order of preference."
    header = {"type": "string", "description": text, "examples": names, "default": names[0]}
    headers = {"type": "object", "properties": {"Sec-WebSocket-Protocol": header}}
    return {"method": "GET", "headers": headers, "bindingVersion": "0.1.0"}


def _close_codes() -> list[str]:
    """Return the rows of the table of close codes: every reason that a client can be told."""
    reasons = [value for value in vars(errors).values() if isinstance(value, CloseReason)]
    return [
        f"| {reason.code} | `{reason.name}` | {reason.text} | {_come_back(reason.retry_after_ms)} |"
        for reason in sorted(reasons, key=lambda reason: reason.code)
        if reason.code != UNSENT_CODE
    ]


def _come_back(retry_after_ms: int | None) -> str:
    if retry_after_ms is None:
        return "no"
    return f"after {retry_after_ms} ms" if retry_after_ms else "at will"


def _without_discriminators(node: Any) -> Any:
    """Leave out what only OpenAPI knows in this form; the constants of the tags say the same."""
    if isinstance(node, list):
        return [_without_discriminators(value) for value in node]
    if isinstance(node, dict):
        return {key: _without_discriminators(value) for key, value in node.items() if key != "discriminator"}
    return node
