"""Lines out of bytes: wherever the pieces end, and whatever is in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.lines import Lines


def cut(pieces: list[bytes], most: int = 1000) -> list[tuple[int, bytes, bytes | None]]:
    """Return number, text and beginning of an overlong one for each line."""
    lines = Lines(most)
    found = [(lines.number, line, lines.overlong) for piece in pieces for line in lines.feed(piece)]
    return found + [(lines.number, line, lines.overlong) for line in lines.end()]


@given(st.lists(st.sampled_from([b"a", b"b", b"\n", b"ab\n", b"\nc"]), max_size=30))
def test_pieces_make_the_lines_of_the_whole(pieces: list[bytes]) -> None:
    whole = b"".join(pieces).split(b"\n")
    expected = whole[:-1] if not whole[-1] else whole
    assert [line for _, line, _ in cut(pieces)] == expected
    assert [number for number, _, _ in cut(pieces)] == list(range(1, len(expected) + 1))


def test_windows_line_ends_and_byte_order_mark_are_left_out() -> None:
    assert [line for _, line, _ in cut([b"\xef\xbb\xbf{}\r\n", b" [] \r\n"])] == [b"{}", b"[]"]


def test_line_too_long_is_skipped_to_its_end_and_its_beginning_kept() -> None:
    pieces = [b"ok\n", b"x" * 6, b"y" * 6, b"z" * 50 + b"\nnext\n"]
    assert cut(pieces, most=10) == [(1, b"ok", None), (2, b"", b"xxxxxxyyyyyy"), (3, b"next", None)]


def test_line_too_long_in_one_piece_is_found_too() -> None:
    assert cut([b"x" * 11 + b"\n" + b"y" * 10 + b"\n"], most=10) == [
        (1, b"", b"x" * 11),
        (2, b"y" * 10, None),
    ]


def test_line_too_long_at_the_end_is_found() -> None:
    assert cut([b"x" * 11], most=10) == [(1, b"", b"x" * 11)]


def test_a_line_without_end_is_not_kept_in_memory() -> None:
    lines = Lines(1000)
    for _ in range(1000):
        assert list(lines.feed(b"x" * 100)) == []
    assert sum(map(len, lines._begun)) <= 1000
