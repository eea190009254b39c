"""The client and the whole broker, over a real socket."""

from __future__ import annotations

import pytest
import trio

from broker.client import Subscription, connect
from broker.client.wire import CodecName
from tests.fakes import ACME, BETA, open_broker, quote, trade, trades


async def take(subscription: Subscription[object], until: int) -> list[int]:
    """Return the numbers of what comes, up to one of them."""
    seqs = [0]
    while seqs[-1] < until:
        seqs.append((await anext(subscription)).seq)  # type: ignore[attr-defined]  # a tick
    return seqs[1:]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_ledgers_are_verified_to_the_last_tick(codec: CodecName) -> None:
    async with open_broker() as broker:
        url = f"127.0.0.1:{broker.port}"
        broker.publish(*trades(ACME, 7), quote(ACME))
        async with (
            connect(url, codec=codec) as client,
            client.subscribe("trade", "SIM:*") as each,
            client.subscribe("quote", "SIM:*") as newest,
        ):
            broker.publish(*trades(ACME, 100), *trades(BETA, 10), *[quote(ACME, n) for n in range(1, 50)])
            assert await take(each, 107) == list(range(7, 108))
            assert (await take(newest, 50))[-1] == 50
            verdict = await client.verify(strict=True)
            assert verdict.is_exact
            assert verdict.ticks == 110 + 49
            assert [entry.offered for entry in await client.ledgers()] == [110, 49]
        assert client.verdict.agrees
        assert client.verdict.ended == 2
        assert client.verdict.ended_ticks == 110 + 49


async def test_contract_is_changed_without_losing_or_doubling_a_tick() -> None:
    async with open_broker() as broker:
        async with (
            connect(f"127.0.0.1:{broker.port}") as client,
            client.subscribe("quote", ACME, delivery={"mode": "every"}) as sub,
        ):
            seen: list[int] = []
            for start, mode in ((1, "latest"), (101, "every"), (201, "latest")):
                broker.publish(*[quote(ACME, n) for n in range(start, start + 100)])
                assert (await sub.modify(mode=mode))["mode"] == mode
                seen += await take(sub, start + 99)
            assert seen == sorted(set(seen))
            verdict = await client.verify(strict=True)
            (account,) = await client.ledgers()
            assert (account.offered, account.delivered) == (300, len(seen))
            assert account.conflated == sub.statistics().conflated
            assert sub.statistics().unexplained == 0
            assert verdict.is_exact


async def test_verdict_goes_on_across_a_reconnect() -> None:
    async with open_broker() as broker:
        async with (
            connect(f"127.0.0.1:{broker.port}") as client,
            client.subscribe("trade", "SIM:*") as sub,
        ):
            broker.publish(*trades(ACME, 5))
            assert await take(sub, 5) == [1, 2, 3, 4, 5]
            await client.verify(strict=True)
            for subscriber in list(broker.sessions):
                subscriber.wire.abort()
            broker.publish(*trades(ACME, 5, start=6))
            assert await take(sub, 10) == [6, 7, 8, 9, 10]
            verdict = await client.verify(strict=True)
            assert client.statistics().reconnects == 1
            assert verdict.is_exact
            assert verdict.ticks == 10
            assert verdict.subscriptions[0].checks == 2


async def test_symbol_that_is_named_besides_its_pattern_counts_for_one_of_the_two() -> None:
    async with open_broker() as broker:
        async with connect(f"127.0.0.1:{broker.port}") as client, client.subscribe("trade", "SIM:*") as all_:
            broker.publish(*trades(ACME, 3))
            assert await take(all_, 3) == [1, 2, 3]
            async with client.subscribe("trade", ACME, snapshot=False) as named:
                broker.publish(*trades(ACME, 3, start=4), trade(BETA))
                assert await take(named, 6) == [4, 5, 6]
                assert (await client.verify(strict=True)).is_exact
            broker.publish(*trades(ACME, 2, start=7))
            with trio.fail_after(5):
                assert (await take(all_, 8))[-2:] == [7, 8]
            assert (await client.verify(strict=True)).is_exact
