"""The REST pages and the page for people: an ASGI application that answers from memory, at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import msgspec
import orjson
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker import __version__
from broker.core.codecs import JSON
from broker.core.errors import RequestError
from broker.core.messages import Rejected
from broker.core.requests import nearest
from broker.core.router import Router
from broker.core.ticks import CHANNELS, is_symbol, venue_of
from broker.core.topics import Topic, check_channel, parse_pattern
from broker.runtime.feed_runner import FeedRunner
from broker.runtime.ingest import Ingest
from broker.runtime.raw_recording import RawRecorder
from broker.runtime.sessions import Sessions
from broker.transports import pages, session_pages
from broker.transports.admin import Admin, is_allowed
from broker.transports.documents import asyncapi, openapi
from broker.transports.http1 import problem_body

#: Rates are those of so many seconds.
RATE_S = 2.0
#: Of what a reason to refuse a frame says, in characters.
_MOST_REASON = 160
_MOST_REFUSAL = 500

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
#: The page takes nothing from elsewhere, and can't be framed; a browser holds it to that.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
_HEADERS = {"Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"}


class Rest:
    """Answers from the state of the broker.

    Attributes:
        app: the ASGI application.
    """

    def __init__(
        self,
        router: Router,
        ingest: Ingest,
        sessions: Sessions,
        *,
        recorders: Sequence[RawRecorder] = (),
        admin: Admin = "local",
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``recorders``: of feeds; ``admin`` may see the pages about single sessions; ``time_ns`` is wall time."""
        self._recorders = {recorder.name: recorder for recorder in recorders}
        self._admin = admin
        self._time_ns = time_ns
        self._router = router
        self._ingest = ingest
        self._sessions = sessions
        self._began = trio.current_time()
        self._rates = (0.0, 0.0)
        # Made now, not while sessions wait: they take some 20 ms.
        _openapi(), _asyncapi()
        handlers: dict[str, Callable[[Request], Response]] = {
            "/v1/symbols": self.symbols,
            "/v1/snapshot": self.snapshot,
            "/v1/feeds": self.feeds,
            "/v1/stats": self.stats,
            "/v1/sessions": self.sessions,
            "/healthz": self.health,
            "/readyz": self.ready,
            "/openapi.json": lambda request: _document(_openapi()),
            "/asyncapi.json": lambda request: _document(_asyncapi()),
            "/v1/stream": self.only_http1,
            "/v1/ws": self.only_http1,
            "/": lambda request: _file("index.html"),
            "/web/{name}": lambda request: _file(request.path_params["name"]),
        }
        self.app = Starlette(
            routes=[
                *(Route(path, _async(handler), methods=["GET"]) for path, handler in handlers.items()),
                Route("/v1/ingest", _async(self.only_http1), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_problem, RequestError: _request_problem},
        )

    async def measure(self) -> None:
        """Keep the rates up to date, for ever."""
        router = self._router
        before = (router.tape.offset, router.delivered)
        while True:
            await trio.sleep(RATE_S)
            now = (router.tape.offset, router.delivered)
            self._rates = ((now[0] - before[0]) / RATE_S, (now[1] - before[1]) / RATE_S)
            before = now

    def symbols(self, request: Request) -> Response:
        """Answer `/v1/symbols`."""
        _refuse_parameters(request, ())
        topics = self._router.topics
        infos = [pages.SymbolInfo(sym, venue_of(sym), topics.channels_of(sym)) for sym in topics.symbols]
        return _json(pages.Symbols(infos))

    def snapshot(self, request: Request) -> Response:
        """Answer `/v1/snapshot?ch=&symbols=`; both may name several, by commas, and default to all."""
        _refuse_parameters(request, ("ch", "symbols"))
        channels = [check_channel(ch) for ch in _items(request, "ch")] or list(CHANNELS)
        symbols = _items(request, "symbols") or ["*"]
        found: dict[Topic, None] = {}
        rejected: dict[str, Rejected] = {}
        for symbol in symbols:
            matched, refusal = self._topics(channels, symbol)
            found.update(dict.fromkeys(matched))
            if refusal is not None:
                rejected[symbol] = refusal
        tape = self._router.tape
        now = trio.current_time()
        entries = [entry for topic in found for entry in tape.snapshot(topic, now)]
        body = pages.snapshot_page(tape.cursor(), JSON.ticks(entries), list(rejected.values()))
        return Response(body, media_type="application/json", headers=_HEADERS)

    def _topics(self, channels: list[Any], symbol: str) -> tuple[list[Topic], Rejected | None]:
        topics = self._router.topics
        venue = parse_pattern(symbol)
        if venue is not None:
            if not topics.knows_venue(venue):
                return [], Rejected(symbol, "unknown_venue")
            return [topic for ch in channels for topic in topics.matching(ch, venue)], None
        if not is_symbol(symbol):
            return [], Rejected(symbol[:80], "invalid_symbol")
        if not topics.knows(symbol):
            return [], Rejected(symbol, "unknown_symbol")
        on = [topics.on_channel(ch) for ch in channels]
        return [by_symbol[symbol] for by_symbol in on if symbol in by_symbol], None

    def feeds(self, request: Request) -> Response:
        """Answer `/v1/feeds`."""
        _refuse_parameters(request, ())
        now = trio.current_time()
        infos = [_feed_info(runner, self._recorders.get(runner.name), now) for runner in self._ingest.feeds]
        return _json(pages.Feeds(infos))

    def stats(self, request: Request) -> Response:
        """Answer `/v1/stats`."""
        _refuse_parameters(request, ())
        tape, live = self._router.tape, self._sessions.live
        budget = self._sessions.budget
        waiting = budget.statistics()
        counts = pages.SessionCounts(
            total=len(self._sessions), ws=live["ws"], sse=live["sse"], ndjson=live["ndjson"]
        )
        return _json(
            pages.Stats(
                server=f"tapecast/{__version__}",
                epoch=tape.epoch,
                uptime_s=round(trio.current_time() - self._began, 3),
                sessions=counts,
                closed=dict(self._sessions.closed),
                ticks=tape.offset,
                deliveries=self._router.delivered,
                ticks_per_s=self._rates[0],
                deliveries_per_s=self._rates[1],
                tape=pages.TapeInfo(tape.offset, tape.history.kept_ticks, tape.history.kept_bytes),
                queues=pages.QueueInfo(
                    ticks=sum(map(len, self._router.mailboxes)),
                    bytes=waiting.bytes,
                    bytes_limit=budget.limits.total_bytes,
                    behind=waiting.sessions,
                ),
            )
        )

    def sessions(self, request: Request) -> Response:
        """Answer `/v1/sessions`: to an operator only, and to no page of another origin."""
        if not is_allowed(request, self._admin):
            detail = (
                f"/v1/sessions is for operators: [server] admin is {self._admin!r} here; "
                "'local' answers on this machine, at 127.0.0.1 or localhost, and not through a proxy"
            )
            return _problem(problem_body(403, "not_allowed", detail), 403)
        _refuse_parameters(request, pages.SessionQuery.__struct_fields__)
        query = session_pages.parse_query(request.query_params)
        page = session_pages.sessions_page(self._sessions, query, self._time_ns())
        return Response(
            msgspec.json.encode(page), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    def health(self, request: Request) -> Response:
        """Answer `/healthz`."""
        return _json(pages.Health())

    def ready(self, request: Request) -> Response:
        """Answer `/readyz`."""
        reasons = []
        if self._sessions.is_draining:
            reasons.append("the broker is draining")
        if not any(runner.state in ("live", "idle") for runner in self._ingest.feeds):
            states = ", ".join(f"{runner.name} is {runner.state}" for runner in self._ingest.feeds)
            reasons.append(f"no feed is live: {states or 'none is configured'}")
        if not reasons:
            return _json(pages.Ready())
        detail = "; ".join(reasons)
        body = problem_body(503, "not_ready", detail, ready=False, reasons=reasons)
        return _problem(body, 503, {"Retry-After": "1"})

    def only_http1(self, request: Request) -> Response:
        """Answer for what the front door serves itself, and only over HTTP/1.1."""
        text = f"{request.url.path} is served over HTTP/1.1 on this port"
        return _problem(problem_body(505, "http_version", text), 505)


def _feed_info(runner: FeedRunner, recorder: RawRecorder | None, now: float) -> pages.FeedInfo:
    last = runner.last_tick_at
    return pages.FeedInfo(
        name=runner.name,
        type=runner.kind,
        venue=runner.feed.venue,
        state=runner.state,
        ticks=runner.ticks,
        refused=runner.refusals,
        refused_by={kind[:_MOST_REASON]: count for kind, count in runner.refused_by.most_common(5)},
        last_refusal=runner.last_refusal[:_MOST_REFUSAL] or None,
        conflated=runner.conflated,
        dropped=runner.dropped,
        waiting=runner.waiting,
        gaps=runner.gaps,
        restarts=runner.restarts,
        failures=dict(runner.failures),
        seconds={state: round(seconds, 3) for state, seconds in runner.seconds_in(now).items()},
        last_error=runner.last_error or None,
        last_tick_age_s=None if last is None else round(now - last, 3),
        since=pages.utc_time(time.time_ns() - round((now - runner.since) * 1e9)),
        recording=None if recorder is None else _recording_info(recorder),
    )


def _recording_info(recorder: RawRecorder) -> pages.FeedRecordingInfo:
    return pages.FeedRecordingInfo(
        frames=recorder.frames,
        ticks=recorder.ticks,
        events=recorder.events,
        lost=recorder.lost,
        bytes=recorder.written_bytes,
        failure=recorder.failure or None,
    )


def _async(handler: Callable[[Request], Response]) -> Any:
    async def answer(request: Request) -> Response:
        return handler(request)

    return answer


def _items(request: Request, name: str) -> list[str]:
    given = ",".join(request.query_params.getlist(name))
    return list(dict.fromkeys(item.strip() for item in given.split(",") if item.strip()))


def _refuse_parameters(request: Request, known: tuple[str, ...]) -> None:
    for name in request.query_params:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "there are none"
            raise RequestError(
                "unknown_field",
                f"{name!r:.80} is a parameter that is not known here; {there}{nearest(name, known)}",
            )


def _json(page: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(page), media_type="application/json", headers=_HEADERS)


def _problem(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(
        body, status, media_type="application/problem+json", headers={**_HEADERS, **(headers or {})}
    )


def _document(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers=_HEADERS)


@cache
def _openapi() -> bytes:
    return orjson.dumps(openapi())


@cache
def _asyncapi() -> bytes:
    return orjson.dumps(asyncapi())


@cache
def _read(name: str) -> bytes | None:
    if "/" in name or name.startswith("."):
        return None
    path = resources.files("broker.web") / name
    return path.read_bytes() if path.is_file() else None


def _file(name: str) -> Response:
    kind = _TYPES.get(name.rpartition(".")[2])
    body = _read(name) if kind is not None else None
    if body is None:
        raise HTTPException(404)
    return Response(body, media_type=kind, headers=_PAGE_HEADERS)


# Not plain functions: Starlette would call those in a thread of their own.


async def _http_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    details = {
        404: f"there is nothing at {request.url.path!r:.200}",
        405: f"{request.method} is not possible here",
    }
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "http_error")
    body = problem_body(exc.status_code, code, details.get(exc.status_code, exc.detail))
    return _problem(body, exc.status_code, dict(exc.headers or {}))


async def _request_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)
    return _problem(problem_body(400, exc.code, str(exc)), 400)
