"""The wording of mistakes: where a value comes from, the value, and what would have been right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")
#: pydantic's texts, in the words of a configuration file.
_WANTED = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text in quotes",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
_SHOWN_CHARS = 80


def show(value: object) -> str:
    """Return ``value`` as a file would have it, cut to a readable length."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = f'"{one_line(value)}"'
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key} = {show(part)}" for key, part in list(value.items())[:8]) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(show(part) for part in value[:20]) + "]"
    else:
        text = _safe_str(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 4] + " ..."


def one_line(text: str) -> str:
    """Escape what would break a line, or play tricks with a terminal: keys and names come from anywhere."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _safe_str(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an int of more digits than Python is willing to print
        return "a very large number"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that ``word`` was meant to be, if one is near enough to say so."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: object, choices: Iterable[str], *, form: str = '"{}"') -> str:
    """Return the end of a sentence that names the nearest of ``choices``, or all of them if none is near."""
    known = list(choices)
    guess = nearest(word, known) if isinstance(word, str) else None
    if guess is not None:
        return f"; did you mean {form.format(guess)}?"
    return f"; there are {', '.join(form.format(choice) for choice in sorted(known))}"


def one_of(choices: Iterable[str]) -> str:
    """Say that only ``choices`` are right."""
    quoted = [f'"{choice}"' for choice in choices]
    return f"must be {quoted[0]}" if len(quoted) == 1 else f"must be one of {', '.join(quoted)}"


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def wanted(field: FieldInfo) -> str:
    """Say which values the field of a section takes, with its range."""
    choices = getattr(field.annotation, "__args__", None)
    if choices:
        return one_of(choices)
    if field.annotation is bool:
        return "must be true or false"
    if field.annotation is str:
        return "must be text in quotes"
    kind = "a whole number" if field.annotation is int else "a number"
    low, high = (_bound(field, name) for name in ("ge", "le"))
    return f"must be {kind} from {_number(low)} to {_number(high)}" if low is not None else f"must be {kind}"


def _bound(field: FieldInfo, name: str) -> Any:
    return next((getattr(part, name) for part in field.metadata if hasattr(part, name)), None)


def reason(error: ErrorDetails) -> str:
    """Say what would have been right, for a feed's own keys; a wrong choice gets the nearest right one."""
    kind, value = error["type"], error["input"]
    ctx = error.get("ctx", {})
    match kind:
        case "value_error":
            return str(ctx.get("error", error["msg"]))
        case "literal_error" | "enum":
            choices = _QUOTED.findall(str(ctx.get("expected", "")))
            text = one_of(choices)
            guess = nearest(value, choices) if isinstance(value, str) else None
            return f'{text}; did you mean "{guess}"?' if guess else text
        case "greater_than_equal":
            return f"must be at least {_number(ctx['ge'])}"
        case "greater_than":
            return f"must be more than {_number(ctx['gt'])}"
        case "less_than_equal":
            return f"must be at most {_number(ctx['le'])}"
        case "too_short":
            return f"must be a list of at least {ctx['min_length']}"
        case "too_long":
            return f"must be a list of at most {ctx['max_length']}"
        case "less_than":
            return f"must be less than {_number(ctx['lt'])}"
    return _WANTED.get(kind) or error["msg"][:1].lower() + error["msg"][1:]
