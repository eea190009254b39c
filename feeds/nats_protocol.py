"""What a NATS server sends, from bytes to events. Pure.

Source: https://docs.nats.io/reference/protocols/client ("NATS client protocol"), read 2026-11-21; and what nats-server
2.9 sends. Operations are case-insensitive, fields are parted by blanks or tabs, and every line ends with CR LF.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from broker.core.errors import FeedError

#: The longest line; an INFO that lists a large cluster has some thousand bytes.
MOST_LINE_BYTES = 64 << 10
#: The longest payload that is kept; NATS itself advises at most 8 MiB. What is longer is passed over.
MOST_PAYLOAD_BYTES = 1 << 20
_MOST_DIGITS = 10


class Info(Struct):
    """What a server says of itself, as far as it matters here."""

    version: str = ""
    auth_required: bool = False
    tls_required: bool = False
    headers: bool = False
    nonce: str = ""


class Message(NamedTuple):
    """One message; its headers are left out."""

    subject: bytes
    payload: bytes


class TooLong(NamedTuple):
    """A message that was passed over."""

    subject: bytes
    size: int


class Refusal(NamedTuple):
    """An ``-ERR``; after most of them the server hangs up."""

    text: str


class Ping(NamedTuple):
    """It wants a PONG."""


class Pong(NamedTuple):
    """It answers our PING."""


Event: TypeAlias = Info | Message | TooLong | Refusal | Ping | Pong

_INFO: msgspec.json.Decoder[Info] = msgspec.json.Decoder(Info)


class NatsParser:
    """Cuts a server's bytes into events, wherever the pieces end."""

    def __init__(self) -> None:
        self._held = bytearray()
        #: Looking is of no use before so many bytes are held.
        self._needed = 0
        self._passing_over = 0

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that end in ``data``.

        Raises:
            FeedError: this is not the protocol, so nothing behind it can be understood.
        """
        if self._passing_over:
            passed = min(self._passing_over, len(data))
            self._passing_over -= passed
            data = data[passed:]
        self._held += data
        if len(self._held) < self._needed:
            return []
        self._needed = 0
        held, self._held = bytes(self._held), bytearray()
        events: list[Event] = []
        at = 0
        while (end := held.find(b"\r\n", at)) >= 0:
            parts = held[at:end].split(None, 1)
            op = parts[0].upper() if parts else b""
            rest = parts[1] if len(parts) > 1 else b""
            if op in (b"MSG", b"HMSG"):
                after = self._message(held, end + 2, rest.split(), op == b"HMSG", events)
                if after < 0:
                    self._needed = -after - at
                    break
                at = after
            else:
                if (event := _event(op, rest)) is not None:
                    events.append(event)
                at = end + 2
        if end < 0 and len(held) - at > MOST_LINE_BYTES:
            raise FeedError(f"the server sent a line of more than {MOST_LINE_BYTES} bytes")
        self._held += held[at:]
        return events

    def _message(
        self, held: bytes, start: int, fields: list[bytes], has_headers: bool, events: list[Event]
    ) -> int:
        """Take the message whose payload begins at ``start``.

        Returns:
            Where it ends; negative if it is not all there: how many bytes of ``held`` there have to be.
        """
        head, size = _sizes(fields, has_headers)
        stop = start + size + 2
        if size - head > MOST_PAYLOAD_BYTES:
            events.append(TooLong(fields[0], size - head))
            self._passing_over = max(stop - len(held), 0)
            return min(stop, len(held))
        if len(held) < stop:
            return -stop
        if held[stop - 2 : stop] != b"\r\n":
            raise FeedError("the server sent a message that is longer than it says")
        events.append(Message(fields[0], held[start + head : stop - 2]))
        return stop


def _sizes(fields: list[bytes], has_headers: bool) -> tuple[int, int]:
    """Return the bytes of a message's headers, and of headers and payload together."""
    # Subject, number of the subscription, where to answer (if anywhere), the sizes.
    fewest = 4 if has_headers else 3
    sizes = fields[-2:] if has_headers else [b"0", *fields[-1:]]
    if not fewest <= len(fields) <= fewest + 1 or not all(map(_is_size, sizes)):
        raise FeedError(f"the server sent a message that can't be understood: {_shown(b' '.join(fields))}")
    head, size = int(sizes[0]), int(sizes[1])
    if head > size:
        raise FeedError("the server sent a message whose headers are longer than all of it")
    return head, size


def _is_size(text: bytes) -> bool:
    return len(text) <= _MOST_DIGITS and text.isdigit()


def _event(op: bytes, rest: bytes) -> Event | None:
    """Return what a line says that has no payload; ``None``: nothing."""
    if op == b"PING":
        return Ping()
    if op == b"PONG":
        return Pong()
    if op == b"+OK":
        return None
    if op == b"-ERR":
        return Refusal(rest.decode("utf-8", "replace").strip().strip("'"))
    if op == b"INFO":
        try:
            return _INFO.decode(rest)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise FeedError(f"the server sent an INFO that can't be understood: {exc}") from None
    raise FeedError(f"the server does not speak NATS: it sent {_shown(op)}")


def _shown(text: bytes) -> str:
    return repr(text[:80].decode("utf-8", "replace"))
