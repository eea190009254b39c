"""The load client's own WebSocket, held against wsproto."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, Pong, TextMessage

from bench.wire import BINARY, PONG, Walk, frame
from tests.bench.test_counting import cuts, pieces

events = st.lists(
    st.one_of(
        st.integers(0, 70_000).map(lambda size: TextMessage(data="x" * size)),
        st.binary(max_size=125).map(lambda payload: Ping(payload=payload)),
        st.binary(max_size=300).map(lambda payload: BytesMessage(data=payload)),
    ),
    max_size=12,
)


@given(events, cuts)
def test_walk_finds_every_ping_and_counts_every_frame(
    sent: list[TextMessage | BytesMessage | Ping], sizes: list[int]
) -> None:
    server = Connection(ConnectionType.SERVER)
    data = b"".join(server.send(event) for event in sent)
    walk = Walk()
    pings = [ping for piece in pieces(data, sizes) for ping in walk.read(piece)]
    assert pings == [bytes(event.payload) for event in sent if isinstance(event, Ping)]
    assert walk.frames == len(sent)
    assert walk.is_between_frames


def test_ping_may_be_cut_behind_any_of_its_bytes() -> None:
    data = Connection(ConnectionType.SERVER).send(Ping(payload=b"abc"))
    for end in range(1, len(data)):
        walk = Walk()
        assert walk.read(data[:end]) + walk.read(data[end:]) == [b"abc"]
        assert (walk.frames, walk.is_between_frames) == (1, True)


def test_walk_in_the_middle_of_a_frame_says_so() -> None:
    data = Connection(ConnectionType.SERVER).send(TextMessage(data="x" * 500))
    for end in (1, 3, 4, 100, 503):
        walk = Walk()
        assert walk.read(data[:end]) == []
        assert not walk.is_between_frames


@given(st.binary(max_size=70_000))
def test_frames_are_what_a_server_understands(payload: bytes) -> None:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(frame(payload, BINARY) + frame(payload[:125], PONG))
    *messages, pong = server.events()
    assert b"".join(bytes(event.data) for event in messages if isinstance(event, BytesMessage)) == payload
    assert isinstance(pong, Pong)
    assert bytes(pong.payload) == payload[:125]
