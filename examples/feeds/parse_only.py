"""An adapter that is a URL, what to subscribe with, and a pure function: trades and quotes of OKX.

    [[feeds]]
    type = "./examples/feeds/parse_only.py:Okx"
    symbols = ["BTC-USDT", "ETH-USDT"]

Source: https://www.okx.com/docs-v5/en/ ("Trades channel"; "Order book channel", bbo-tbt), as known on 2026-11-21.
``side`` is the taker's. Not tried against the venue itself.
"""

from collections.abc import Iterator

from broker.core.ticks import Quote, Tick, Trade
from feeds.frames import epoch_to_ns
from feeds.parsing import ParseFeed, read_json


class Okx(ParseFeed):
    """OKX: trades and best bid and offer."""

    api_version = 1
    venue = "OKX"
    url = "wss://ws.okx.com:8443/ws/v5/public"
    subscribe = {
        "trade": {"op": "subscribe", "args": [{"channel": "trades", "instId": "{symbol}"}]},
        "quote": {"op": "subscribe", "args": [{"channel": "bbo-tbt", "instId": "{symbol}"}]},
    }

    def parse(self, frame: str | bytes, rts: int) -> Iterator[Tick]:
        match read_json(frame):
            case {"arg": {"channel": "trades"}, "data": trades}:
                for at in trades:
                    sym, ts = self.symbol(at["instId"]), epoch_to_ns(int(at["ts"]))
                    yield Trade(
                        sym=sym,
                        ts=ts,
                        rts=rts,
                        price=at["px"],
                        size=at["sz"],
                        side=at["side"],
                        id=at["tradeId"],
                    )
            case {
                "arg": {"channel": "bbo-tbt", "instId": name},
                "data": [{"bids": bids, "asks": asks, "ts": at}],
            }:
                bid, bid_size = bids[0][:2] if bids else (None, None)
                ask, ask_size = asks[0][:2] if asks else (None, None)
                sym, ts = self.symbol(name), epoch_to_ns(int(at))
                yield Quote(sym=sym, ts=ts, rts=rts, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)
