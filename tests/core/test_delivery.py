"""The contract: defaults, and what comes into force."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.conflation import REPLACEABLE
from broker.core.delivery import Delivery, DeliveryLimits, DeliveryRequest, negotiate
from broker.core.errors import RequestError
from broker.core.requests import convert
from broker.core.ticks import CHANNELS, Channel
from tests import strategies

LIMITS = DeliveryLimits(queue_ticks=500)


@pytest.mark.parametrize("ch", CHANNELS)
def test_default_is_latest_where_the_newest_says_it_all_and_every_elsewhere(ch: Channel) -> None:
    delivery = negotiate(ch, DeliveryRequest(), LIMITS)
    if ch in REPLACEABLE:
        assert delivery == Delivery("latest", None, 0, None, None, None)
    else:
        assert delivery == Delivery("every", None, 0, 500, "gap", None)


@pytest.mark.parametrize(
    ("ch", "asked", "code", "text"),
    [
        ("trade", {"max_rate": 5}, "invalid_delivery", "delivery.max_rate: 5.0 goes with mode 'latest' only"),
        ("quote", {"mode": "every", "max_rate": 5}, "invalid_delivery", "ask for mode 'latest'"),
        ("quote", {"queue": 5}, "invalid_delivery", "delivery.queue: 5"),
        ("quote", {"overflow": "evict"}, "invalid_delivery", "delivery.overflow: 'evict'"),
    ],
)
def test_what_makes_no_sense_together_is_refused_by_name(
    ch: Channel, asked: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(RequestError) as caught:
        negotiate(ch, convert(asked, DeliveryRequest), LIMITS)
    assert caught.value.code == code
    assert text in str(caught.value)


def test_query_parameters_may_bring_numbers_as_text() -> None:
    assert convert({"queue": "5", "max_rate": "0.5"}, DeliveryRequest, strict=False).queue == 5
    with pytest.raises(RequestError, match="queue: 'five' is not right"):
        convert({"queue": "five"}, DeliveryRequest, strict=False)


@given(st.sampled_from(CHANNELS), strategies.DELIVERIES, strategies.DELIVERIES)
def test_what_is_in_force_is_within_the_limits_and_a_change_keeps_the_rest(
    ch: Channel, first: dict[str, Any], second: dict[str, Any]
) -> None:
    try:
        before = negotiate(ch, convert(first, DeliveryRequest), LIMITS)
        after = negotiate(ch, convert(second, DeliveryRequest), LIMITS, before)
    except RequestError:
        return
    for delivery in (before, after):
        if delivery.mode == "every":
            assert delivery.queue is not None
            assert 1 <= delivery.queue <= LIMITS.queue_ticks
        else:
            assert (delivery.queue, delivery.overflow) == (None, None)
        assert delivery.max_rate is None or delivery.mode == "latest"
    assert negotiate(ch, DeliveryRequest(), LIMITS, after) == after
    for field in ("mode", "max_delay_ms", "max_age_ms"):
        wanted = second[field] if field in second else getattr(before, field)
        assert getattr(after, field) == wanted
