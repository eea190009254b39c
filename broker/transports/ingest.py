"""`POST /v1/ingest`: ticks as NDJSON from other programs, with a key, into the feed that the key is of.

The body is read as fast as the broker takes the ticks, and never kept: a request may go on for as long as its
sender likes. A request without a good key is refused before a byte of its body is read.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import h11
import msgspec

from broker.core.tick_lines import LineError
from broker.transports.closing import answer
from broker.transports.door import Connection
from broker.transports.http1 import MOST_HEAD_BYTES, Head, problem, response
from broker.transports.pages import IngestAnswer, RefusedLine


class Intake(Protocol):
    """One request's lines; `feeds.line_intake` has it."""

    accepted: int
    refused: int
    errors: list[LineError]

    async def take(self, data: bytes) -> None: ...

    async def end(self) -> None: ...

    def abandon(self) -> None: ...


class Inlet(Protocol):
    """A feed that takes requests; `feeds.ingest` has it."""

    key: str
    venue: str

    @property
    def is_running(self) -> bool: ...

    def begin(self) -> Intake | None: ...

    def finish(self) -> None: ...


class IngestTransport:
    """`/v1/ingest`."""

    def __init__(self, inlets: Sequence[Inlet]) -> None:
        """``inlets``: the feeds that take ticks; each has a key of its own."""
        self._inlets = [(_digest(inlet.key), inlet) for inlet in inlets]

    async def serve(self, connection: Connection) -> None:
        """Take one request's ticks, and answer what became of them."""
        stream, head = connection.stream, connection.head
        inlet = self._inlet_of(head)
        refusal = self._refusal(head, inlet)
        if inlet is None or refusal is not None:
            assert refusal is not None
            await answer(stream, refusal)
            return
        intake = inlet.begin()
        if intake is None:
            text = f"too many requests of this key's feed ({inlet.venue}) are under way"
            await answer(stream, problem(429, "too_many_requests", text, [("Retry-After", "1")]))
            return
        is_whole = False
        try:
            fault = await _read_body(connection, intake)
            is_whole = not fault
        finally:
            if not is_whole:
                intake.abandon()
            inlet.finish()
        await answer(stream, problem(400, "bad_body", fault) if fault else _account(inlet, intake))

    def _inlet_of(self, head: Head) -> Inlet | None:
        """Return the feed of the key that the request shows; takes as long for every key."""
        scheme, _, token = (head.get("authorization") or "").partition(" ")
        shown = _digest(token.strip())
        found = [inlet for digest, inlet in self._inlets if hmac.compare_digest(digest, shown)]
        return found[0] if found and scheme.lower() == "bearer" else None

    def _refusal(self, head: Head, inlet: Inlet | None) -> bytes | None:
        """Return the answer to a request that is refused for its head."""
        if not self._inlets:
            text = "this broker takes no ticks over HTTP: it has no feed of the type ingest"
            return problem(404, "not_found", text)
        if head.method != "POST":
            text = f"{head.method} is not possible here; POST is"
            return problem(405, "method_not_allowed", text, [("Allow", "POST")])
        if inlet is None:
            text = "Authorization: Bearer KEY is needed, with the key of a feed of the type ingest"
            why = "is missing" if head.get("authorization") is None else "shows no key that is known here"
            challenge = [("WWW-Authenticate", 'Bearer realm="ingest"')]
            return problem(401, "not_authenticated", f"{text}; it {why}", challenge)
        if head.query:
            text = f"{head.query[0][0]!r:.80} is a parameter that is not known here; there are none"
            return problem(400, "unknown_field", text)
        coding = head.get("content-encoding")
        if coding is not None and coding.lower() != "identity":
            text = f"Content-Encoding: {coding!r:.80} is not understood; send the lines as they are"
            return problem(415, "unsupported_encoding", text, [("Accept-Encoding", "identity")])
        if not inlet.is_running:
            return problem(503, "not_ready", "the feed has not begun yet", [("Retry-After", "1")])
        return None


async def _read_body(connection: Connection, intake: Intake) -> str:
    """Hand the body on, piece by piece; return what is wrong with it as HTTP, empty if nothing is."""
    stream = connection.stream
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
    parser.receive_data(connection.head.raw + connection.head.rest)
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                await intake.take(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                await intake.end()
                return ""
            elif event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue:
                    go_on = parser.send(h11.InformationalResponse(status_code=100, headers=[]))
                    stream.offer(go_on or b"")
                parser.receive_data(await stream.receive_some())
    except h11.RemoteProtocolError as exc:
        return f"the body is not what the head says: {exc}"


def _account(inlet: Inlet, intake: Intake) -> bytes:
    """Return the answer to a request that was read to its end."""
    errors = [RefusedLine(error.line, error.field, error.problem) for error in intake.errors]
    counts = IngestAnswer(inlet.venue, intake.accepted, intake.refused, errors)
    if intake.refused and not intake.accepted:
        text = f"none of the {intake.refused} lines is a tick: {intake.errors[0]}"
        return problem(422, "no_ticks", text, **msgspec.to_builtins(counts))
    return response(200, msgspec.json.encode(counts), "application/json")


def _digest(key: str) -> bytes:
    # All of one length, so that comparing them tells nothing about a key's.
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
