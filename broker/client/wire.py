"""Messages to bytes and back, on the client's side, and what a URL stands for. Pure.

What the broker may add to later (reasons, codes, limits, whole types) is read more loosely here than in
`broker.core.messages`: a client ignores what it doesn't know (protocol, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from broker.core.delivery import Mode
from broker.core.mailbox import LedgerEntry
from broker.core.messages import Error, Snapshot, Update

CodecName = Literal["json", "msgpack"]

DEFAULT_PORT = 8765
DEFAULT_PATH = "/v1/ws"
_SCHEMES = {"ws": (False, 80), "http": (False, 80), "wss": (True, 443), "https": (True, 443)}


class Welcome(Struct, tag_field="type", tag="welcome"):
    """The first message of a session."""

    session: str
    epoch: str
    heartbeat_s: float
    server: str = ""


class Rejected(Struct, frozen=True):
    """A symbol that the broker did not accept, and why."""

    symbol: str
    code: str


class Ack(Struct, tag_field="type", tag="ack"):
    """A request was carried out."""

    id: int
    op: str
    sub: int | UnsetType = UNSET
    symbols: list[str] = []
    rejected: list[Rejected] = []
    delivery: dict[str, Any] = {}
    cursor: str | None = None
    ledger: LedgerEntry | None = None

    @property
    def mode(self) -> Mode:
        """The mode in force."""
        return "latest" if self.delivery.get("mode") == "latest" else "every"


class Gap(Struct, tag_field="type", tag="gap", rename={"first": "from", "last": "to"}):
    """Ticks that will not come."""

    sub: int
    ch: str
    sym: str
    first: int | None
    last: int | None
    reason: str


class Heartbeat(Struct, tag_field="type", tag="heartbeat"):
    """A sign of life, the cursor and the accounts."""

    cursor: str | None = None
    ledger: list[LedgerEntry] = []


class Ledger(Struct, tag_field="type", tag="ledger"):
    """The answer to `list`."""

    id: int
    ledger: list[LedgerEntry] = []


class Notice(Struct, tag_field="type", tag="notice"):
    """How the broker finds the subscriber; ``sub`` is left out where it means all of them."""

    state: str
    sub: int | None = None
    queued: int | None = None
    limit: int | None = None


class Closing(Struct, tag_field="type", tag="closing"):
    """The last message before the close."""

    code: int
    reason: str
    retry_after_ms: int | None
    ledger: list[LedgerEntry] = []


ServerMessage: TypeAlias = (
    Welcome | Ack | Snapshot | Update | Gap | Notice | Heartbeat | Ledger | Error | Closing
)
_TYPES = frozenset(
    ("welcome", "ack", "snapshot", "update", "gap", "notice", "heartbeat", "ledger", "error", "closing")
)


class BadMessage(ValueError):
    """What arrived is none of the protocol's messages. Not raised for an unknown type: that is ignored."""


class ClientCodec:
    """One codec, the client's way round.

    Attributes:
        subprotocol: asked for in the handshake.
    """

    def __init__(self, name: CodecName) -> None:
        if name not in ("json", "msgpack"):
            raise ValueError(f"codec: {name!r} is not 'json' or 'msgpack'")
        self.subprotocol = f"tapecast.v1.{name}"
        self._decoder: msgspec.json.Decoder[ServerMessage] | msgspec.msgpack.Decoder[ServerMessage]
        if name == "json":
            # Not strict: nanoseconds are strings in JSON.
            self._decoder = msgspec.json.Decoder(ServerMessage, strict=False)
        else:
            self._decoder = msgspec.msgpack.Decoder(ServerMessage)
        self._is_json = name == "json"

    def encode(self, request: dict[str, Any]) -> str | bytes:
        """Return one request, as text or bytes by the codec."""
        return msgspec.json.encode(request).decode() if self._is_json else msgspec.msgpack.encode(request)

    def decode(self, payload: str | bytes) -> ServerMessage | None:
        """Return one message, ``None`` for one of a type that is not known here.

        Raises:
            BadMessage: it is not one.
        """
        try:
            return self._decoder.decode(payload)  # type: ignore[arg-type]  # str only on a text subprotocol
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as exc:
            if self._has_unknown_type(payload):
                return None
            raise BadMessage(f"not a message of the protocol: {exc or type(exc).__name__}") from None

    def _has_unknown_type(self, payload: str | bytes) -> bool:
        decode: Any = msgspec.json.decode if self._is_json else msgspec.msgpack.decode
        try:
            fields = decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
            return False
        kind = fields.get("type") if isinstance(fields, dict) else None
        return isinstance(kind, str) and kind not in _TYPES


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to.

    Attributes:
        resource: path and query.
    """

    host: str
    port: int
    resource: str
    use_tls: bool

    @property
    def authority(self) -> str:
        """``host:port`` as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL, for texts."""
        return f"{'wss' if self.use_tls else 'ws'}://{self.authority}{self.resource}"


def parse_url(url: str) -> Target:
    """Return what ``ws://host:port/v1/ws``, ``http://host:port`` or ``host:port`` stands for.

    Without a scheme the port is 8765 if left out, otherwise the scheme's; without a path it is ``/v1/ws``.

    Raises:
        ValueError: it is no such URL; the text names it.
    """
    has_scheme = "://" in url
    try:
        parts = urlsplit(url if has_scheme else f"//{url}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} is not a URL: {exc}") from None
    if has_scheme and parts.scheme not in _SCHEMES:
        raise ValueError(f"{url!r}: the scheme {parts.scheme!r} is not one of {', '.join(_SCHEMES)}")
    if not host or any(c.isspace() for c in url):
        raise ValueError(f"{url!r} is not a URL: right is ws://HOST:PORT/v1/ws or HOST:PORT")
    use_tls, default_port = _SCHEMES[parts.scheme] if has_scheme else (False, DEFAULT_PORT)
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    resource = f"{path}?{parts.query}" if parts.query else path
    return Target(host, default_port if port is None else port, resource, use_tls)
