"""WebSocket towards subscribers, frame by frame (RFC 6455)."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.session import SessionLimits
from broker.core.ticks import Trade
from tests.fakes import ACME, open_broker, quote, trade
from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ask,
    connect,
    frame,
    stream,
    upgrade,
    websocket,
)


def _trade(turn: int, n: int) -> Trade:
    return trade(ACME, turn * 1000 + n)


PING_REQUEST = b'{"op":"ping","id":1}'


async def test_fragments_with_a_ping_between_them_are_one_message(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        await ws.receive_type("welcome")
        await ws.send(TEXT, PING_REQUEST[:5], fin=False)
        await ws.send(PING, b"between")
        await ws.send(CONTINUATION, PING_REQUEST[5:9], fin=False)
        await ws.send(CONTINUATION, PING_REQUEST[9:])
        assert await ws.receive_frame() == (PONG, b"between")
        assert (await ws.receive_type("pong"))["id"] == 1


async def test_character_split_over_two_fragments_is_put_together(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        message = '{"op":"ping","id":1,"é":1}'.encode()
        cut = message.index(b"\xc3") + 1
        await ws.send(TEXT, message[:cut], fin=False)
        await ws.send(CONTINUATION, message[cut:])
        assert "é" in (await ws.receive_type("error"))["message"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, PING_REQUEST, masked=False), 1002),
        (frame(TEXT, PING_REQUEST, reserved=4), 1002),
        (frame(3, b""), 1002),
        (frame(11, b""), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
        (frame(CLOSE, (999).to_bytes(2, "big")), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(CLOSE, b""), 1005),
        (frame(CLOSE, (1000).to_bytes(2, "big") + b"bye"), 1000),
        (frame(CLOSE, (4999).to_bytes(2, "big")), 4999),
    ],
)
async def test_close_and_what_breaks_the_protocol_is_answered_with_the_right_code(
    autojump_clock: object, sent: bytes, code: int
) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws, websocket(broker.port) as other:
        await ws.raw.send(sent)
        assert (await ws.closed())[0] == code
        assert await ws.raw.rest() == b""
        await other.ask("ping")
        await other.receive_type("pong")


@pytest.mark.parametrize("parts", [1, 7])
async def test_message_over_the_limit_closes_with_1009(autojump_clock: object, parts: int) -> None:
    async with (
        open_broker(limits=SessionLimits(message_bytes=1024)) as broker,
        websocket(broker.port) as ws,
    ):
        for n in range(parts):
            opcode = CONTINUATION if n else TEXT
            await ws.send(opcode, b"x" * (1025 // parts + 1), fin=n == parts - 1)
        assert (await ws.receive_type("closing"))["code"] == 1009
        assert (await ws.closed())[0] == 1009


async def test_twenty_messages_that_make_no_sense_are_answered_and_the_next_closes_with_4400(
    autojump_clock: object,
) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        for n in range(21):
            await ws.send(TEXT, b"{" * n)
        for _ in range(21):
            error = await ws.receive_type("error", "closing")
            assert (error["type"], error["id"]) == ("error", None)
        assert (await ws.receive_type("closing"))["code"] == 4400
        assert (await ws.closed())[0] == 4400


async def test_request_behind_the_blank_line_of_the_upgrade_is_answered(autojump_clock: object) -> None:
    async with open_broker() as broker, connect(broker.port) as raw:
        await raw.send(upgrade() + frame(TEXT, PING_REQUEST))
        assert (await raw.head())[0] == 101
        assert b'"pong"' in await raw.until(b'"pong"')


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upgrade": ""}, 426, "upgrade_required"),
        ({"Connection": "keep-alive"}, 426, "upgrade_required"),
        ({"Sec_WebSocket_Version": "8"}, 426, "version_required"),
        ({"Sec_WebSocket_Key": ""}, 400, "bad_key"),
        ({"Sec_WebSocket_Key": "short"}, 400, "bad_key"),
        ({"Sec_WebSocket_Protocol": "mqtt, soap"}, 400, "unknown_subprotocol"),
    ],
)
async def test_handshake_that_is_wrong_is_refused_in_words(
    autojump_clock: object, headers: dict[str, str], status: int, code: str
) -> None:
    async with open_broker() as broker:
        answer = await ask(broker.port, upgrade(**headers))
        assert (answer.status, answer.json["code"]) == (status, code)


@pytest.mark.parametrize(
    ("listed", "chosen", "opcode"),
    [
        ("", None, TEXT),
        ("x, tapecast.v1.msgpack, tapecast.v1.json", "tapecast.v1.msgpack", BINARY),
        ("tapecast.v1.json", "tapecast.v1.json", TEXT),
    ],
)
async def test_first_subprotocol_that_is_known_is_chosen(
    autojump_clock: object, listed: str, chosen: str | None, opcode: int
) -> None:
    async with open_broker() as broker, websocket(broker.port, Sec_WebSocket_Protocol=listed) as ws:
        assert ws.headers.get("sec-websocket-protocol") == chosen
        assert (await ws.receive_frame())[0] == opcode


async def test_stalled_subscriber_is_evicted_at_the_write_deadline_and_nobody_else_notices() -> None:
    async with open_broker(write_deadline_s=0.3) as broker:
        async with websocket(broker.port, receive_buffer=4096) as stalled, websocket(broker.port) as healthy:
            for ws in (stalled, healthy):
                await ws.ask("subscribe", ch="trade", symbols=["*"], delivery={"queue": 100})
                await ws.receive_type("ack")
            got = 0
            number = 0
            while "write_deadline" not in broker.sessions.closed:
                number += 1
                batch = [_trade(number, n) for n in range(50)]
                broker.publish(*batch)
                while got < number * 50:
                    message = await healthy.receive_type("update", "gap")
                    assert message["type"] == "update"
                    got += len(message["data"])
                for sub in broker.router.mailboxes:
                    assert len(sub) <= 100 + 50
            assert broker.sessions.closed == {"write_deadline": 1}
            assert len(broker.sessions) == 1


async def test_echo_sends_back_what_came(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port, "/debug/echo") as ws:
        for opcode, payload in ((TEXT, "grüße".encode()), (BINARY, b"\xff" * 70_000), (TEXT, b"")):
            await ws.send(opcode, payload)
            assert await ws.receive_frame() == (opcode, payload)


async def test_resume_over_websocket_sse_and_ndjson_misses_and_doubles_nothing(
    autojump_clock: object,
) -> None:
    seen: list[int] = []
    cursor = ""
    async with open_broker() as broker:
        broker.publish(*(_trade(0, 0),))
        for turn, kind in enumerate(["ws", "sse", "ndjson", "ws", "sse"]):
            for n in range(30):
                broker.publish(_trade(turn, n))
            if kind == "ws":
                async with websocket(broker.port) as ws:
                    resume: dict[str, Any] = (
                        {"cursor": cursor} if cursor else {"cursor": broker.tape.cursor(1)}
                    )
                    await ws.ask("subscribe", ch="trade", symbols=[ACME], **resume)
                    broker.publish(*[_trade(turn, n) for n in range(20)])
                    while len(seen) < (turn + 1) * 50:
                        message = await ws.receive_type("update")
                        seen += [tick["seq"] for tick in message["data"]]
                        cursor = message["cursor"]
            else:
                last: dict[str, Any] = {"Last_Event_ID": cursor} if kind == "sse" else {}
                query = f"ch=trade&symbols={ACME}&format={kind}"
                query += f"&cursor={'e1-0' if kind == 'sse' else cursor}"
                async with stream(broker.port, query, **last) as reader:
                    await reader.receive_type("ack")
                    broker.publish(*[_trade(turn, n) for n in range(20)])
                    while len(seen) < (turn + 1) * 50:
                        message = await reader.receive_type("update")
                        seen += [tick["seq"] for tick in message["data"]]
                        cursor = message["cursor"]
    assert seen == list(range(2, 252))


@pytest.mark.parametrize("cursor", ["other-5", "e1-999999", "nonsense", "e1-"])
async def test_cursor_that_is_not_known_gives_a_gap_and_then_a_snapshot(
    autojump_clock: object, cursor: str
) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        broker.publish(quote(n=1), quote(n=2))
        await ws.ask("subscribe", ch="quote", symbols=[ACME], cursor=cursor)
        await ws.receive_type("ack")
        gap = await ws.receive()
        assert (gap["type"], gap["reason"], gap["from"]) == ("gap", "cursor_too_old", None)
        snapshot = await ws.receive()
        assert (snapshot["type"], snapshot["data"][0]["seq"]) == ("snapshot", 2)
