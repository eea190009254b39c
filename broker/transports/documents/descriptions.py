"""What the source says about a struct and its fields, as Markdown.

A field is described in the docstring's ``Attributes:`` section or by a ``#:`` comment right above it.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from functools import cache
from typing import Any

_CLASS = re.compile(r"class (\w+)")
_COMMENT = re.compile(r"    #: ?(.*)")
_FIELD = re.compile(r"    (\w+)\s*:")
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)", re.DOTALL)
_JSON_NAMES = {"`None`": "null", "`True`": "true", "`False`": "false"}


def summary(kind: type[Any]) -> str:
    """Return the first paragraph of a docstring, in one line."""
    return description(kind).partition("\n\n")[0]


def description(kind: type[Any]) -> str:
    """Return a class's docstring without its ``Attributes:`` section."""
    return _markdown(_sections(kind)[0])


def field_descriptions(kind: type[Any]) -> dict[str, str]:
    """Return the texts of a class's fields, its bases' included, by attribute name.

    Fields that nobody described are left out; so are ``#:`` comments where the source is not at hand.
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.partition(".")[0] == "msgspec":
            continue
        found.update(_from_comments(base))
        found.update(_from_docstring(base))
    return {name: _markdown(text) for name, text in found.items()}


def _sections(kind: type[Any]) -> tuple[str, str]:
    """Return a docstring's text, and the lines of its ``Attributes:``."""
    text, _, attributes = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("\nAttributes:\n")
    return text.strip(), textwrap.dedent(attributes.partition("\n\n")[0])


def _from_docstring(kind: type[Any]) -> dict[str, str]:
    found = {}
    # An entry goes on over the lines that are indented below it.
    for entry in re.split(r"\n(?=\S)", _sections(kind)[1]):
        match = _ENTRY.fullmatch(entry)
        if match is not None:
            found.update(dict.fromkeys(match[1].split(", "), match[2]))
    return found


def _from_comments(kind: type[Any]) -> dict[str, str]:
    return _comments(kind.__module__).get(kind.__qualname__, {})


@cache
def _comments(module: str) -> dict[str, dict[str, str]]:
    """Return the ``#:`` comments right above the fields of a module's classes, by class and field.

    One pass over the lines: `inspect.getsource` parses the module anew for each class, 2 ms each, and the
    documents are made while subscribers wait.
    """
    try:
        lines = inspect.getsource(sys.modules[module]).splitlines()
    except OSError:
        return {}
    found: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    comment: list[str] = []
    for line in lines:
        if match := _CLASS.match(line):
            fields = found.setdefault(match[1], {})
        elif match := _COMMENT.match(line):
            comment.append(match[1])
            continue
        elif comment and (match := _FIELD.match(line)):
            fields[match[1]] = " ".join(comment)
        comment = []
    return found


def _markdown(text: str) -> str:
    """Turn a docstring's paragraphs into lines, and its Python names into those of JSON."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    joined = "\n\n".join(paragraphs).replace("``", "`")
    for python, json in _JSON_NAMES.items():
        joined = joined.replace(python, json)
    return joined
