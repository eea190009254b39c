"""What the Autobahn suite asks of a WebSocket server, the cases that matter most, frame by frame.

Over `/debug/echo`: the connection code of `/v1/ws`, with nothing of the session in the way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from broker.runtime.stream import Stream
from broker.transports.websocket import ECHO_BYTES, Peer
from tests.fakes import open_broker
from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Raw,
    RawWebSocket,
    connect,
    frame,
    upgrade,
    websocket,
)

GREEK = "κόσμε".encode()
#: U+D800 and U+110000: what a decoder that is too kind lets through.
SURROGATE, BEYOND = b"\xed\xa0\x80", b"\xf4\x90\x80\x80"


@asynccontextmanager
async def echo() -> AsyncIterator[RawWebSocket]:
    """Open a WebSocket to the echo of a broker that does nothing else."""
    with trio.fail_after(60):
        async with open_broker() as broker, websocket(broker.port, "/debug/echo") as ws:
            yield ws


def big_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame of 64 KiB or more. Its mask is 0: `frame` masks byte by byte, seconds for 16 MiB."""
    return bytes((0x80 | opcode, 0xFF)) + len(payload).to_bytes(8, "big") + bytes(4) + payload


async def refused_with(ws: RawWebSocket) -> int:
    """Return the code of the close that must come next, and see that the connection ends behind it."""
    opcode, payload = await ws.receive_frame()
    assert opcode == CLOSE, (opcode, payload)
    assert await ws.raw.rest() == b""
    payload[2:].decode()
    return int.from_bytes(payload[:2], "big")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 128, 65535, 65536])
async def test_a_message_of_any_length_comes_back_as_it_was(opcode: int, length: int) -> None:
    payload = b"*" * length if opcode == TEXT else os.urandom(length)
    async with echo() as ws:
        for _ in range(2):
            await ws.raw.send((frame if length < 65536 else big_frame)(opcode, payload))
            assert await ws.receive_frame() == (opcode, payload)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_empty_fragments_make_an_empty_message(opcode: int) -> None:
    async with echo() as ws:
        await ws.send(opcode, fin=False)
        await ws.send(CONTINUATION, fin=False)
        await ws.send(CONTINUATION)
        assert await ws.receive_frame() == (opcode, b"")


async def test_16_mib_come_back_and_one_byte_more_is_refused_with_1009() -> None:
    payload = b"z" * ECHO_BYTES
    async with echo() as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.raw.send, big_frame(BINARY, payload))
            opcode, echoed = await ws.receive_frame()
        assert opcode == BINARY
        # Not in one expression with the message: pytest would explain 16 MiB that differ.
        is_same = echoed == payload
        assert is_same
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.raw.send, big_frame(BINARY, payload + b"z"))
            assert await refused_with(ws) == 1009


async def test_the_limit_counts_bytes_across_fragments_not_characters() -> None:
    async with peer_of_a_message_of(len(GREEK)) as (ws, messages):
        await ws.send(TEXT, GREEK[:3], fin=False)
        await ws.send(CONTINUATION, GREEK[3:])
        await ws.send(TEXT, GREEK + b"!")
        await ws.raw.rest()
    assert messages == [GREEK.decode()]


async def test_frames_that_arrive_byte_by_byte_are_put_together() -> None:
    sent = frame(TEXT, GREEK) + frame(PING, b"?") + frame(BINARY, b"\xff" * 200) + frame(CLOSE, b"\x03\xe8")
    async with echo() as ws:
        for at in range(len(sent)):
            await ws.raw.send(sent[at : at + 1])
            await trio.testing.wait_all_tasks_blocked()
        assert [await ws.receive_frame() for _ in range(4)] == [
            (TEXT, GREEK),
            (PONG, b"?"),
            (BINARY, b"\xff" * 200),
            (CLOSE, b"\x03\xe8"),
        ]


async def test_frames_in_one_write_with_the_upgrade_are_answered() -> None:
    with trio.fail_after(60):
        async with open_broker() as broker, connect(broker.port) as raw:
            await raw.send(upgrade("/debug/echo") + frame(TEXT, b"early") + frame(PING, b"?"))
            status, headers = await raw.head()
            assert status == 101
            ws = RawWebSocket(raw, headers)
            assert [await ws.receive_frame() for _ in range(2)] == [(TEXT, b"early"), (PONG, b"?")]


async def test_a_ping_in_mid_message_is_answered_at_once_and_the_message_comes_whole() -> None:
    async with echo() as ws:
        await ws.send(TEXT, b"one ", fin=False)
        await ws.send(PING, b"\0" * 125)
        assert await ws.receive_frame() == (PONG, b"\0" * 125)
        await ws.send(CONTINUATION, b"two ", fin=False)
        await ws.send(PING)
        assert await ws.receive_frame() == (PONG, b"")
        await ws.send(CONTINUATION, b"three")
        assert await ws.receive_frame() == (TEXT, b"one two three")


async def test_pongs_that_nobody_asked_for_are_ignored() -> None:
    async with echo() as ws:
        await ws.send(PONG, b"unasked")
        await ws.send(PING, b"?")
        assert await ws.receive_frame() == (PONG, b"?")


@pytest.mark.parametrize(
    "sent",
    [
        *(
            pytest.param(frame(TEXT, b"x", reserved=bits), id=f"reserved bits {bits:03b}")
            for bits in range(1, 8)
        ),
        pytest.param(frame(PING, b"x", reserved=4), id="reserved bit on a ping"),
        *(
            pytest.param(frame(code, b"x"), id=f"opcode {code}")
            for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ),
        pytest.param(frame(PING, b"x", fin=False), id="fragmented ping"),
        pytest.param(frame(PONG, b"x", fin=False), id="fragmented pong"),
        pytest.param(frame(CLOSE, b"", fin=False), id="fragmented close"),
        pytest.param(frame(PING, b"x" * 126), id="ping over 125 bytes"),
        pytest.param(frame(CLOSE, b"\x03\xe8" + b"x" * 124), id="close over 125 bytes"),
        pytest.param(frame(CONTINUATION, b"x"), id="continuation of nothing"),
        pytest.param(frame(CONTINUATION, b"x", fin=False), id="unfinished continuation of nothing"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), id="text within a message"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), id="binary within a message"),
        pytest.param(frame(TEXT, b"x", masked=False), id="unmasked"),
        pytest.param(b"\x82\xfe\x00\x7d\0\0\0\0", id="length in more bytes than it takes"),
        pytest.param(b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0", id="length with the highest bit"),
    ],
)
async def test_what_is_not_valid_framing_is_refused_with_1002(sent: bytes) -> None:
    async with echo() as ws:
        await ws.send(TEXT, b"valid")
        await ws.raw.send(sent)
        assert await ws.receive_frame() == (TEXT, b"valid")
        assert await refused_with(ws) == 1002


@pytest.mark.parametrize("wrong", [SURROGATE, BEYOND, b"\xc0\xaf", b"\xff", b"\x80", GREEK[:-1]])
async def test_text_that_is_not_utf_8_is_refused_with_1007(wrong: bytes) -> None:
    async with echo() as ws:
        await ws.send(TEXT, GREEK + wrong)
        assert await refused_with(ws) == 1007


@pytest.mark.parametrize("wrong", [SURROGATE, BEYOND[:2]])
async def test_text_is_refused_as_soon_as_it_can_not_become_utf_8(wrong: bytes) -> None:
    # The frame and its message are left unfinished.
    async with echo() as ws:
        await ws.raw.send(frame(TEXT, GREEK + wrong + b"edited", fin=False)[: -len(b"edited")])
        assert await refused_with(ws) == 1007


async def test_code_points_may_be_cut_anywhere_between_fragments() -> None:
    text = "κόσμε \U0010ffff \U00024b62".encode()
    async with echo() as ws:
        await ws.send(TEXT, text[:1], fin=False)
        for at in range(1, len(text)):
            await ws.send(CONTINUATION, text[at : at + 1], fin=False)
        await ws.send(CONTINUATION)
        assert await ws.receive_frame() == (TEXT, text)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
async def test_a_close_is_answered_with_its_own_code(code: int) -> None:
    async with echo() as ws:
        await ws.send(CLOSE, code.to_bytes(2, "big") + GREEK)
        assert await refused_with(ws) == code


async def test_a_close_without_a_code_is_answered_with_none() -> None:
    async with echo() as ws:
        await ws.send(CLOSE)
        assert await ws.receive_frame() == (CLOSE, b"")
        assert await ws.raw.rest() == b""


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
async def test_a_close_code_that_must_not_be_sent_is_refused_with_1002(code: int) -> None:
    async with echo() as ws:
        await ws.send(CLOSE, code.to_bytes(2, "big"))
        assert await refused_with(ws) == 1002


async def test_a_close_of_one_byte_is_refused_with_1002() -> None:
    async with echo() as ws:
        await ws.send(CLOSE, b"\x03")
        assert await refused_with(ws) == 1002


async def test_a_close_reason_that_is_not_utf_8_is_refused_with_1007() -> None:
    async with echo() as ws:
        await ws.send(CLOSE, b"\x03\xe8" + SURROGATE)
        assert await refused_with(ws) == 1007


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(frame(TEXT, b"late"), id="message"),
        pytest.param(frame(PING, b"late"), id="ping"),
        pytest.param(frame(CLOSE, b"\x03\xe9"), id="another close"),
        pytest.param(frame(3, b"late"), id="unknown opcode"),
    ],
)
async def test_whatever_comes_after_a_close_is_ignored(late: bytes) -> None:
    async with echo() as ws:
        await ws.raw.send(frame(CLOSE, b"\x03\xe8") + late)
        assert await refused_with(ws) == 1000


async def test_a_message_that_a_close_interrupts_is_not_echoed() -> None:
    async with echo() as ws:
        await ws.send(TEXT, b"fragment", fin=False)
        await ws.send(CLOSE, b"\x03\xe8")
        await ws.send(CONTINUATION, b"fragment")
        assert await refused_with(ws) == 1000


@asynccontextmanager
async def peer_of_a_message_of(most: int) -> AsyncIterator[tuple[RawWebSocket, list[str | bytes]]]:
    """Return the far end of a `Peer` with a limit of so many bytes, and the messages that it takes."""
    messages: list[str | bytes] = []

    async def keep(message: str | bytes) -> None:
        messages.append(message)

    ours, theirs = socket.socketpair()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            stream = Stream(ours, write_deadline_s=5, spawn=nursery.start_soon)

            async def run() -> None:
                await Peer(stream, b"", message_bytes=most).run(keep, lambda: None)
                await stream.finish(0)

            nursery.start_soon(run)
            with trio.socket.from_stdlib_socket(theirs) as sock:
                yield RawWebSocket(Raw(sock), {}), messages
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(frame(PONG), id="pongs"),
        pytest.param(frame(TEXT), id="messages"),
        pytest.param(frame(TEXT, fin=False) + frame(CONTINUATION), id="fragments"),
    ],
)
async def test_others_have_their_turn_while_one_read_brings_thousands_of_frames(unit: bytes) -> None:
    turns = 0
    ours, theirs = socket.socketpair()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def ignore(message: str | bytes) -> None:
        pass

    with theirs, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            stream = Stream(ours, write_deadline_s=5, spawn=nursery.start_soon)
            nursery.start_soon(others)
            theirs.shutdown(socket.SHUT_WR)
            await Peer(stream, unit * 5000, message_bytes=100).run(ignore, lambda: None)
            stream.abort()
            nursery.cancel_scope.cancel()
    assert turns > 50
