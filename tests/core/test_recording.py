"""The format of recordings: what was written is read, and a file that is cut or broken says where."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.recording import HEAD_BYTES, Block, Cut, encode_block, read_blocks

EPOCHS = st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True)
TICKS = st.binary(min_size=1, max_size=40)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    kind = draw(st.sampled_from(["ticks", "states"]))
    first = draw(st.integers(1, 2**62))
    covered = draw(st.integers(0, 50))
    last = first + covered - 1
    offsets = sorted(draw(st.sets(st.integers(first, last)))) if covered else []
    ticks = draw(st.lists(TICKS, min_size=len(offsets), max_size=len(offsets)))
    at = draw(st.integers(-(2**63), 2**63 - 1))
    return Block(kind, draw(EPOCHS), first, last, at, offsets, ticks)


def read(data: bytes) -> list[Block | Cut]:
    return list(read_blocks(io.BytesIO(data).read))


@given(st.lists(blocks(), max_size=5))
def test_what_was_written_is_read(written: list[Block]) -> None:
    assert read(b"".join(map(encode_block, written))) == written


@given(st.lists(blocks(), min_size=1, max_size=4), st.data())
def test_file_that_is_cut_anywhere_gives_every_block_before_and_names_the_rest(
    written: list[Block], data: st.DataObject
) -> None:
    encoded = list(map(encode_block, written))
    whole = b"".join(encoded)
    cut_at = data.draw(st.integers(0, len(whole)))
    ends = [sum(map(len, encoded[: n + 1])) for n in range(len(encoded))]
    there = sum(end <= cut_at for end in ends)
    before = ends[there - 1] if there else 0
    found = read(whole[:cut_at])
    assert found[:there] == written[:there]
    if cut_at == before:
        assert found[there:] == []
    else:
        [cut] = found[there:]
        assert isinstance(cut, Cut)
        assert (cut.at, cut.is_short) == (before, True)


@given(blocks(), blocks(), st.data())
def test_byte_that_is_wrong_costs_what_is_behind_it_and_nothing_before(
    one: Block, other: Block, data: st.DataObject
) -> None:
    first, second = encode_block(one), encode_block(other)
    at = data.draw(st.integers(0, len(second) - 1))
    wrong = bytearray(first + second)
    wrong[len(first) + at] ^= data.draw(st.integers(1, 255))
    found = read(bytes(wrong))
    assert found[0] == one
    [cut] = found[1:]
    assert isinstance(cut, Cut)
    assert cut.at == len(first)


@given(st.binary(max_size=300))
def test_what_is_no_recording_is_no_block_and_no_exception(data: bytes) -> None:
    assert all(isinstance(item, Cut) for item in read(data))


def test_body_that_unpacks_to_something_else_is_named() -> None:
    good = encode_block(Block("ticks", "e", 1, 2, 0, [1, 2], [b"a", b"b"]))
    body = zlib.compress(b"\x92\x91\x00\x92\xc4\x01a\xc4\x01b")  # one offset, two ticks
    head = good[:8] + struct.pack("<I", len(body)) + good[12 : HEAD_BYTES - 4]
    [cut] = read(head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body)
    assert isinstance(cut, Cut)
    assert "fit together" in cut.reason


def test_length_that_nobody_wrote_is_not_waited_for() -> None:
    good = encode_block(Block("ticks", "e", 1, 1, 0, [1], [b"a"]))
    [cut] = read(good[:8] + struct.pack("<I", 2**32 - 1) + good[12:])
    assert isinstance(cut, Cut)
    assert not cut.is_short


def test_epoch_that_does_not_fit_is_refused_by_the_writer() -> None:
    with pytest.raises(ValueError, match="32 characters"):
        encode_block(Block("ticks", "e" * 33, 1, 1, 0, [1], [b"a"]))
