"""Frames cut anywhere: a reader is at rest where a message has ended, and only there."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong

from broker.transports.websocket_frames import EMPTY_PONG, FrameReader, close, is_empty_pong, pong
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, frame

Frames = list[tuple[bytes, bool]]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], Frames]:
    """Draw messages, and the frames that carry them, each with whether a message is under way behind it."""
    payloads = draw(st.lists(st.binary(max_size=300), max_size=5))
    if draw(st.booleans()):
        payloads.append(bytes(70_000))
    frames: Frames = []
    for payload in payloads:
        cut = draw(st.integers(0, len(payload)))
        parts = [payload[:cut], payload[cut:]] if draw(st.booleans()) else [payload]
        for number, part in enumerate(parts):
            is_last = part is parts[-1] and number == len(parts) - 1
            frames.append((frame(CONTINUATION if number else BINARY, part, fin=is_last), not is_last))
            if draw(st.booleans()):
                control = draw(st.sampled_from([PING, PONG]))
                frames.append((frame(control, draw(st.binary(max_size=125))), not is_last))
    return payloads, frames


def messages(events: list[Event]) -> list[bytes]:
    whole, parts = [], b""
    for event in events:
        if isinstance(event, Message):
            assert isinstance(event, BytesMessage)
            parts += event.data
            if event.message_finished:
                whole.append(parts)
                parts = b""
    return whole


@given(conversations(), st.lists(st.integers(0, 1 << 17)))
def test_reader_that_is_changed_wherever_it_is_at_rest_reads_the_same_messages(
    conversation: tuple[list[bytes], Frames], cuts: list[int]
) -> None:
    payloads, frames = conversation
    wire = b"".join(data for data, _ in frames)
    resting, position = {0}, 0
    for data, is_under_way in frames:
        position += len(data)
        if not is_under_way:
            resting.add(position)
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    reader, events = FrameReader(), []
    for start, end in pairwise(places):
        events += list(reader.read(wire[start:end]))
        assert reader.is_at_rest == (end in resting)
        if reader.is_at_rest:
            reader = FrameReader()
    assert messages(events) == payloads
    assert not any(isinstance(event, CloseConnection) for event in events)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_heads_that_come_in_pieces_are_followed(size: int) -> None:
    wire = frame(BINARY, bytes(200), fin=False) + frame(PING, b"x") + frame(CONTINUATION, bytes(70_000))
    reader = FrameReader()
    for start in range(0, len(wire), size):
        assert not reader.is_at_rest or start == 0
        assert not any(
            isinstance(event, CloseConnection) for event in reader.read(wire[start : start + size])
        )
    assert reader.is_at_rest


def test_only_a_whole_empty_pong_is_taken_for_the_answer_to_a_ping() -> None:
    answer = frame(PONG)
    assert answer.startswith(EMPTY_PONG)
    assert is_empty_pong(answer)
    for other in (
        b"",
        answer[:-1],
        answer + answer,
        answer + b"x",
        frame(PONG, b"x"),
        frame(PING),
        pong(b""),
    ):
        assert not is_empty_pong(other)


def test_close_of_the_client_is_told_from_what_can_not_be_read() -> None:
    ends = {}
    for name, data in (("close", frame(CLOSE, b"\x03\xe8")), ("garbage", frame(3, b"x"))):
        reader = FrameReader()
        (event,) = reader.read(data)
        assert isinstance(event, CloseConnection)
        ends[name] = reader.has_valid_end
    assert ends == {"close": True, "garbage": False}


def test_reason_of_a_close_is_cut_to_what_a_control_frame_carries() -> None:
    data = close(1011, "é" * 200)
    assert data[:4] == b"\x88\x7c\x03\xf3"
    assert data[4:].decode() == "é" * 61


def test_answer_to_a_ping_has_its_payload() -> None:
    assert list(FrameReader().read(frame(PONG, b"abc"))) == [Pong(payload=b"abc")]
    assert list(FrameReader().read(frame(PING, b"abc"))) == [Ping(payload=b"abc")]
    assert pong(b"abc") == b"\x8a\x03abc"
