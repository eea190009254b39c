"""`POST /v1/ingest`: from another program's lines to a subscriber, and what is refused on the way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

import feeds.ingest
from broker.app import Serving, serve
from broker.config import load_config
from broker.core.errors import ConfigError
from broker.core.lines import MOST_LINE_BYTES
from broker.transports.documents import openapi
from feeds.line_intake import MOST_ERRORS
from tests.raw import websocket

KEY, OTHER_KEY = "a-key-of-sixteen-characters", "another-key-of-as-many"
AUTH = {"Authorization": f"Bearer {KEY}"}
DESK = {"type": "ingest", "name": "desk", "venue": "DESK", "key": KEY}
POOL = {"type": "ingest", "name": "pool", "venue": "POOL", "key": OTHER_KEY, "symbols": ["A"]}


def quote(n: int = 1, sym: str = "DESK:A", **changes: Any) -> dict[str, Any]:
    fields = {"ch": "quote", "sym": sym, "bid": str(n), "bid_size": "1", "ask": None, "ask_size": None}
    return {**fields, **changes}


def book(kind: str, sym: str = "DESK:A", **changes: Any) -> dict[str, Any]:
    return {"ch": "book", "sym": sym, "kind": kind, "bids": [["1", "1"]], "asks": [], **changes}


def ndjson(*lines: dict[str, Any] | str) -> bytes:
    return b"".join((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n" for line in lines)


@asynccontextmanager
async def serving(*tables: dict[str, Any]) -> AsyncIterator[Serving]:
    """Run a broker with these feeds on a free port."""
    config = load_config(
        None, {"TAPECAST_FEEDS": json.dumps(tables)}, {"server.port": 0, "server.drain_s": 0}
    )
    stop = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[Serving]) -> None:
                await serve(config, stop=stop, task_status=task_status)

            yield await nursery.start(run)
            stop.set()


@asynccontextmanager
async def desk(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run a broker with two feeds for requests; yield a client of it, which shows the key of one."""
    async with serving({**DESK, **changes}, POOL) as where:
        async with httpx.AsyncClient(base_url=where.url, headers=AUTH, timeout=30) as http:
            yield http


async def post(http: httpx.AsyncClient, *lines: dict[str, Any] | str, **headers: str) -> httpx.Response:
    return await http.post("/v1/ingest", content=ndjson(*lines), headers=headers)


async def snapshot(http: httpx.AsyncClient, ch: str, sym: str = "DESK:A") -> list[dict[str, Any]]:
    """Return the newest ticks of a topic."""
    found: list[dict[str, Any]] = (await http.get(f"/v1/snapshot?ch={ch}&symbols={sym}")).json()["data"]
    return found


async def feed(http: httpx.AsyncClient, name: str = "desk") -> dict[str, Any]:
    return {each["name"]: each for each in (await http.get("/v1/feeds")).json()["feeds"]}[name]


async def settled(http: httpx.AsyncClient, ticks: int) -> dict[str, Any]:
    """Wait until the feed's ticks are on the tape, and return the feed."""
    while (shown := await feed(http))["ticks"] < ticks:  # noqa: ASYNC110  # it is another process's, for all we know
        await trio.sleep(0.01)
    return shown


# ── what is taken ────────────────────────────────────────────────────────────────────────────────


async def test_lines_reach_a_subscriber_with_numbers_of_the_broker() -> None:
    async with desk() as http:
        answer = await post(http, quote(1, seq=77, rts="1"), quote(2, ts="1700000000000000000"))
        assert answer.status_code == 200
        assert answer.json() == {"venue": "DESK", "accepted": 2, "refused": 0, "errors": []}
        shown = await settled(http, 2)
        [tick] = await snapshot(http, "quote")
        assert (tick["bid"], tick["seq"], tick["ts"]) == ("2", 2, "1700000000000000000")
        assert int(tick["rts"]) > 1_700_000_000_000_000_000
        assert (shown["state"], shown["type"]) == ("live", "ingest")


async def test_body_in_chunks_is_read_while_it_is_sent() -> None:
    async with desk() as http:
        send, receive = trio.open_memory_channel[bytes](0)

        async def body() -> AsyncIterator[bytes]:
            async for chunk in receive:
                yield chunk

        async with trio.open_nursery() as nursery:
            answers: list[httpx.Response] = []

            async def request() -> None:
                answers.append(await http.post("/v1/ingest", content=body()))

            nursery.start_soon(request)
            line = ndjson(quote(1))
            await send.send(line[:20])
            await send.send(line[20:] + ndjson(quote(2)))
            assert (await settled(http, 2))["ticks"] == 2, "before the request has ended"
            await send.send(json.dumps(quote(3)).encode())
            await send.aclose()
        assert answers[0].json()["accepted"] == 3


async def test_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async with serving(DESK) as where:
        stream = await trio.open_tcp_stream(where.host, where.port)
        body = ndjson(quote())
        head = f"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: bearer {KEY}\r\nContent-Length: {len(body)}\r\n"
        await stream.send_all(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(body)
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await stream.aclose()


async def test_requests_of_two_keys_go_to_two_feeds() -> None:
    async with desk() as http:
        await post(http, quote())
        other = {"authorization": f"Bearer {OTHER_KEY}"}
        assert (await post(http, quote(sym="POOL:A"), **other)).json()["venue"] == "POOL"
        answer = await post(http, quote(sym="DESK:A"), quote(sym="POOL:B"), **other)
        assert [error["field"] for error in answer.json()["errors"]] == ["sym", "sym"]


async def test_empty_request_is_a_way_to_try_the_key() -> None:
    async with desk() as http:
        assert (await http.post("/v1/ingest")).json()["accepted"] == 0


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


async def test_bad_lines_are_named_and_the_others_go_on() -> None:
    async with desk() as http:
        answer = await post(http, quote(1), "hello", quote(1, bid=1.5), "", quote(2))
        assert answer.status_code == 200
        body = answer.json()
        assert (body["accepted"], body["refused"]) == (2, 2)
        assert [(error["line"], error["field"]) for error in body["errors"]] == [(2, ""), (3, "bid")]
        assert body["errors"][1]["problem"].startswith(
            "1.5 is not right: it must be a decimal number as text"
        )
        assert (await settled(http, 2))["refused"] == 2


async def test_request_without_one_good_line_is_a_problem_with_the_first_errors() -> None:
    async with desk() as http:
        answer = await post(http, *["x"] * 50)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert (body["code"], body["accepted"], body["refused"]) == ("no_ticks", 0, 50)
        assert len(body["errors"]) == MOST_ERRORS
        assert body["detail"].startswith("none of the 50 lines is a tick: line 1: 'x' is not JSON")


async def test_line_too_long_is_refused_and_the_next_one_is_read() -> None:
    async with desk() as http:
        answer = await post(http, "x" * (MOST_LINE_BYTES + 1), quote())
        assert answer.json()["accepted"] == 1
        assert answer.json()["errors"][0]["problem"].startswith("it is too long")


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "Bearer",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
        "Bearer \u00e4\u00e4",
    ],
)
async def test_request_without_the_key_is_refused_and_told_what_is_needed(shown: str) -> None:
    async with serving(DESK) as where, httpx.AsyncClient(base_url=where.url) as http:
        headers = {"Authorization": shown.encode("latin-1")} if shown else None
        answer = await http.post("/v1/ingest", content=ndjson(quote()), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "not_authenticated"
        assert KEY not in answer.text
        assert (await feed(http))["ticks"] == 0


async def test_broker_without_such_a_feed_says_so() -> None:
    async with serving({"type": "simulated"}) as where, httpx.AsyncClient(base_url=where.url) as http:
        answer = await http.post("/v1/ingest", headers=AUTH)
        assert answer.status_code == 404
        assert "no feed of the type ingest" in answer.json()["detail"]


async def test_other_methods_codings_and_parameters_are_refused() -> None:
    async with desk() as http:
        got = await http.get("/v1/ingest")
        assert (got.status_code, got.headers["allow"]) == (405, "POST")
        packed = await post(http, quote(), **{"content-encoding": "gzip"})
        assert packed.status_code == 415
        asked = await http.post("/v1/ingest?venue=DESK", content=ndjson(quote()))
        assert (asked.status_code, asked.json()["code"]) == (400, "unknown_field")
        assert (await feed(http))["ticks"] == 0


async def test_requests_above_the_bound_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds.ingest, "MOST_REQUESTS", 1)
    async with desk() as http:
        begun, go_on = trio.Event(), trio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield ndjson(quote())
            begun.set()
            await go_on.wait()

        async def request() -> None:
            assert (await http.post("/v1/ingest", content=body())).status_code == 200

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await begun.wait()
            await settled(http, 1)
            refused = await post(http, quote())
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            go_on.set()
        assert (await post(http, quote())).status_code == 200


async def send_raw(where: Serving, data: bytes) -> bytes:
    """Send bytes, say that no more come, and return all of the answer."""
    stream = await trio.open_tcp_stream(where.host, where.port)
    await stream.send_all(data)
    await stream.send_eof()
    answer = b"".join([bytes(chunk) async for chunk in stream])
    await stream.aclose()
    return answer


async def test_body_that_breaks_off_is_told_and_its_books_are_given_up() -> None:
    async with serving(DESK) as where, httpx.AsyncClient(base_url=where.url, headers=AUTH) as http:
        assert (await post(http, book("snapshot", "DESK:B"))).status_code == 200
        whole = ndjson(book("snapshot"), book("delta"))
        head = f"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9999\r\n\r\n"
        answer = await send_raw(where, head.encode() + whole + b'{"ch": "bo')
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"the body is not what the head says" in answer
        refused = await post(http, book("delta"))
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "kind")
        assert (await post(http, book("delta", "DESK:B"))).status_code == 200, "that was another request's"
        assert (await settled(http, 4))["ticks"] == 4


async def test_subscribers_hear_of_a_body_that_broke_off_at_once() -> None:
    head = (
        f"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 999\r\n\r\n"
    )
    async with serving(DESK) as where, httpx.AsyncClient(base_url=where.url) as http:
        stream = await trio.open_tcp_stream(where.host, where.port)
        await stream.send_all(head.encode() + ndjson(book("snapshot")))
        await settled(http, 1)
        async with websocket(where.port) as ws:
            await ws.ask("subscribe", ch="book", symbols=["DESK:A"])
            await ws.receive_type("snapshot")
            await stream.aclose()
            gap = await ws.receive_type("gap")
            assert (gap["sym"], gap["reason"]) == ("DESK:A", "feed_reset")
        # What the book is now, nobody knows.
        assert await snapshot(http, "book") == []


async def test_nonsense_in_chunked_framing_is_told() -> None:
    async with serving(DESK) as where:
        head = f"POST /v1/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
        assert (await send_raw(where, head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello")).startswith(
            b"HTTP/1.1 400 "
        )


# ── the configuration ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["short", "", "with a blank in it anyway", "\u00e4" * 20, "x" * 257])
def test_weak_key_is_refused_and_never_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"TAPECAST_FEEDS": json.dumps([{**DESK, "key": key}])}, {})
    [line] = caught.value.problems
    assert line == "TAPECAST_FEEDS[0].key: must be 16 to 256 letters, digits and signs, without blanks"


def test_two_feeds_with_one_key_are_refused() -> None:
    with pytest.raises(ConfigError, match='"pool" and "desk" have the same key'):
        load_config(None, {"TAPECAST_FEEDS": json.dumps([DESK, {**POOL, "key": KEY}])}, {})


def test_key_is_not_shown_where_the_configuration_is() -> None:
    config = load_config(None, {"TAPECAST_FEEDS": json.dumps([DESK])}, {})
    assert KEY not in repr(config)
    assert KEY not in json.dumps(config.feeds[0].model_dump(mode="json"))


def test_document_describes_what_is_answered() -> None:
    operation = openapi()["paths"]["/v1/ingest"]["post"]
    assert {"200", "400", "401", "404", "415", "422", "429", "503"} <= set(operation["responses"])
    assert operation["security"] == [{"ingestKey": []}]
