"""The check tick by tick: what it lets pass, and what it finds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.audit import MOST_BYTES, Recording, audit
from broker.core.framing import NdjsonFraming, SseFraming, WebSocketFraming

Message = dict[str, Any]


def update(*numbers: int, sym: str = "SIM:ACME") -> Message:
    return {
        "type": "update",
        "cursor": "e-1",
        "data": [{"ch": "quote", "sym": sym, "seq": n} for n in numbers],
    }


def gap(first: int | None, last: int | None) -> Message:
    return {
        "type": "gap",
        "sub": 1,
        "ch": "quote",
        "sym": "SIM:ACME",
        "from": first,
        "to": last,
        "reason": "overflow",
    }


def heartbeat(delivered: int, *, conflated: int = 0, dropped: int = 0) -> Message:
    entry = {"delivered": delivered, "conflated": conflated, "dropped": dropped}
    return {"type": "heartbeat", "ledger": [entry]}


def problems(*messages: Message, is_every: bool = True, transport: str = "ws") -> list[str]:
    framing = {
        "ws": WebSocketFraming(is_binary=False),
        "sse": SseFraming(chunked=True, retry_ms=1000),
        "ndjson": NdjsonFraming(chunked=True),
    }[transport]
    recording = Recording()
    for message in messages:
        framed = framing.frame(message["type"], json.dumps(message).encode(), "e-1")
        recording.add(framing.batch(framed))
    # A message that is cut at the end says nothing.
    recording.add(b"\x81\x05{" if transport == "ws" else b'5\r\n{"ty')
    return audit(recording, transport, "json", is_every=is_every)


@pytest.mark.parametrize("transport", ["ws", "sse", "ndjson"])
def test_what_is_accounted_for_passes_on_every_transport(transport: str) -> None:
    assert (
        problems(
            update(5, 6), update(1, sym="SIM:BETA"), gap(7, 9), heartbeat(3, dropped=3), update(10),
            heartbeat(4, dropped=3), {"type": "heartbeat", "ledger": []}, gap(None, None),
            transport=transport,
        )
        == []
    )  # fmt: skip


@pytest.mark.parametrize("transport", ["ws", "sse", "ndjson"])
def test_a_missing_tick_is_found_on_every_transport(transport: str) -> None:
    assert problems(update(1, 3), transport=transport) == [
        "SIM:ACME: 1 ticks missing before seq 3, 0 named by gaps"
    ]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([update(1, 2, 2)], "seq 2 after 2"),
        ([update(5, 4)], "seq 4 after 5"),
        ([update(1), gap(2, 3), update(5)], "3 ticks missing before seq 5, 2 named"),
        ([update(1, 2), heartbeat(3)], "2 ticks came"),
        ([update(1), gap(2, 3), heartbeat(1, dropped=1)], "gaps named 2"),
    ],
)
def test_what_is_not_accounted_for_is_found(messages: list[Message], said: str) -> None:
    assert any(said in problem for problem in problems(*messages))


def test_latest_may_jump_as_far_as_its_account_says() -> None:
    assert problems(update(1, 4), heartbeat(2, conflated=2), is_every=False) == []
    assert "jumped over 2 ticks" in problems(update(1, 4), heartbeat(2, conflated=1), is_every=False)[0]


def test_a_recording_is_bounded() -> None:
    recording = Recording()
    for _ in range(40):
        recording.add(b"x" * (1 << 20))
    assert len(recording.data) <= MOST_BYTES + (1 << 20)
