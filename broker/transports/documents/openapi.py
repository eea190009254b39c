"""The OpenAPI 3.1 document: streams and pages.

Source: https://spec.openapis.org/oas/v3.1.1.html. The schema of one message of a stream stands in
``x-itemSchema``, which 3.2 calls ``itemSchema``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from msgspec import Struct

from broker import __version__
from broker.transports import pages
from broker.transports.documents import examples
from broker.transports.documents.descriptions import summary
from broker.transports.documents.parameters import (
    Parameter,
    session_parameters,
    stream_parameters,
    topic_parameters,
)
from broker.transports.documents.schemas import components, ref
from broker.transports.http1 import problem_body
from broker.transports.http_stream import FORMATS

PROBLEM = "application/problem+json"

_INFO = """\
Live market data, fanned out: one feed in, any number of subscribers out, every tick accounted for.

Version 1 of the protocol. The WebSocket at `/v1/ws` is described in `/asyncapi.json`. Clients ignore fields \
that they don't know; the broker refuses parameters that it doesn't know, and names them."""

_STREAM = """\
As server-sent events, `event:` is the message's type, `id:` its cursor where it has one, and `data:` the \
message in one line; a comment keeps an idle stream alive. As NDJSON each line is a message. There is no end \
but the client's leaving, or a `closing`."""

_INGEST = """\
Each line is one tick, without `seq` and `rts`, which are the broker's to give; `ts` may be left out, if it is now. \
A line that is no tick is refused, and the others go on; a book is refused from there to its next snapshot. The \
body may go on for as long as you like: it is read as fast as the ticks are taken. Over HTTP/1.1 only."""


@dataclass(frozen=True, slots=True)
class Page:
    """A path that answers with one JSON object.

    Attributes:
        answer: ``None``: an object that is described elsewhere.
        parameters: all that it knows, others are refused; ``None``: it looks at none.
        is_guarded: whether it is for operators only.
    """

    path: str
    name: str
    tag: str
    summary: str
    answer: type[Struct] | None
    parameters: tuple[Parameter, ...] | None = None
    is_guarded: bool = False


def _pages() -> tuple[Page, ...]:
    return (
        Page(
            "/v1/symbols",
            "symbols",
            "market data",
            "Instruments that can be subscribed to.",
            pages.Symbols,
            (),
        ),
        Page(
            "/v1/snapshot",
            "snapshot",
            "market data",
            "The latest ticks, and the cursor to go on from.",
            pages.SnapshotPage,
            tuple(topic_parameters(required=False)),
        ),
        Page("/v1/feeds", "feeds", "operation", "Feeds and how they are.", pages.Feeds, ()),
        Page("/v1/stats", "stats", "operation", "Sessions, rates, tape and queues.", pages.Stats, ()),
        Page(
            "/v1/sessions",
            "sessions",
            "operation",
            "Sessions one by one, also those that ended last; for operators.",
            pages.SessionsPage,
            tuple(session_parameters()),
            is_guarded=True,
        ),
        Page("/healthz", "healthz", "operation", "Whether the process is alive.", pages.Health),
        Page(
            "/readyz", "readyz", "operation", "Whether a feed is live and newcomers are let in.", pages.Ready
        ),
        Page("/openapi.json", "openapi", "documents", "This document.", None),
        Page("/asyncapi.json", "asyncapi", "documents", "The messages, as an AsyncAPI document.", None),
    )


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document. A new one each time, for the caller to keep; costs 10 ms or so."""
    known = _pages()
    answers = [page.answer.__name__ for page in known if page.answer is not None]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tapecast",
            "version": __version__,
            "description": _INFO,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "tags": [
            {"name": "market data", "description": "Ticks and instruments."},
            {"name": "operation", "description": "How the broker is."},
            {"name": "documents", "description": "What you are reading."},
        ],
        "paths": {
            "/v1/stream": {"get": _stream()},
            "/v1/ingest": {"post": _ingest()},
            **{page.path: {"get": _page(page)} for page in known},
        },
        "components": {
            "schemas": components([*answers, "ServerMessage", "IngestAnswer", "Problem", "NotReady"]),
            "securitySchemes": {"ingestKey": {"type": "http", "scheme": "bearer"}},
            "responses": {"Problem": _problem("Anything else.")},
        },
    }


def _page(page: Page) -> dict[str, Any]:
    schema = ref(page.answer.__name__) if page.answer is not None else {"type": "object"}
    text = summary(page.answer) if page.answer is not None else page.summary
    responses = {"200": {"description": text, "content": {"application/json": {"schema": schema}}}}
    if page.parameters is not None:
        responses["400"] = _bad_query()
    if page.is_guarded:
        responses["403"] = _problem("Not for whoever asks; `[server] admin` says for whom.")
    if page.answer is pages.Ready:
        responses["503"] = _retry_later(summary(pages.NotReady), schema="NotReady")
    return {
        "operationId": page.name,
        "tags": [page.tag],
        "summary": page.summary,
        **({"parameters": list(page.parameters)} if page.parameters else {}),
        "responses": {**responses, "default": {"$ref": "#/components/responses/Problem"}},
    }


def _stream() -> dict[str, Any]:
    return {
        "operationId": "stream",
        "tags": ["market data"],
        "summary": "Ticks as they come, until one side leaves.",
        "description": _STREAM,
        "parameters": stream_parameters(),
        "responses": {
            "200": {
                "description": "A stream of messages, `welcome` and an `ack` for each channel first.",
                "headers": {
                    name: {"schema": {"type": "string", "const": value}}
                    for name, value in (
                        ("Cache-Control", "no-store, no-transform"),
                        ("X-Accel-Buffering", "no"),
                    )
                },
                "content": {media: _format(name) for name, media in FORMATS.items()},
            },
            "400": _bad_query(),
            "406": _problem("`Accept` leaves neither format."),
            "429": _problem("Too many sessions for this address."),
            "503": _retry_later("No room for another session, or the broker is going down."),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }


def _ingest() -> dict[str, Any]:
    body = {
        "schema": {"type": "string"},
        "example": examples.lines(),
    }
    answer = {"application/json": {"schema": ref("IngestAnswer")}}
    return {
        "operationId": "ingest",
        "tags": ["market data"],
        "summary": "Ticks from another program, into the feed that the key is of.",
        "description": _INGEST,
        "security": [{"ingestKey": []}],
        "requestBody": {"required": True, "content": {"application/x-ndjson": body}},
        "responses": {
            "200": {
                "description": "The body was read to its end; some lines may be refused.",
                "content": answer,
            },
            "400": _problem("The body is not what the head says, or there are parameters."),
            "401": _problem("No key, or none that is known here."),
            "404": _problem("No feed takes ticks here."),
            "415": _problem("A content coding other than `identity`."),
            "422": _problem("None of the lines is a tick; `errors` has the first of them."),
            "429": _retry_later("Too many requests with this key at a time."),
            "503": _retry_later("The feed has not begun yet."),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }


def _format(name: str) -> dict[str, Any]:
    return {
        "schema": {"type": "string"},
        "x-itemSchema": ref("ServerMessage"),
        "example": examples.stream(name),
    }


def _bad_query() -> dict[str, Any]:
    answer = _problem("The query is refused; `detail` names the parameter and what would be right.")
    detail = "ch: 'quotes' is not a channel; there are quote, trade, book, bar, status"
    answer["content"][PROBLEM]["example"] = orjson.loads(problem_body(400, "unknown_channel", detail))
    return answer


def _problem(text: str, *, schema: str = "Problem") -> dict[str, Any]:
    return {"description": text, "content": {PROBLEM: {"schema": ref(schema)}}}


def _retry_later(text: str, *, schema: str = "Problem") -> dict[str, Any]:
    after = {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}
    return {**_problem(text, schema=schema), "headers": {"Retry-After": after}}
