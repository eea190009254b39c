"""Who may see the pages about other people's sessions, while there are no keys: whom `[server] admin` names."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal, TypeAlias

from starlette.requests import Request

Admin: TypeAlias = Literal["local", "everyone", "nobody"]

#: What a proxy adds: then the peer is the proxy, and says nothing about who asks.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def is_allowed(request: Request, admin: Admin) -> bool:
    """Tell whether a request may be answered.

    ``local`` is a peer on a loopback address which also asked for one: a page of somebody else's, whose name
    resolves to 127.0.0.1 in the operator's own browser, asks for that name (DNS rebinding).
    """
    if admin != "local":
        return admin == "everyone"
    if any(name in request.headers for name in FORWARDED):
        return False
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and _is_loopback(request.url.hostname)
    )


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return host is not None
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
