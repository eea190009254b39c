"""Hypothesis strategies for frames that are almost those of a venue."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [2**63, -(2**63) - 1, 10**400, 1e400, -0.0, 61837.63, "", "0", "-1", "1,2", "1\n", "١٢", "1e-8"]
    ),
    st.sampled_from(["NaN", "1e999", "0" * 70, "BTC-USD", "btcusdt@trade", "9999-12-31T23:59:59Z", "\ud800"]),
    st.sampled_from([[], {}, [[]], [["1", "2", "3"]], [["1"]], [["1", 2]], [["2", "0.0"], ["3", "1"]]]),
    st.text(max_size=8),
)
_DEEP = b'{"type":' + b"[" * 3000 + b"]" * 3000 + b',"stream":"x@trade"}'
_GARBAGE = st.one_of(
    st.binary(max_size=64),
    st.text(max_size=64),
    st.sampled_from(
        [b"", b"{", b"[]", b"null", b"NaN", b"\xff\xfe", _DEEP, b"[" * 100_000, b'{"type":"l2update"']
    ),
)


def _spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything inside."""
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [path, *(spot for key, each in inside for spot in _spots(each, (*path, key)))]


def _changed(draw: st.DrawFn, frame: Any) -> Any:
    """Replace, drop or double one part of a decoded frame."""
    *parents, key = draw(st.sampled_from([spot for spot in _spots(frame) if spot]))
    where = frame
    for each in parents:
        where = where[each]
    action = draw(st.sampled_from(["replace", "replace", "drop", "swap"]))
    if action == "replace":
        where[key] = deepcopy(draw(_ODD))
    elif action == "drop":
        del where[key]
    else:
        where[key] = [where[key], where[key]]
    return frame


@st.composite
def frames(draw: st.DrawFn, originals: list[bytes]) -> bytes | str:
    """A venue's frame, changed in up to three places, cut or not; or garbage."""
    if draw(st.integers(0, 9)) == 0:
        return draw(_GARBAGE)
    frame = json.loads(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 3))):
        if len(_spots(frame)) > 1:
            frame = _changed(draw, frame)
    text = json.dumps(frame)
    if draw(st.integers(0, 9)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text if draw(st.booleans()) else text.encode()
