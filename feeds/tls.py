"""How the certificate of a server that a feed connects to is checked."""

from __future__ import annotations

import ssl

from broker.core.errors import FeedPermanentError


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return how servers are checked: by the system's authorities, and those of a PEM file, if one is named.

    Raises:
        FeedPermanentError: the file can't be used.
    """
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise FeedPermanentError(f"tls_ca = {ca_file!r:.200} can't be used: {exc}") from None
    return context
