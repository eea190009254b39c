"""One write for all who get the same."""

from __future__ import annotations

import pytest

from broker.core.codecs import CODECS, JSON, Codec
from broker.core.framing import WEBSOCKET_TEXT, Framing, NdjsonFraming, SseFraming
from broker.core.history import HistoryLimits
from broker.core.packing import Packer, shared_packer
from broker.core.tape import Entry, Tape
from broker.core.topics import Topics
from tests.fakes import put, trade

FRAMINGS: list[Framing] = [
    WEBSOCKET_TEXT,
    SseFraming(chunked=True, retry_ms=1000),
    NdjsonFraming(chunked=False),
]


def make_entries(count: int) -> list[Entry]:
    tape = Tape("e", Topics(), HistoryLimits())
    return put(tape, [trade("SIM:A") for _ in range(count)])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("framing", FRAMINGS, ids=lambda framing: framing.name)
def test_write_is_the_codecs_update_in_the_framing(codec: Codec, framing: Framing) -> None:
    entries, shared = make_entries(3), framing.shared
    payload = codec.update("e-3", codec.ticks(entries))
    wanted = shared.batch(shared.frame("update", payload, "e-3"))
    assert Packer(codec, shared).update(entries, "e-3", "e-3") == wanted


def test_same_ticks_for_many_are_the_same_object_and_any_difference_another() -> None:
    entries = make_entries(2)
    packer = Packer(JSON, WEBSOCKET_TEXT)
    first = packer.update(entries, "e-2", "e-2")
    assert packer.update(list(entries), "e-2", "e-2") is first
    for other in (
        packer.update(entries, "e-3", "e-3"),
        packer.update(entries[:1], "e-2", "e-2"),
        packer.update(make_entries(2)[::-1], "e-2", "e-2"),
    ):
        assert other != first


def test_writes_of_bytes_and_of_entries_take_turns_without_mixing_cursors() -> None:
    entries = make_entries(3)
    packer, plain = shared_packer(JSON, WEBSOCKET_TEXT), Packer(JSON, WEBSOCKET_TEXT)
    for cursor in ("e-1", "e-2", "e-1"):
        for count in (1, 3):
            ticks = JSON.ticks(entries[:count])
            wanted = plain.update(entries[:count], cursor, cursor)
            assert packer.update(entries[:count], cursor, cursor) == wanted
            assert packer.update_encoded(ticks, cursor) == wanted


@pytest.mark.parametrize("size", [10, 50, 100, 65_000, 65_400, 65_536, 70_000])
def test_write_of_bytes_is_a_frame_of_its_length(size: int) -> None:
    ticks = [b'"%b"' % (b"x" * size)]
    wanted = WEBSOCKET_TEXT.frame("update", JSON.update("e-3", ticks))
    assert shared_packer(JSON, WEBSOCKET_TEXT).update_encoded(ticks, "e-3") == wanted


def test_event_that_must_not_be_resumed_behind_has_no_id() -> None:
    packer = Packer(JSON, SseFraming(chunked=False, retry_ms=None))
    entries = make_entries(1)
    assert b"id: e-1\n" in packer.update(entries, "e-1", "e-1")
    assert b"id:" not in packer.update(entries, "e-1", "")


def test_sessions_of_a_shape_share_one_packer_and_none_sends_the_retry_of_another() -> None:
    one, two = (SseFraming(chunked=True, retry_ms=retry) for retry in (1000, 2000))
    assert shared_packer(JSON, one.shared) is shared_packer(JSON, two.shared)
    assert b"retry" not in shared_packer(JSON, one.shared).update(make_entries(1), "e-1", "e-1")
    assert one.frame("welcome", b"{}").startswith(b"retry: 1000\n")
