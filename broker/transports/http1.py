"""As much HTTP/1.1 as the front door needs: a request's head, and small answers of our own."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11
import orjson

#: A head must fit in so many bytes (and come within the handshake's time).
MOST_HEAD_BYTES = 16 << 10
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request.

    Attributes:
        headers: names in lower case.
        raw: the head as it came; ``rest``: what came behind its blank line.
    """

    method: str
    target: str
    http_version: str
    headers: list[tuple[str, str]]
    raw: bytes
    rest: bytes

    @property
    def path(self) -> str:
        """The target's path, unquoted."""
        return unquote(self._origin_form.partition("?")[0])

    @property
    def query(self) -> list[tuple[str, str]]:
        """The target's parameters, in order."""
        return parse_qsl(self._origin_form.partition("?")[2], keep_blank_values=True)

    @property
    def _origin_form(self) -> str:
        """The target without scheme and authority, which a proxy may send (RFC 9112, section 3.2.2)."""
        scheme, separator, rest = self.target.partition("://")
        if separator and scheme.lower() in ("http", "https"):
            return "/" + rest.partition("/")[2]
        return self.target

    def get(self, name: str) -> str | None:
        """Return a header's value, several joined by commas (RFC 9110, section 5.3)."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None

    def tokens(self, name: str) -> list[str]:
        """Return a list-valued header's members, in order."""
        return [token for part in (self.get(name) or "").split(",") if (token := part.strip())]


def parse_head(raw: bytes, rest: bytes) -> Head:
    """Parse a head, from its first byte to its blank line.

    Raises:
        ValueError: it is not HTTP/1.x; the text says why.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError as exc:
        raise ValueError(str(exc)) from None
    if not isinstance(event, h11.Request):
        raise ValueError("the head is not complete")
    return Head(
        method=event.method.decode("ascii"),
        target=event.target.decode("latin-1"),
        http_version=event.http_version.decode("ascii"),
        headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers],
        raw=raw,
        rest=rest,
    )


def response(
    status: int, body: bytes, content_type: str, headers: list[tuple[str, str]] | None = None
) -> bytes:
    """Return a whole answer that ends the connection."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "Access-Control-Allow-Origin: *",
        *(f"{name}: {value}" for name, value in headers or []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def problem(
    status: int,
    code: str,
    detail: str,
    headers: list[tuple[str, str]] | None = None,
    **extra: Any,
) -> bytes:
    """Return an RFC 9457 problem as a whole answer that ends the connection."""
    return response(status, problem_body(status, code, detail, **extra), "application/problem+json", headers)


def problem_body(status: int, code: str, detail: str, **extra: Any) -> bytes:
    """Return an RFC 9457 problem; ``code`` is the stable part, as in `error` messages."""
    title = HTTPStatus(status).phrase
    return orjson.dumps(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **extra}
    )
