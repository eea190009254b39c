"""The examples do what they say: as files that a configuration names, against venues that speak as described."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from trio_websocket import WebSocketConnection

from broker.config import load_config
from broker.core.ticks import Quote, Trade
from feeds.base import Feed
from feeds.plugins import BrokenFeed, feed_of
from feeds.process import Process
from tests.feeds.fakes import FakeContext, run_until, scripted_venue

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "feeds"


def example(type_: str, **settings: Any) -> Feed:
    """Return the feed of a table that names an example."""
    table = {"type": type_.replace("./", f"{ROOT}/"), **settings}
    feed = feed_of(load_config(None, {"TAPECAST_FEEDS": orjson.dumps([table]).decode()}, {}).feeds[0])
    assert not isinstance(feed, BrokenFeed), feed.reason
    return feed


async def test_parse_only_adapter_follows_a_venue() -> None:
    """Frames after https://www.okx.com/docs-v5/en/, "Trades channel" and "Order book channel", 2026-11-21."""
    asked: list[Any] = []

    async def venue(socket: WebSocketConnection, path: str) -> None:
        for _ in range(2):
            asked.append(orjson.loads(await socket.get_message()))
            await socket.send_message('{"event":"subscribe","arg":{},"connId":"a4d3ae55"}')
        await socket.send_message(
            '{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
            '"px":"42219.90","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3"}]}'
        )
        await socket.send_message(
            '{"arg":{"channel":"bbo-tbt","instId":"BTC-USDT"},"data":[{"asks":[["111.06","55154","0","2"]],'
            '"bids":[],"ts":"1670324386802","seqId":363996337}]}'
        )
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(venue) as url:
        feed = example("./examples/feeds/parse_only.py:Okx", symbols=["BTC-USDT"], url=url)
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 2)
    channels = [frame["args"][0]["channel"] for frame in asked]
    assert channels == ["bbo-tbt", "trades"]
    assert ctx.refusals == []
    now = ctx.time_ns()
    assert ctx.ticks == [
        Trade(sym="OKX:BTC-USDT", ts=1630048897897 * 10**6, rts=now, price="42219.90", size="0.12060306",
              side="buy", id="130639474"),
        Quote(sym="OKX:BTC-USDT", ts=1670324386802 * 10**6, rts=now, bid=None, bid_size=None, ask="111.06",
              ask_size="55154"),
    ]  # fmt: skip


async def test_adapter_with_its_own_io_asks_for_what_is_wanted_and_nothing_else(
    autojump_clock: object,
) -> None:
    """Bodies after https://www.okx.com/docs-v5/en/, "Get ticker", 2026-11-21."""
    asked: list[tuple[float, str]] = []

    async def get(url: str) -> bytes:
        asked.append((trio.current_time() - begin, url))
        if url.endswith("NONE"):
            return b'{"code":"51001","data":[],"msg":"Instrument ID does not exist"}'
        return (
            b'{"code":"0","msg":"","data":[{"instType":"SPOT","instId":"BTC-USDT","last":"9999.99",'
            b'"askPx":"9999.99","askSz":"11","bidPx":"8888.88","bidSz":"5","ts":"1597026383085"}]}'
        )

    ctx = FakeContext()
    ctx.get = get
    begin = trio.current_time()
    page = "http://lab.invalid/api/v5/market/ticker?instId="
    feed = example("./examples/feeds/own_io.py:Polled", url="http://lab.invalid", every_s=2.0)
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, ctx)
            await trio.sleep(9)
            assert asked == []
            ctx.demand.begin("quote", "OKX:BTC-USDT")
            ctx.demand.begin("trade", "OKX:ETH-USDT")
            await trio.sleep(4.5)
            ctx.demand.begin("quote", "OKX:NONE")
    names = [(at, url.removeprefix(page)) for at, url in asked]
    btc, none = [at for at, name in names if name == "BTC-USDT"], [at for at, name in names if name == "NONE"]
    assert {name for _, name in names} == {"BTC-USDT", "NONE"}
    assert btc[1] - btc[0] == pytest.approx(2)
    assert min(btc) >= 9
    assert none
    quote = Quote(sym="OKX:BTC-USDT", ts=1597026383085 * 10**6, rts=ctx.time_ns(), bid="8888.88", bid_size="5",
                  ask="9999.99", ask_size="11")  # fmt: skip
    assert ctx.ticks == [quote] * len(btc)


async def test_program_writes_ticks_that_a_feed_of_the_type_process_takes() -> None:
    command = [sys.executable, str(EXAMPLES / "program.py"), "50"]
    feed = example("process", command=command, venue="LAB")
    assert isinstance(feed, Process)
    ctx = FakeContext()
    with trio.fail_after(60):
        await feed.run(ctx)
    assert ctx.refusals == []
    assert [tick.ch for tick in ctx.ticks] == ["trade", "quote"] * 50


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_is_about_thirty_lines(path: Path) -> None:
    lines = path.read_text().split('"""', 2)[2].splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 40
