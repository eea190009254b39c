"""From what a client sent to a typed request, or to an error that says what would have been right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

import msgspec

from broker.core.delivery import DeliveryRequest, Mode, Overflow
from broker.core.errors import RequestError
from broker.core.messages import REQUESTS, ReplayRequest, Request

T = TypeVar("T")

#: The steps of a path like ``symbols[3]``.
_PATH = re.compile(r"[^.\[\]]+")
#: What msgspec says of a name that isn't text; JSON has none, MessagePack has.
_ODD_KEY = re.compile(r" - at `key` in `\$[^`]*`$")

#: Members of requests that are objects themselves.
_MEMBERS: dict[str, type[msgspec.Struct]] = {"delivery": DeliveryRequest, "replay": ReplayRequest}

#: What msgspec does not say of a value that may be of several types.
_WANTED = {"speed": "a number from 0.01 to 10000, or 'max'"}

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
    if text.startswith("Object contains unknown field") or _ODD_KEY.search(text):
        return _explain_unknown(fields)
    # From the end: a value that a client made up stands before the path, and may look like one.
    what, at, path = text.rpartition(" - at `$")
    if not at:
        what, path = text, ""
    where = path.rstrip("`").lstrip(".")
    names = _PATH.findall(where)
    value = _value_at(fields, names)
    if "missing required field" in what:
        return RequestError("invalid_request", f"{what.split('`')[1]}: is missing; {what}")
    if names and names[-1] in _WANTED:
        return RequestError(
            "invalid_request", f"{where}: {show(value)} is not right: it must be {_WANTED[names[-1]]}"
        )
    choices = CHOICES.get(names[-1]) if names else None
    if choices is not None:
        return RequestError(
            "invalid_request",
            f"{where}: {show(value)} is not one of {', '.join(choices)}{nearest(value, choices)}",
        )
    return RequestError("invalid_request", f"{where}: {show(value)} is not right: {what}")


def _explain_unknown(fields: Any) -> RequestError:
    """Name the first field that is not known; msgspec's text can't be taken apart for a name of any shape."""
    prefix, known = "", _fields_known(fields)
    odd = [name for name in fields if name not in known]
    if not odd:
        prefix, fields, known, odd = _odd_within(fields)
    name = odd[0]
    shown = name if isinstance(name, str) and len(name) <= 80 and name.isprintable() else show(name)
    return RequestError(
        "unknown_field",
        f"{prefix}{shown}: {show(fields[name])} is for a field that is not known here; "
        f"there are {', '.join(known)}{nearest(name, known)}",
    )


def _odd_within(fields: Any) -> tuple[str, Any, list[str], list[Any]]:
    """Return the member that has fields which are not known, and which those are."""
    for member, kind in _MEMBERS.items():
        inner = fields.get(member)
        if isinstance(inner, dict):
            known = _encoded_names(kind)
            odd = [name for name in inner if name not in known]
            if odd:
                return f"{member}.", inner, known, odd
    raise AssertionError("msgspec refused a field that is known")


def _value_at(fields: Any, names: Iterable[str]) -> Any:
    """Follow msgspec's path as far as it goes."""
    value = fields
    for name in names:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit():
            value = value[int(name)]
        else:
            break
    return value


def _fields_known(fields: Any) -> list[str]:
    """Return the fields of a request, or of a contract where there is no ``op``."""
    kind = REQUESTS.get(fields.get("op", "")) if isinstance(fields, dict) else None
    return _encoded_names(DeliveryRequest) if kind is None else ["op", *_encoded_names(kind)]


def _encoded_names(kind: type[msgspec.Struct]) -> list[str]:
    return [item.encode_name for item in msgspec.structs.fields(kind)]


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
