"""A few subscribers of each group are checked tick by tick: all that they read is kept, and decoded at the end.

What the load counts of everybody, without decoding, is held against this too. The rules are those of the protocol
(sections 1 and 5): `seq` only ascends; in mode ``every`` each jump of it is named by a `gap`; in mode ``latest``
jumps are what the account has as conflated; and every account that comes, heartbeats included, says what came so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

#: What is kept of one subscriber; behind that it is not checked any more.
MOST_BYTES = 16 << 20
#: Subscribers of each group that are checked.
AUDITED = 3

_unpack = msgspec.msgpack.decode
_parse = msgspec.json.decode


class Recording:
    """What one subscriber read, or the first part of it."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Keep what was read, until it has become too much."""
        if self._size <= MOST_BYTES:
            self._parts.append(data)
            self._size += len(data)

    @property
    def data(self) -> bytes:
        """All that was kept."""
        return b"".join(self._parts)


def audit(recording: Recording, transport: str, codec: str, *, is_every: bool) -> list[str]:
    """Return what is wrong with what one subscriber read, from its opening on; nothing, if all is well."""
    auditor = _Auditor(is_every=is_every)
    data = recording.data
    messages = _websocket(data, codec) if transport == "ws" else _stream(data, transport)
    for message in messages:
        auditor.read(message)
    return auditor.problems


class _Auditor:
    """Reads one subscriber's messages in order."""

    def __init__(self, *, is_every: bool) -> None:
        self.problems: list[str] = []
        self._is_every = is_every
        self._last: dict[tuple[str, str], int] = {}
        self._gaps: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._ticks = self._jumped = self._dropped = 0

    def read(self, message: dict[str, Any]) -> None:
        """Check one message."""
        match message["type"]:
            case "update":
                for tick in message["data"]:
                    self._tick(tick)
            case "gap" if message["from"] is not None and message["to"] is not None:
                topic = (message["ch"], message["sym"])
                self._gaps.setdefault(topic, []).append((message["from"], message["to"]))
                self._dropped += message["to"] - message["from"] + 1
        ledger = message.get("ledger")
        if isinstance(ledger, list):
            ledger = ledger[0] if ledger else None
        if ledger and message["type"] != "ledger":
            self._account(ledger)

    def _tick(self, tick: dict[str, Any]) -> None:
        topic, seq = (tick["ch"], tick["sym"]), tick["seq"]
        last = self._last.get(topic)
        self._last[topic] = seq
        self._ticks += 1
        gaps = self._gaps.pop(topic, [])
        if last is None:
            return
        if seq <= last:
            self.problems.append(f"{topic[1]}: seq {seq} after {last}")
        jumped = seq - last - 1
        named = sum(to - first + 1 for first, to in gaps if first > last and to < seq)
        if self._is_every and jumped != named:
            self.problems.append(
                f"{topic[1]}: {jumped} ticks missing before seq {seq}, {named} named by gaps"
            )
        self._jumped += max(0, jumped - named)

    def _account(self, ledger: dict[str, int]) -> None:
        if ledger["delivered"] != self._ticks:
            self.problems.append(f"{self._ticks} ticks came up to an account of {ledger}")
        if ledger["dropped"] != self._dropped:
            self.problems.append(f"gaps named {self._dropped} ticks up to an account of {ledger}")
        if self._jumped > ledger["conflated"]:
            self.problems.append(f"seq jumped over {self._jumped} ticks up to an account of {ledger}")


def _websocket(data: bytes, codec: str) -> Iterator[dict[str, Any]]:
    """Yield the messages in whole frames (RFC 6455, section 5.2); the broker sends one frame a message."""
    at = 0
    while at + 2 <= len(data):
        length, start = data[at + 1], at + 2
        if length > 125:
            width = 2 if length == 126 else 8
            length, start = int.from_bytes(data[start : start + width], "big"), start + width
        if start + length > len(data):
            return
        if data[at] & 0x0F in (1, 2):
            payload = data[start : start + length]
            yield _unpack(payload) if codec == "msgpack" else _parse(payload)
        at = start + length


def _stream(data: bytes, transport: str) -> Iterator[dict[str, Any]]:
    """Yield the messages of a chunked stream of events or lines (RFC 9112, section 7.1)."""
    body, at = [], 0
    while (end := data.find(b"\r\n", at)) >= 0:
        length = int(data[at:end], 16)
        if not length or end + 2 + length > len(data):
            break
        body.append(data[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    for line in b"".join(body).split(b"\n")[:-1]:
        if transport == "ndjson" and line:
            yield _parse(line)
        elif line.startswith(b"data: "):
            yield _parse(line[6:])
