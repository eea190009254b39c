"""The texts of refusals. What is refused over a whole session is in test_session.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RequestError
from broker.core.requests import nearest, request_id, show, to_request
from tests import strategies


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "'x'"),
        ([1, 2], "list of 2"),
        ({"a": 1}, "dict of 1"),
        ("\ud800\n", "'\\ud800\\n'"),
        (None, "None"),
        ("x" * 500, "'" + "x" * 76 + "..."),
    ],
)
def test_values_are_shown_short_and_printable(value: Any, text: str) -> None:
    assert show(value) == text
    assert len(show(value)) <= 80


def test_nearest_names_what_is_near_and_is_silent_where_nothing_is() -> None:
    assert nearest("symbls", ["symbols", "ch"]) == "; did you mean 'symbols'?"
    assert nearest("zzz", ["symbols", "ch"]) == nearest(5, ["ch"]) == nearest("s" * 1000, ["symbols"]) == ""


@given(strategies.REQUESTS)
def test_request_is_its_type_or_a_refusal_that_can_be_sent(message: dict[str, Any]) -> None:
    refusal = None
    try:
        request = to_request(message)
    except RequestError as exc:
        refusal = exc
    if refusal is None:
        assert request.__struct_config__.tag == message["op"]
        return
    assert refusal.code in ("unknown_op", "unknown_field", "invalid_request")
    assert 0 < len(str(refusal).encode()) < 2000


@given(
    st.dictionaries(
        st.one_of(strategies.TEXT, st.binary(max_size=5), st.integers()), strategies.PLAIN, max_size=3
    )
)
def test_odd_names_are_named(odd: dict[Any, Any]) -> None:
    message = {**odd, "op": "ping", "id": 1}
    unknown = [name for name in message if name not in ("op", "id")]
    if not unknown:
        assert to_request(message).id == 1
        return
    with pytest.raises(RequestError) as caught:
        to_request(message)
    assert caught.value.code == "unknown_field"
    assert any(str(caught.value).startswith((f"{name}: ", f"{show(name)}: ")) for name in unknown), str(
        caught.value
    )


@given(strategies.PLAIN)
def test_id_is_an_integer_that_can_be_echoed_or_a_refusal(value: Any) -> None:
    if type(value) is int:
        assert request_id({"id": value}) == value
    else:
        with pytest.raises(RequestError, match="id: "):
            request_id({"id": value})
