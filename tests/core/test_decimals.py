"""Decimal text beside exact fractions."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.decimals import add, is_zero, number_key, plain_text

_DIGITS = r"[0-9]{1,12}(\.[0-9]{1,12})?"
PLAIN = st.from_regex(rf"-?{_DIGITS}", fullmatch=True)
WITH_EXPONENT = st.from_regex(rf"-?{_DIGITS}[eE][+-]?[0-9]{{1,2}}", fullmatch=True)
NUMBERS = PLAIN | WITH_EXPONENT | st.from_regex(r"-?0{1,3}(\.0{1,9})?([eE]-?[0-9])?", fullmatch=True)


@given(NUMBERS)
def test_number_is_zero_if_its_value_is(number: str) -> None:
    assert is_zero(number) == (Fraction(number) == 0)


@given(NUMBERS, NUMBERS)
def test_keys_are_equal_where_the_values_are(one: str, other: str) -> None:
    assert (number_key(one) == number_key(other)) == (Fraction(one) == Fraction(other))


@given(NUMBERS, st.integers(0, 9), st.integers(0, 3))
def test_more_zeros_at_either_end_are_the_same_number(number: str, behind: int, before: int) -> None:
    digits, sign, exponent = number.removeprefix("-").lower(), number[:1] == "-", ""
    if "e" in digits:
        digits, _, exponent = digits.partition("e")
    if "." not in digits:
        digits += "."
    longer = "-" * sign + "0" * before + digits + "0" * behind + ("E" + exponent if exponent else "")
    assert number_key(longer) == number_key(number)


@pytest.mark.parametrize("text", ["", "abc", "one", "NaN", "Infinity", "-", ".", "1.5x", "--1", "e", "0x10"])
def test_what_is_no_number_is_not_zero_and_has_a_key(text: str) -> None:
    assert not is_zero(text)
    assert isinstance(number_key(text), str)


@given(NUMBERS, NUMBERS)
def test_sum_is_exact_and_has_the_decimals_of_the_longer_one(one: str, other: str) -> None:
    total = plain_text(add(Decimal(one), Decimal(other)))
    assert Fraction(total) == Fraction(one) + Fraction(other)
    if "e" not in (one + other).lower():
        decimals = max(len(number.partition(".")[2]) for number in (one, other))
        assert len(total.partition(".")[2]) == decimals


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        ("0.00000001", "123456789012345678901234567890", "123456789012345678901234567890.00000001"),
        ("1e-8", "1", "1.00000001"),
        ("1E+2", "1E2", "200"),
        ("1.50", "1.5", "3.00"),
        ("0", "0.00000000", "0.00000000"),
    ],
)
def test_sum_keeps_every_digit_and_needs_no_exponent(one: str, other: str, total: str) -> None:
    assert plain_text(add(Decimal(one), Decimal(other))) == total


def test_absurdly_large_number_is_not_written_out() -> None:
    assert plain_text(Decimal("1e999999")) == "1E+999999"
    assert len(plain_text(add(Decimal("1e9999999"), Decimal(1)))) < 5000
    assert len(plain_text(Decimal("1e-999999"))) < 20


def test_signalling_nan_can_not_be_added() -> None:
    with pytest.raises(InvalidOperation):
        add(Decimal("sNaN"), Decimal(1))
