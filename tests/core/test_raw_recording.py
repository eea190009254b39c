"""The format of a recorded feed: cut off anywhere, damaged anywhere, and every event there and back."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core import raw_recording
from broker.core.raw_recording import (
    HEAD_BYTES,
    MAGIC,
    Answered,
    Begun,
    Broke,
    Clocked,
    Ended,
    Event,
    Failed,
    Hole,
    Lost,
    Missing,
    Opened,
    Published,
    Received,
    Rewound,
    Started,
    encode_block,
    read_blocks,
)

EVENTS: list[Event] = [
    Begun(1, "gold", "coinbase", "COINBASE", {"symbols": ["BTC-USD"], "depth": 10}, "tapecast/1"),
    Started(2),
    Opened(3, 1, "wss://venue/x"),
    Received(4, 1, "é".encode(), True),
    Received(5, 1, b"\xff\x00", False),
    Broke(6, 1, "closed with 1000"),
    Answered(7, "https://venue/book?symbol=A", b"{}"),
    Failed(8, "https://venue/book", "HTTP 500"),
    Clocked(9),
    Published(b"\x80"),
    Missing("book", "COINBASE:BTC-USD"),
    Rewound(),
    Ended(10, "failed", "FeedError: x"),
    Lost(11, 12),
]
BLOCKS = [[Started(n), Received(n, 1, b"frame %d" % n, True)] for n in range(3)]


def read(data: bytes, at_once: int = 1 << 20) -> list[list[Event] | Hole]:
    file = io.BytesIO(data)
    return list(read_blocks(lambda length: file.read(min(length, at_once))))


def test_every_event_comes_back_as_it_was() -> None:
    assert read(encode_block(EVENTS)) == [EVENTS]
    assert {type(event) for event in EVENTS} == set(get_args(Event))


def test_frame_is_text_or_bytes_as_it_was_received() -> None:
    assert Received(1, 1, "é".encode(), True).message == "é"
    assert Received(1, 1, b"\xff", False).message == b"\xff"


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_file_that_is_cut_at_any_byte_is_read_to_its_last_whole_block(at_once: int) -> None:
    blocks = [encode_block(events) for events in BLOCKS]
    whole = b"".join(blocks)
    ends = [len(b"".join(blocks[:count])) for count in range(len(blocks) + 1)]
    for cut in range(len(whole)):
        complete = sum(end <= cut for end in ends) - 1
        found = read(whole[:cut], at_once)
        assert found[:complete] == BLOCKS[:complete]
        rest = found[complete:]
        if cut in ends:
            assert rest == []
        else:
            [hole] = rest
            assert isinstance(hole, Hole)
            assert (hole.at, hole.length) == (ends[complete], cut - ends[complete])


def test_what_was_appended_behind_a_cut_is_read() -> None:
    first, second, third = map(encode_block, BLOCKS)
    for cut in range(1, len(second)):
        found = read(first + second[:cut] + third)
        assert found[0] == BLOCKS[0]
        assert found[-1] == BLOCKS[2]
        assert [type(each) for each in found[1:-1]] == [Hole]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damage_anywhere_costs_no_other_block(data: st.DataObject) -> None:
    blocks = [encode_block(events) for events in BLOCKS]
    hit = data.draw(st.integers(0, len(blocks) - 1))
    at = data.draw(st.integers(0, len(blocks[hit]) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(blocks[hit])
    damaged[at] ^= flip
    found = read(
        b"".join([*blocks[:hit], bytes(damaged), *blocks[hit + 1 :]]),
        data.draw(st.sampled_from([1, 50, 4096])),
    )
    assert [each for each in found if not isinstance(each, Hole)] == [*BLOCKS[:hit], *BLOCKS[hit + 1 :]]
    [hole] = [each for each in found if isinstance(each, Hole)]
    assert (hole.at, hole.length) == (len(b"".join(blocks[:hit])), len(damaged))


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.just(MAGIC), st.just(encode_block(BLOCKS[0]))), max_size=8)
)
def test_any_bytes_at_all_are_blocks_and_holes_that_cover_them(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    found = read(whole)
    holes = [each for each in found if isinstance(each, Hole)]
    blocks = [each for each in found if not isinstance(each, Hole)]
    assert all(each == BLOCKS[0] for each in blocks)
    assert sum(hole.length for hole in holes) + len(blocks) * len(encode_block(BLOCKS[0])) == len(whole)


def _too_large(monkeypatch: pytest.MonkeyPatch) -> bytes:
    block = encode_block([Received(1, 1, bytes(5000), False)])
    monkeypatch.setattr(raw_recording, "MAX_BODY_BYTES", 4000)
    return block


def _of_later_version(monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(raw_recording, "VERSION", 2)
        return encode_block([Started(1)])


@pytest.mark.parametrize(
    ("made", "reason"),
    [(_too_large, "unpacked: it is cut off, or too large"), (_of_later_version, "version 2")],
)
def test_block_that_no_recorder_of_this_version_wrote_is_a_hole(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[pytest.MonkeyPatch], bytes], reason: str
) -> None:
    block = made(monkeypatch)
    [hole] = read(block)
    assert isinstance(hole, Hole)
    assert reason in hole.reason
    assert hole.length == len(block) > HEAD_BYTES
