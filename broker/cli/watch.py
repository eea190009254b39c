"""``tapecast watch``: follow symbols in the terminal."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from broker.cli import exits

DEFAULT_URL = "http://127.0.0.1:8765"


def watch(
    *symbols: Annotated[str, Parameter(help="SIM:ACME, 'SIM:*' or '*'; quote the star for the shell.")],
    url: Annotated[str, Parameter(help="The broker.")] = DEFAULT_URL,
    ch: Annotated[
        list[str] | None,
        Parameter("--ch", negative="", help="quote, trade, book, bar or status; several: --ch quote,trade."),
    ] = None,
    as_json: Annotated[bool, Parameter("--json", negative="", help="One JSON object a line.")] = False,
) -> int:
    """Follow symbols: a live table for people, or JSON for machines.

    Without --ch it follows quotes and trades.
    """
    from broker.config.problems import did_you_mean
    from broker.core.ticks import CHANNELS

    channels = list(
        dict.fromkeys(part.strip() for text in ch or ["quote", "trade"] for part in text.split(","))
    )
    if not symbols:
        exits.complain("watch: name at least one symbol, e.g. tapecast watch SIM:ACME 'COINBASE:*'")
        return exits.USAGE
    for channel in channels:
        if channel not in CHANNELS:
            exits.complain(f'watch: no channel "{channel}"{did_you_mean(channel, CHANNELS)}')
            return exits.USAGE

    import trio

    from broker.client.watch import watch as follow

    async def main() -> int:
        return await follow(url, symbols, channels=channels, as_json=as_json)

    return trio.run(main)
