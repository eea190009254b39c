"""SSE and NDJSON, and what a bad query gets."""

from __future__ import annotations

import pytest
import trio

from broker.core.history import HistoryLimits
from tests.fakes import ACME, BETA, fat_book, open_broker, quote, trade
from tests.raw import ask, connect, get, request, stream

QUERY = "ch=quote&symbols=*"


async def test_first_block_carries_the_retry_and_later_ones_do_not(autojump_clock: object) -> None:
    async with open_broker() as broker, stream(broker.port, QUERY) as sse:
        welcome = await sse.event()
        assert welcome.event == "welcome"
        assert welcome.retry is not None
        assert 1000 <= welcome.retry <= 3000
        assert (await sse.event()).retry is None
        assert sse.headers["content-type"] == "text/event-stream"
        assert sse.headers["cache-control"] == "no-store, no-transform"
        assert sse.headers["x-accel-buffering"] == "no"


async def test_idle_sse_stream_gets_a_comment_every_fifteen_seconds(autojump_clock: object) -> None:
    async with open_broker() as broker, stream(broker.port, QUERY) as sse:
        for n in (1, 2, 3):
            while not (await sse.event()).is_comment:
                pass
            assert 15 * n <= trio.current_time() <= 16.1 * n


async def test_event_has_the_cursor_of_its_message_as_its_id(autojump_clock: object) -> None:
    async with open_broker() as broker, stream(broker.port, QUERY) as sse:
        await sse.receive_type("ack")
        broker.publish(quote())
        event = await sse.event()
        assert (event.event, event.id) == ("update", event.json["cursor"])


async def test_only_the_last_part_of_a_large_snapshot_has_an_id(autojump_clock: object) -> None:
    async with open_broker() as broker:
        broker.publish(*[fat_book(f"SIM:B{n}") for n in range(20)])
        async with stream(broker.port, "ch=book&symbols=*") as sse:
            await sse.receive_type("ack")
            parts = [await sse.event()]
            while parts[-1].json.get("more"):
                parts.append(await sse.event())
        assert len(parts) > 1
        assert [part.id is not None for part in parts] == [False] * (len(parts) - 1) + [True]
        assert sum(len(part.json["data"]) for part in parts) == 20


async def test_last_event_id_resumes_also_where_the_url_names_an_older_cursor(autojump_clock: object) -> None:
    async with open_broker() as broker:
        broker.publish(*[trade(ACME, n) for n in range(1, 11)])
        query = f"ch=trade&symbols={ACME}&cursor=e1-0"
        async with stream(broker.port, query, Last_Event_ID="e1-7") as sse:
            update = await sse.receive_type("update")
            assert [tick["seq"] for tick in update["data"]] == [8, 9, 10]


async def test_http_1_0_gets_the_stream_without_chunks(autojump_clock: object) -> None:
    async with open_broker() as broker, stream(broker.port, QUERY, version="1.0") as sse:
        assert "transfer-encoding" not in sse.headers
        assert (await sse.receive())["type"] == "welcome"


async def test_head_gets_the_headers_and_no_body(autojump_clock: object) -> None:
    async with open_broker() as broker, connect(broker.port) as raw:
        await raw.send(request("HEAD", f"/v1/stream?{QUERY}"))
        assert (await raw.head())[0] == 200
        assert await raw.rest() == b""
        await broker.settled(lambda: len(broker.sessions) == 0)


async def test_post_is_answered_405_and_says_what_is_possible(autojump_clock: object) -> None:
    async with open_broker() as broker:
        answer = await ask(broker.port, request("POST", f"/v1/stream?{QUERY}"))
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ("", "invalid_request", ["ch"]),
        ("ch=quote", "invalid_request", ["symbols"]),
        ("ch=qoute&symbols=*", "unknown_channel", ["ch", "qoute", "quote"]),
        ("ch=quote&symbols=NOPE:X", "unknown_symbol", ["symbols", "NOPE:X"]),
        ("ch=quote&symbols=NOPE:*", "unknown_venue", ["symbols", "NOPE:*"]),
        ("ch=quote&symbols=acme", "invalid_symbol", ["symbols", "acme"]),
        (QUERY + "&symbol=X", "unknown_field", ["symbol", "did you mean 'symbols'"]),
        (QUERY + "&format=xml", "invalid_request", ["format", "xml", "sse", "ndjson"]),
        (QUERY + "&format=sse&format=ndjson", "invalid_request", ["format", "twice"]),
        (QUERY + "&snapshot=maybe", "invalid_request", ["snapshot", "maybe", "true"]),
        (QUERY + "&max_delay_ms=soon", "invalid_request", ["max_delay_ms", "soon"]),
        (QUERY + "&mode=all", "invalid_request", ["mode", "all", "every"]),
        (QUERY + "&queue=10", "invalid_delivery", ["queue", "10", "every"]),
        ("ch=trade&symbols=*&max_rate=5", "invalid_delivery", ["max_rate", "5", "latest"]),
        ("ch=quote&symbols=*&max_rate=0", "invalid_request", ["max_rate", "0"]),
        ("ch=trade&symbols=*&queue=-1", "invalid_request", ["queue", "-1"]),
    ],
)
async def test_bad_query_is_a_problem_that_names_field_value_and_what_is_right(
    autojump_clock: object, query: str, code: str, named: list[str]
) -> None:
    async with open_broker() as broker:
        answer = await get(broker.port, f"/v1/stream?{query}")
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == code
        assert all(name in answer.json["detail"] for name in named), answer.json["detail"]
        assert len(broker.sessions) == 0
        assert broker.router.mailboxes == {}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "text/event-stream"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/event-stream;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("text/html, */*;q=0.1", "text/event-stream"),
        ("application/*", "application/x-ndjson"),
    ],
)
async def test_accept_decides_over_the_format(autojump_clock: object, accept: str, media: str) -> None:
    async with open_broker() as broker, stream(broker.port, QUERY, Accept=accept) as reader:
        assert reader.headers["content-type"] == media


async def test_accept_that_leaves_nothing_is_answered_406_unless_the_format_is_named(
    autojump_clock: object,
) -> None:
    async with open_broker() as broker:
        answer = await get(broker.port, f"/v1/stream?{QUERY}", Accept="image/png")
        assert (answer.status, answer.json["code"]) == (406, "not_acceptable")
        async with stream(broker.port, QUERY + "&format=ndjson", Accept="image/png") as reader:
            assert (await reader.receive())["type"] == "welcome"


async def test_what_only_one_channel_can_have_goes_to_that_channel(autojump_clock: object) -> None:
    query = f"ch=quote,trade&symbols={ACME},{BETA}&queue=7"
    async with open_broker() as broker, stream(broker.port, query) as reader:
        await reader.receive_type("welcome")
        acks = [await reader.receive_type("ack") for _ in range(2)]
        assert [(ack["ch"], ack["delivery"]["queue"]) for ack in acks] == [("quote", None), ("trade", 7)]


async def test_stalled_stream_with_gap_is_told_what_it_missed_once_it_reads_again() -> None:
    async with open_broker(write_deadline_s=60) as broker:
        query = "ch=trade&symbols=*&queue=50"
        async with stream(broker.port, query + "&format=ndjson", receive_buffer=4096) as reader:
            await reader.receive_type("ack")
            number = 0
            while not sum(box.dropped for box in broker.router.mailboxes):
                for _ in range(50):
                    number += 1
                    broker.publish(trade(ACME, number))
                await trio.lowlevel.checkpoint()
            accounted: list[int] = []
            while len(accounted) < number:
                message = await reader.receive_type("update", "gap")
                if message["type"] == "gap":
                    assert message["reason"] == "overflow"
                    accounted += range(message["from"], message["to"] + 1)
                else:
                    accounted += [tick["seq"] for tick in message["data"]]
            assert accounted == list(range(1, number + 1))


@pytest.mark.parametrize("format_", ["sse", "ndjson"])
async def test_gap_of_a_channel_stands_behind_the_ack_that_names_its_subscription(
    autojump_clock: object, format_: str
) -> None:
    async with open_broker(history=HistoryLimits(ticks=0)) as broker:
        broker.publish(quote(ACME), trade(ACME))
        query = f"ch=quote,trade&symbols={ACME}&cursor=e1-0&format={format_}"
        async with stream(broker.port, query) as reader:
            told: list[tuple[str, int]] = []
            while len(told) < 4:
                message = await reader.receive()
                if message["type"] in ("ack", "gap"):
                    told.append((message["type"], message["sub"]))
        assert told.index(("ack", 1)) < told.index(("gap", 1))
        assert told.index(("ack", 2)) < told.index(("gap", 2))
