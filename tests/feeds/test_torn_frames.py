"""Which books an unreadable frame may have changed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from feeds.torn_frames import BookSigns

SIGNS = BookSigns(
    kind=re.compile(r'"type":"(\w*)'),
    kinds=("update", "snapshot"),
    mark=re.compile('"levels"'),
    name=re.compile(r'"name":"([A-Z]+)"'),
)
KNOWN = {"BTC", "ETH"}


@pytest.mark.parametrize(
    ("frame", "suspects"),
    [
        ('{"type":"update","name":"BTC","levels":[["1"', ["BTC"]),
        ('{"type":"upd', ["BTC", "ETH"]),
        ('{"type":"update","name":"BT', ["BTC", "ETH"]),
        ('{"type":"update","name":"BXC","lev', ["BTC", "ETH"]),
        ('{"type":"update","name":"XRP","levels":7}', ["XRP"]),
        ('{"type":"update","levels":7}', ["BTC", "ETH"]),
        ('{"type":"garbled","name":"BTC","levels":[["1"', ["BTC"]),
        ('{"type":"trade","name":"BTC"', []),
        ("{", ["BTC", "ETH"]),
        ('"name":"BTC"}', ["BTC", "ETH"]),
        ("nothing of ours", []),
        (b"\xff\xfe}", ["BTC", "ETH"]),
    ],
)
def test_frame_is_suspected_of_what_it_shows_or_of_everything(
    frame: str | bytes, suspects: list[str]
) -> None:
    assert SIGNS.suspects(frame, KNOWN) == suspects


def test_torn_frame_that_may_be_of_several_books_is_suspected_of_all() -> None:
    signs = replace(SIGNS, of_several=True)
    assert signs.suspects('{"type":"update","name":"BTC","lev', KNOWN) == ["BTC", "ETH"]
    assert signs.suspects('{"type":"update","name":"BTC","levels":7}', KNOWN) == ["BTC"]
