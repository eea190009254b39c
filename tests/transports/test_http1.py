"""The head of a request, as far as the front door reads it."""

import pytest

from broker.transports.http1 import parse_head
from broker.transports.http_stream import choose_format


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/stream?ch=quote", "/v1/stream"),
        ("http://127.0.0.1:8765/v1/stream?ch=quote", "/v1/stream"),
        ("HTTP://host?ch=quote", "/"),
        ("/v1/%73tream?ch=quote", "/v1/stream"),
        ("/a://b?ch=quote", "/a://b"),
    ],
)
def test_target_gives_path_and_parameters_in_every_form(target: str, path: str) -> None:
    head = parse_head(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"")
    assert head.path == path
    if "?" in target and "://host" not in target:
        assert head.query == [("ch", "quote")]


def test_headers_of_one_name_are_one_list() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: a, websocket\r\nUPGRADE: b,,\r\n\r\n"
    head = parse_head(raw, b"rest")
    assert head.get("upgrade") == "a, websocket, b,,"
    assert head.tokens("upgrade") == ["a", "websocket", "b"]
    assert head.get("cookie") is None
    assert head.rest == b"rest"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x",
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_head(raw, b"")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "sse"),
        ("*/*", "sse"),
        ("application/x-ndjson", "ndjson"),
        ("text/event-stream;q=0, */*", "ndjson"),
        ("text/event-stream;q=0.5, application/x-ndjson", "ndjson"),
        ("text/html, */*;q=0.8", "sse"),
        ("text/*", "sse"),
        ("Application/*;q=0.1", "ndjson"),
    ],
)
def test_accept_chooses_the_most_welcome_format(accept: str, chosen: str) -> None:
    header = f"Accept: {accept}\r\n" if accept else ""
    head = parse_head(f"GET /v1/stream HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode(), b"")
    assert choose_format(head, None) == chosen
