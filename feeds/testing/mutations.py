"""Frames that no venue should send, and some do: garbage, halves, giants, and frames with one part changed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from feeds.testing.golden import GoldenFrame

#: What stands in a place where something else belongs.
_ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**400, 1e400, 61837.63, "", "0", "-1", "1,2", "1\n", "١٢", "1e-8", "NaN"),
    *(
        "0" * 70,
        "BTC-USD",
        "9999-12-31T23:59:59Z",
        "\ud800",
        [],
        {},
        [[]],
        [["1"]],
        [["1", 2]],
        [["1", "2", "3"]],
    ),
)
#: Below the 16 MiB that a connection takes by default, and above.
_LARGE, _TOO_LARGE = 4 << 20, 17 << 20


def garbage() -> list[str | bytes]:
    """Return what is not a frame of any venue."""
    return [
        *("", " ", "{", "}", "[]", "{}", "null", "NaN", '"text"', "0", "<html>502 Bad Gateway</html>"),
        *(b"", b"\x00", b"\xff\xfe\xfd", b"\x1f\x8b\x08\x00", '{"type":"none of this name"}', '{"data":{}}'),
        *("[" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000, '[1,[],"x","y"]', '{"type":null,"channel":7}'),
    ]


def halves(frame: str | bytes) -> list[str | bytes]:
    """Return a frame cut off near its beginning, in its middle, and before its last character."""
    length = len(frame)
    return [frame[:cut] for cut in sorted({1, length // 2, length - 1}) if 0 < cut < length]


def giants() -> list[str]:
    """Return large frames: one text, many levels, and one that is more than a connection takes."""
    levels = '["100.10","1.50"],' * (_LARGE // 18)
    return [
        '{"text":"' + "x" * _LARGE + '"}',
        f'{{"bids":[{levels}["100.10","1.50"]]}}',
        '{"text":"' + "x" * _TOO_LARGE + '"}',
    ]


def mutated(frame: str | bytes, rng: random.Random) -> str | bytes:
    """Return a frame with one to three parts replaced, dropped or doubled; one that is no JSON, with other bytes."""
    try:
        value = json.loads(frame)
    except (ValueError, RecursionError):
        return _scrambled(frame, rng)
    for _ in range(rng.randint(1, 3)):
        spots = [path for path in _spots(value) if path]
        if spots:
            _change(value, rng.choice(spots), rng)
    return json.dumps(value)


def _scrambled(frame: str | bytes, rng: random.Random) -> bytes:
    raw = bytearray(frame if isinstance(frame, bytes) else frame.encode("utf-8", "replace"))
    for _ in range(min(len(raw), rng.randint(1, 4))):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def _change(value: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    *parents, key = path
    for each in parents:
        value = value[each]
    match rng.randrange(4):
        case 0:
            del value[key]
        case 1:
            value[key] = [value[key], deepcopy(value[key])]
        case _:
            value[key] = deepcopy(rng.choice(_ODD))


def _spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of everything inside."""
    yield path
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    for key, each in inside:
        yield from _spots(each, (*path, key))


def with_mutations(frames: tuple[GoldenFrame, ...], rng: random.Random) -> list[GoldenFrame]:
    """Return the frames with about a third of them mutated, each seed otherwise."""
    return [
        GoldenFrame(mutated(each.payload, rng), each.url, each.is_body) if rng.random() < 0.34 else each
        for each in frames
    ]
