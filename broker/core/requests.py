"""From what a client sent to a typed request, or to an error that says what would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

import msgspec

from broker.core.delivery import DeliveryRequest, Mode, Overflow
from broker.core.errors import RequestError
from broker.core.messages import REQUESTS, Request

T = TypeVar("T")

#: What msgspec does not say of a wrong choice.
CHOICES: dict[str, tuple[str, ...]] = {"mode": get_args(Mode), "overflow": get_args(Overflow)}


def request_id(fields: Any) -> int:
    """Return the number of a request.

    Raises:
        RequestError: ``invalid_message``: there is no telling what this is.
    """
    if not isinstance(fields, dict):
        raise RequestError("invalid_message", f"a request is an object with op and id, not {show(fields)}")
    id_ = fields.get("id")
    if type(id_) is not int or not -(2**63) <= id_ < 2**64:
        raise RequestError("invalid_message", f"id: {show(id_)} is not an integer; every request has one")
    return id_


def to_request(fields: dict[str, Any]) -> Request:
    """Turn a request's plain objects into its type.

    Raises:
        RequestError: ``unknown_op``, or as `convert`.
    """
    op = fields.get("op")
    kind = REQUESTS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise RequestError(
            "unknown_op", f"op: {show(op)} is not one of {', '.join(REQUESTS)}{nearest(op, REQUESTS)}"
        )
    return convert(fields, kind)


def convert(fields: Any, kind: type[T], *, strict: bool = True) -> T:
    """Turn plain objects into a wire type.

    Args:
        strict: False: numbers may come as text (query parameters).

    Raises:
        RequestError: ``unknown_field`` or ``invalid_request``, with the field, its value and what is right.
    """
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise _explain(str(exc), fields) from None


def _explain(text: str, fields: Any) -> RequestError:
    """Put the field first, and its value before what msgspec says of it."""
    what, _, path = text.partition(" - at `$")
    names = [part for part in path.rstrip("`").replace("[", ".").replace("]", "").split(".") if part]
    where = ".".join(names)
    value = _value_at(fields, names)
    if "unknown field" in what:
        name = what.split("`")[1]
        known = _fields_known(fields, where)
        full = f"{where}.{name}" if where else name
        got = show(value.get(name) if isinstance(value, dict) else value)
        return RequestError(
            "unknown_field",
            f"{full}: {got} is for a field that is not known here; there are {', '.join(known)}{nearest(name, known)}",
        )
    if "missing required field" in what:
        return RequestError("invalid_request", f"{what.split('`')[1]}: is missing; {what}")
    choices = CHOICES.get(names[-1]) if names else None
    if choices is not None:
        return RequestError(
            "invalid_request",
            f"{where}: {show(value)} is not one of {', '.join(choices)}{nearest(value, choices)}",
        )
    return RequestError("invalid_request", f"{where}: {show(value)} is not right: {what}")


def _value_at(fields: Any, names: Iterable[str]) -> Any:
    """Follow msgspec's path as far as it goes; an index is shown as ``...``: take the first odd one out."""
    value = fields
    for name in names:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list):
            value = next((item for item in value if not isinstance(item, str)), None)
        else:
            break
    return value


def _fields_known(fields: Any, where: str) -> list[str]:
    kind: Any = DeliveryRequest
    if not where and isinstance(fields, dict):
        kind = REQUESTS.get(fields.get("op", ""), DeliveryRequest)
    names = [item.encode_name for item in msgspec.structs.fields(kind)]
    return names if kind is DeliveryRequest else ["op", *names]


def nearest(wrong: Any, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing if nothing is near."""
    close = (
        difflib.get_close_matches(wrong, list(known), 1) if isinstance(wrong, str) and len(wrong) < 80 else []
    )
    return f"; did you mean {close[0]!r}?" if close else ""


def show(value: Any) -> str:
    """Return a value for an error's text, at most 80 characters of it."""
    text = f"{type(value).__name__} of {len(value)}" if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
