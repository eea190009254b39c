"""The OpenAPI and AsyncAPI documents, made from the types that go over the wire.

    types and docstrings ──▶ schemas ──▶ asyncapi, openapi
    examples, through the real codec and framing ──┘

No field is described here: names, types and bounds are those of the structs, texts are their docstrings
and ``#:`` comments. What stands here is what no type says: which path or message takes which type.
"""

from broker.transports.documents.asyncapi import asyncapi
from broker.transports.documents.openapi import openapi

__all__ = ["asyncapi", "openapi"]
