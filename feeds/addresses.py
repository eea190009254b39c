"""Where a message came from says what it is of: subjects and keys like ``md.{ch}.{symbol}``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_PLACE = re.compile(r"\{([^{}]*)\}")
_PLACES = ("ch", "symbol")


class Address(NamedTuple):
    """What an address says of the ticks that come from it; ``None``: nothing, so the tick says it.

    Attributes:
        ch: the channel as it stands there, which may be none that exists.
        symbol: without the venue, as it stands there.
    """

    ch: str | None = None
    symbol: str | None = None


class AddressPattern:
    """A subject or a key, with ``{ch}`` and ``{symbol}`` at the places of a tick's channel and symbol.

    Args:
        template: as configured.
        separator: what a placeholder does not reach across, but for one at the very end; "" if there is nothing.
        wildcards: of the source's own, each a single character, and the regular expression of what it stands for.

    Raises:
        ValueError: a placeholder is unknown, stands twice or beside another one.
    """

    def __init__(
        self, template: str, separator: str = "", wildcards: Mapping[str, str] | None = None
    ) -> None:
        names = _PLACE.findall(template)
        for name in names:
            if name not in _PLACES or names.count(name) > 1:
                raise ValueError(
                    f"{template!r:.80} may have one {{ch}} and one {{symbol}}, and no other placeholder"
                )
        if "}{" in template or "{" in _PLACE.sub("", template) or "}" in _PLACE.sub("", template):
            raise ValueError(f"{template!r:.80} must have something between its placeholders")
        self.template = template
        self.has_symbol = "symbol" in names
        self._separator = separator
        self._is_address = re.compile(self._expression(template, wildcards or {})).fullmatch

    def match(self, address: str) -> Address | None:
        """Return what an address says, ``None`` if it is none of this pattern."""
        found = self._is_address(address)
        if found is None:
            return None
        parts = found.groupdict()
        return Address(parts.get("ch"), parts.get("symbol"))

    def filled(self, ch: str, symbol: str, last: str | None = None) -> str:
        """Return the template with other texts in the places; ``last`` is for a ``{symbol}`` at the very end."""
        text = self.template.replace("{ch}", ch)
        if last is not None and text.endswith("{symbol}"):
            return text.removesuffix("{symbol}") + last
        return text.replace("{symbol}", symbol)

    def of_symbols(self, symbols: Iterable[str]) -> list[str]:
        """Return the template for each symbol; for none in particular if it has no place for one."""
        if not self.has_symbol:
            return [self.template]
        return [self.template.replace("{symbol}", symbol) for symbol in symbols]

    def _expression(self, template: str, wildcards: Mapping[str, str]) -> str:
        within = f"[^{re.escape(self._separator)}]+" if self._separator else ".+"
        parts: list[str] = []
        at = 0
        for place in _PLACE.finditer(template):
            parts.append(_literal(template[at : place.start()], wildcards))
            inner = ".+" if place.end() == len(template) else within
            parts.append(f"(?P<{place[1]}>{'[a-z]+' if place[1] == 'ch' else inner})")
            at = place.end()
        parts.append(_literal(template[at:], wildcards))
        return "".join(parts)


def _literal(text: str, wildcards: Mapping[str, str]) -> str:
    return "".join(wildcards.get(char) or re.escape(char) for char in text)
