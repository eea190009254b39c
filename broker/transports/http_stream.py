"""`GET /v1/stream`: SSE and NDJSON towards subscribers (protocol, section 3)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import trio

from broker.core import errors, messages
from broker.core.codecs import JSON
from broker.core.conflation import REPLACEABLE
from broker.core.delivery import DeliveryRequest
from broker.core.errors import CloseReason, RequestError
from broker.core.framing import LAST_CHUNK, NdjsonFraming, SseFraming
from broker.core.requests import convert, nearest, show
from broker.core.topics import check_channel
from broker.runtime.sessions import Sessions
from broker.runtime.stream import Stream
from broker.runtime.subscriber import Subscriber
from broker.transports.closing import answer, leave
from broker.transports.door import Connection
from broker.transports.http1 import Head, problem

DELIVERY_FIELDS = ("mode", "max_rate", "max_delay_ms", "queue", "overflow", "max_age_ms")
#: Parameter to field; the second and third go with the first.
REPLAY_FIELDS = {"replay": "recording", "speed": "speed", "from": "from"}
PARAMETERS = ("ch", "symbols", "format", "cursor", "snapshot", *DELIVERY_FIELDS, *REPLAY_FIELDS)
FORMATS = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


class _NotAcceptable(Exception):
    """The client accepts neither of our formats."""


def choose_format(head: Head, asked: str | None) -> str:
    """Return ``sse`` or ``ndjson``: by the parameter, else by `Accept`, else SSE.

    Raises:
        RequestError: the parameter names no format.
        _NotAcceptable: `Accept` leaves no format.
    """
    if asked is not None:
        if asked not in FORMATS:
            raise RequestError("invalid_request", f"format: {show(asked)} is not one of {', '.join(FORMATS)}")
        return asked
    accepted = head.tokens("accept")
    if not accepted:
        return "sse"
    weights = {name: _acceptance(accepted, media) for name, media in FORMATS.items()}
    best = max(weights, key=lambda name: weights[name])
    if not weights[best]:
        raise _NotAcceptable
    return best


def _acceptance(accepted: list[str], media: str) -> float:
    """Return how welcome a media type is; the most specific range that matches says so (RFC 9110, 12.5.1)."""
    ranges = {}
    for item in accepted:
        kind, _, parameters = item.partition(";")
        ranges[kind.strip().lower()] = _weight(parameters)
    for kind in (media, media.partition("/")[0] + "/*", "*/*"):
        if kind in ranges:
            return ranges[kind]
    return 0.0


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def parse_query(head: Head) -> tuple[dict[str, str], list[messages.Subscribe]]:
    """Return the parameters, and one request for each channel.

    Raises:
        RequestError: naming the parameter, its value and what is right.
    """
    given: dict[str, str] = {}
    for name, value in head.query:
        if name not in PARAMETERS:
            there = ", ".join(PARAMETERS)
            raise RequestError(
                "unknown_field",
                f"{show(name)} is a parameter that is not known here; there are {there}{nearest(name, PARAMETERS)}",
            )
        if name in ("ch", "symbols"):
            given[name] = f"{given[name]},{value}" if name in given else value
        elif name in given:
            raise RequestError("invalid_request", f"{name}: is given twice")
        else:
            given[name] = value
    channels = _items("ch", given)
    symbols = _items("symbols", given)
    return given, [
        messages.Subscribe(
            id=number,
            ch=check_channel(ch),
            symbols=symbols,
            delivery=_delivery(ch, channels, given),
            # An EventSource comes back with the URL it began with: what it has seen since counts.
            cursor=head.get("last-event-id") or given.get("cursor") or None,
            snapshot=_boolean("snapshot", given.get("snapshot")),
            replay=_replay(given),
        )
        for number, ch in enumerate(channels, 1)
    ]


def _items(name: str, given: dict[str, str]) -> list[str]:
    items = list(dict.fromkeys(part.strip() for part in given.get(name, "").split(",") if part.strip()))
    if not items:
        example = "quote,trade" if name == "ch" else "SIM:ACME,SIM:*"
        raise RequestError("invalid_request", f"{name}: is missing; e.g. {name}={example}")
    return items


def _boolean(name: str, value: str | None) -> bool | None:
    if value is None:
        return None
    if value.lower() in ("true", "1"):
        return True
    if value.lower() in ("false", "0"):
        return False
    raise RequestError("invalid_request", f"{name}: {show(value)} is not true or false")


def _replay(given: dict[str, str]) -> messages.ReplayRequest | None:
    """Return the recording to be played first, if one is named."""
    fields: dict[str, Any] = {field: given[name] for name, field in REPLAY_FIELDS.items() if name in given}
    if not fields:
        return None
    if "recording" not in fields:
        name = next(name for name in REPLAY_FIELDS if name in given)
        raise RequestError("invalid_request", f"{name}: {show(given[name])} goes with replay only")
    return convert(fields, messages.ReplayRequest, strict=False)


def _delivery(ch: str, channels: list[str], given: dict[str, str]) -> DeliveryRequest:
    """Return the contract asked for on a channel; what only ``every`` has goes to the channels that use it."""
    fields: dict[str, Any] = {name: given[name] for name in DELIVERY_FIELDS if name in given}
    if "mode" not in given and ch in REPLACEABLE and any(other not in REPLACEABLE for other in channels):
        fields.pop("queue", None)
        fields.pop("overflow", None)
    return convert(fields, DeliveryRequest, strict=False)


class HttpStreamTransport:
    """`/v1/stream`."""

    def __init__(self, sessions: Sessions, *, time_ns: Callable[[], int], rng: random.Random) -> None:
        """``rng`` draws the time after which an `EventSource` comes back, so that not all come at once."""
        self._sessions = sessions
        self._time_ns = time_ns
        self._rng = rng

    async def serve(self, connection: Connection) -> None:
        """Run one subscriber's stream, from the request to its end."""
        stream, head = connection.stream, connection.head
        if head.method not in ("GET", "HEAD"):
            text = f"{head.method} is not possible here; GET is"
            await answer(stream, problem(405, "method_not_allowed", text, [("Allow", "GET, HEAD")]))
            return
        try:
            given, requests = parse_query(head)
            format_ = choose_format(head, given.get("format"))
        except RequestError as exc:
            await answer(stream, problem(400, exc.code, str(exc)))
            return
        except _NotAcceptable:
            there = ", ".join(FORMATS.values())
            text = f"Accept: {head.get('accept')!r:.200} leaves none of {there}"
            await answer(stream, problem(406, "not_acceptable", text))
            return
        refusal = self._sessions.refusal(connection.address)
        if refusal is not None:
            await self._turn_away(stream, refusal)
            return
        await self._stream(connection, requests, format_)

    async def _stream(self, connection: Connection, requests: list[messages.Subscribe], format_: str) -> None:
        stream, head = connection.stream, connection.head
        # HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream.
        chunked = head.http_version != "1.0"
        framing: SseFraming | NdjsonFraming
        if format_ == "sse":
            framing = SseFraming(chunked=chunked, retry_ms=self._rng.randint(1000, 3000))
        else:
            framing = NdjsonFraming(chunked=chunked)
        subscriber, welcome = self._sessions.open(
            stream,
            JSON,
            framing,
            address=connection.address,
            finish=lambda reason: LAST_CHUNK if chunked else b"",
            keep_alive=lambda now, _: self._keep_alive(subscriber, framing, now),
        )
        try:
            message = subscriber.outbox.message
            told = [message(welcome)]
            try:
                now = trio.current_time()
                for request in requests:
                    # Before the next one is made: an ack brings the gaps of all subscriptions that there are.
                    told.append(message(subscriber.session.subscribe(request, now)))
            except RequestError as exc:
                subscriber.ended = errors.ASKED
                # Now, not when the client has read it: what is refused takes no room, and is no session's end.
                self._sessions.close(subscriber, is_kept=False)
                await answer(stream, problem(400, exc.code, str(exc)))
                return
            start = _head(FORMATS[format_], chunked=chunked)
            if head.method == "HEAD":
                subscriber.ended = errors.ASKED
                self._sessions.close(subscriber, is_kept=False)
                await answer(stream, start)
                return
            # One write: whoever waits for the headers has the first messages with them.
            stream.offer(start + b"".join(told))
            subscriber.wake()
            with subscriber.scope:
                while await stream.receive_some():
                    subscriber.last_heard = trio.current_time()
        finally:
            await leave(self._sessions, subscriber, stream)

    def _keep_alive(
        self, subscriber: Subscriber, framing: SseFraming | NdjsonFraming, now: float
    ) -> tuple[bytes, float]:
        """See `broker.runtime.sessions.KeepAlive`; without it a proxy takes an idle stream for a dead one."""
        pause_s = self._sessions.times.keepalive_s
        if not isinstance(framing, SseFraming) or subscriber.wire.is_blocked:
            return b"", now + pause_s
        due = subscriber.last_sent + pause_s
        if now < due:
            return b"", due
        subscriber.last_sent = now
        return framing.comment(), now + pause_s

    async def _turn_away(self, stream: Stream, reason: CloseReason) -> None:
        self._sessions.closed[reason.name] += 1
        status = 429 if reason is errors.TOO_MANY_SESSIONS else 503
        after = (
            None
            if reason.retry_after_ms is None
            else [("Retry-After", str(-(-reason.retry_after_ms // 1000)))]
        )
        await answer(stream, problem(status, reason.name, reason.text, after))


def _head(media: str, *, chunked: bool) -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        f"Content-Type: {media}",
        # Between us and the client nothing may hold or change the stream (nginx reads the last one).
        "Cache-Control: no-store, no-transform",
        "X-Accel-Buffering: no",
        "Access-Control-Allow-Origin: *",
        "Transfer-Encoding: chunked" if chunked else "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
