"""Frames, events, lines and chunks, read back by wsproto, h11 and a parser after the standard's text."""

from __future__ import annotations

import json
from typing import Any

import h11
import pytest
import wsproto
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from broker.core.codecs import JSON
from broker.core.framing import (
    LAST_CHUNK,
    NdjsonFraming,
    SseFraming,
    WebSocketFraming,
)
from broker.core.messages import Error


def read_frames(data: bytes) -> list[str | bytes]:
    """Return the messages that a client made with wsproto reads."""
    connection = Connection(ConnectionType.CLIENT)
    connection.receive_data(data)
    messages: list[str | bytes] = []
    parts: list[Any] = []
    for event in connection.events():
        assert isinstance(event, TextMessage | BytesMessage)
        parts.append(event.data)
        if event.message_finished:
            messages.append("".join(parts) if isinstance(event, TextMessage) else b"".join(map(bytes, parts)))
            parts = []
    assert not parts
    assert connection.state is wsproto.connection.ConnectionState.OPEN
    return messages


def read_events(data: str) -> tuple[list[dict[str, str]], str | None]:
    """Return events (type, id, data) and the retry, by the rules of WHATWG HTML, section 9.2.6."""
    events, retry, last_id = [], None, ""
    fields: dict[str, Any] = {"data": []}
    for line in data.split("\n")[:-1]:
        if not line:
            if fields["data"]:
                event = {"event": fields.get("event", "message"), "id": last_id}
                events.append({**event, "data": "\n".join(fields["data"])})
            fields = {"data": []}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                fields["data"].append(value)
            elif name == "id":
                last_id = value
            elif name == "retry":
                retry = value
            else:
                fields[name] = value
    return events, retry


def read_body(data: bytes) -> bytes:
    """Return the body that h11 reads of a chunked answer."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.Response)
    assert client.trailing_data == (b"", False)
    return body


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20])
@pytest.mark.parametrize("is_binary", [False, True], ids=["text", "binary"])
def test_frame_of_any_length_is_read_back(length: int, is_binary: bool) -> None:
    framing = WebSocketFraming(is_binary=is_binary)
    payload = b"x" * length
    expected = payload if is_binary else payload.decode()
    assert read_frames(framing.batch(framing.frame("update", payload))) == [expected]


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_several_frames_in_one_write_are_several_messages(payloads: list[bytes]) -> None:
    framing = WebSocketFraming(is_binary=True)
    framed = b"".join(framing.frame("update", payload) for payload in payloads)
    assert read_frames(framing.batch(framed)) == payloads


@given(
    st.lists(
        st.tuples(st.sampled_from(["update", "gap"]), st.text(max_size=40), st.sampled_from(["", "e1-7"])),
        max_size=8,
    )
)
def test_events_are_read_back_with_type_id_and_data(messages: list[tuple[str, str, str]]) -> None:
    framing = SseFraming(chunked=False, retry_ms=1500)
    written = b""
    expected, last_id = [], ""
    for kind, text, cursor in messages:
        payload = JSON.encode(Error(1, "x", "".join(c for c in text if not "\ud800" <= c <= "\udfff"), False))
        written += framing.batch(framing.frame(kind, payload, cursor)) + framing.comment()
        last_id = cursor or last_id
        expected.append({"event": kind, "id": last_id, "data": payload.decode()})
    events, retry = read_events(written.decode())
    assert events == expected
    assert retry == ("1500" if messages else None)
    assert written.count(b"retry:") <= 1


def test_first_block_carries_the_retry() -> None:
    framing = SseFraming(chunked=False, retry_ms=1500)
    assert framing.frame("welcome", b"{}") == b"retry: 1500\nevent: welcome\ndata: {}\n\n"
    assert framing.frame("gap", b"{}", "e1-7") == b"event: gap\nid: e1-7\ndata: {}\n\n"


def test_lines_are_one_message_each() -> None:
    framing = NdjsonFraming(chunked=False)
    payloads = [JSON.encode(Error(n, "x", "a\nb\u2028", False)) for n in range(3)]
    written = framing.batch(b"".join(framing.frame("error", payload) for payload in payloads))
    assert written.endswith(b"\n")
    assert [json.loads(line)["id"] for line in written.decode().split("\n")[:-1]] == [0, 1, 2]


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_chunks_are_read_back_and_an_empty_write_does_not_end_the_body(writes: list[bytes]) -> None:
    for framing in (NdjsonFraming(chunked=True), SseFraming(chunked=True, retry_ms=1)):
        written = b"".join(map(framing.batch, writes))
        assert read_body(written + LAST_CHUNK) == b"".join(writes)


def test_comment_is_a_chunk_of_its_own() -> None:
    assert read_body(SseFraming(chunked=True, retry_ms=1).comment() + LAST_CHUNK) == b":\n\n"
