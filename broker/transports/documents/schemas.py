"""JSON schemas of the wire types, for both documents.

msgspec makes them; what it can't know is put right here: nanoseconds are text in JSON, fields that the
broker always sends are required, and types with a name of their own (`Decimals`, `Tick`) become
components of that name instead of being repeated wherever they are used. The result is valid as JSON
Schema draft 7 (AsyncAPI 3.0) and 2020-12 (OpenAPI 3.1), but for the discriminators, which only OpenAPI has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import NODEFAULT, UNSET, Struct

from broker.core import delivery, mailbox, messages, ticks
from broker.transports import pages
from broker.transports.documents.descriptions import description, field_descriptions

Schema: TypeAlias = dict[str, Any]

TEMPLATE = "#/components/schemas/{name}"
#: Types that are no structs and yet have a name that a reader should meet, and what it says there.
ALIASES: dict[str, tuple[Any, str]] = {
    "Nanos": (ticks.Nanos, "Nanoseconds since the Unix epoch, UTC: text in JSON, an integer in MessagePack."),
    "Decimal": (
        ticks.Decimals,
        "A decimal number as text, with the digits that the venue sent; never a float.",
    ),
    "Level": (ticks.Level, "Price and size; size `0` removes the level."),
    "Symbol": (ticks.Symbol, "`VENUE:SYMBOL`, upper case."),
    "Cursor": (messages.Cursor, "Where to resume; opaque, and good for the whole session."),
    "Channel": (ticks.Channel, "What kind of tick."),
    "Tick": (ticks.Tick, "One market event of one instrument; `ch` tells which kind."),
    "Request": (messages.Request, "What a client sends; `op` tells which."),
    "ServerMessage": (messages.ServerMessage, "What the broker sends; `type` tells which."),
}


def _structs() -> dict[str, type[Struct]]:
    found = [
        value for module in (ticks, delivery, mailbox, messages, pages) for value in vars(module).values()
    ]
    return {kind.__name__: kind for kind in found if isinstance(kind, type) and issubclass(kind, Struct)}


#: The structs of the modules that define the wire, by name.
STRUCTS = _structs()


def ref(name: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": TEMPLATE.format(name=name)}


def components(names: Iterable[str]) -> dict[str, Schema]:
    """Return the schemas of types and of everything they refer to, sorted by name.

    Args:
        names: of structs or of `ALIASES`.
    """
    names = list(names)
    kinds = {name: ALIASES[name][0] if name in ALIASES else STRUCTS[name] for name in [*ALIASES, *names]}
    refs, structs = msgspec.json.schema_components(kinds.values(), ref_template=TEMPLATE)
    whole = {name: schema for name, schema in zip(kinds, refs, strict=True) if name in ALIASES}
    out = {name: _shared(schema, whole, skip=name) for name, schema in [*whole.items(), *structs.items()]}
    # What a reader of MessagePack meets in its place stands beside it.
    out["Nanos"] |= {
        "type": "string",
        "pattern": r"^-?\d{1,20}$",
        "examples": ["1751292187250000001"],
        "x-messagepack": {"type": "integer"},
    }
    reached = {name: out[name] for name in sorted(_reachable(out, names))}
    for name, schema in reached.items():
        if name in ALIASES:
            schema["description"] = ALIASES[name][1]
        else:
            _complete(schema, STRUCTS[name])
    return reached


def references(node: Any) -> Iterator[str]:
    """Yield every ``$ref`` in a document, and in a discriminator's mapping, which is no less of one."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        if isinstance(node.get("discriminator"), dict):
            yield from node["discriminator"]["mapping"].values()
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def _reachable(schemas: dict[str, Schema], names: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += [target.rpartition("/")[2] for target in references(schemas[name])]
    return reached


def _shared(node: Any, whole: dict[str, Schema], *, skip: str = "") -> Any:
    """Put references in the place of schemas that have a name, and one spelling in that of several.

    Args:
        whole: the schemas of `ALIASES`, as msgspec writes them wherever they are used.
        skip: the one that ``node`` itself is.
    """
    if isinstance(node, list):
        return [_shared(value, whole) for value in node]
    if not isinstance(node, dict):
        return node
    for name, schema in whole.items():
        if name != skip and node == schema:
            return ref(name)
    out = {key: _shared(value, whole) for key, value in node.items()}
    pair = out.pop("prefixItems", None)
    if pair is not None:
        # Drafts 7 and 2020-12 spell tuples differently, and arrays alike.
        if any(item != pair[0] for item in pair):
            raise TypeError(f"a tuple of different types has no schema that both documents know: {node}")
        out["items"] = pair[0]
    if "discriminator" in out:
        out["oneOf"] = out.pop("anyOf")
    if isinstance(out.get("enum"), list):
        out = {"type": "string", **out}
        if len(out["enum"]) == 1:
            out["const"] = out.pop("enum")[0]
    return out


def _complete(schema: Schema, kind: type[Struct]) -> None:
    """Add a struct's texts, and require what is always there."""
    schema["description"] = description(kind)
    texts = field_descriptions(kind)
    config = kind.__struct_config__
    # What refuses unknown fields comes from a client, who may leave out whatever has a default.
    always_sent = not config.forbid_unknown_fields and not config.omit_defaults
    for field in msgspec.structs.fields(kind):
        property_ = schema["properties"][field.encode_name]
        if field.name in texts:
            schema["properties"][field.encode_name] = _described(property_, texts[field.name])
        optional = field.default is not NODEFAULT or field.default_factory is not NODEFAULT
        if always_sent and optional and field.default is not UNSET:
            property_.pop("default", None)
            schema["required"].append(field.encode_name)
    order = list(schema["properties"])
    schema["required"].sort(key=order.index)


def _described(schema: Schema, text: str) -> Schema:
    # Draft 7 ignores what stands beside a reference.
    return {"description": text, "allOf": [schema]} if "$ref" in schema else {**schema, "description": text}
