"""An adapter that does its own I/O: asks a REST page for the quotes that somebody wants now, and for no others.

    [[feeds]]
    type = "./examples/feeds/own_io.py:Polled"
    every_s = 2.0

Source: https://www.okx.com/docs-v5/en/ ("Get ticker"), as known on 2026-11-21; 20 requests in 2 seconds are allowed.
"""

from typing import Annotated

import trio
from pydantic import Field

from broker.core.errors import FrameError
from broker.core.ticks import Quote
from feeds.base import Feed, FeedContext, FeedOptions
from feeds.frames import epoch_to_ns


class Polled(Feed):
    """OKX over REST: quotes of the symbols that subscribers name."""

    api_version = 1
    venue = "OKX"

    class Options(FeedOptions):
        url: str = "https://www.okx.com"
        every_s: Annotated[float, Field(ge=0.1)] = 1.0

    def __init__(self, options: Options) -> None:
        self.options = options

    async def run(self, ctx: FeedContext) -> None:
        while True:
            if not (wanted := ctx.wanted.symbols("quote")):
                await ctx.wanted.wait_changed()
            for symbol in sorted(wanted):
                await self.ask(ctx, symbol)
            await ctx.flush()
            await trio.sleep(self.options.every_s)

    async def ask(self, ctx: FeedContext, symbol: str) -> None:
        name = symbol.partition(":")[2]
        answer = await ctx.get_json(f"{self.options.url}/api/v5/market/ticker?instId={name}")
        # None, where the venue does not know the name: anybody may ask for any, and that is no failure of the feed.
        try:
            for at in answer["data"]:
                quote = {
                    "bid": at["bidPx"],
                    "bid_size": at["bidSz"],
                    "ask": at["askPx"],
                    "ask_size": at["askSz"],
                }
                ctx.publish(Quote(sym=symbol, ts=epoch_to_ns(int(at["ts"])), rts=ctx.time_ns(), **quote))
        except (LookupError, TypeError, ValueError) as error:
            # Not what the page says: counted, and the next answer may be right.
            ctx.refused(FrameError(f"{type(error).__name__}: {error}", repr(answer)))
