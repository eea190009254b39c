"""A broker that miscounts by one tick, in any message that carries a ledger, is found out by the client."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from broker.client import LedgerMismatch, Update, connect
from tests.client.fakes import Peer, fake_broker

URL = "ws://broker.test:8765/v1/ws"
TRUE = {"offered": 8, "delivered": 3, "conflated": 2, "dropped": 3, "pending": 0}
FIELDS = ["offered", "delivered", "conflated", "dropped"]
#: What the numbers of a field that is one too high are.
WRONG = {
    "offered": "offered: the ledger says 9, and its own parts add up to 8",
    "delivered": "delivered: the ledger says 4, and 3 ticks came",
    "conflated": "conflated: the ledger says 3, and jumps in seq account for 2",
    "dropped": "dropped: the ledger says 4, and gaps named 3 ticks",
}


async def play(peer: Peer) -> None:
    """Deliver 1, 4 and 8, conflate 2 and 3, drop 5 to 7."""
    await peer.welcome()
    await peer.accept(mode="latest")
    await peer.update(1)
    await peer.update(4, count=3)
    await peer.gap(5, 7)
    await peer.update(8)


def lie(field: str) -> dict[str, int]:
    """Return a ledger with one tick too much in one field, that still adds up where that can be."""
    more = {field: TRUE[field] + 1}
    return {**TRUE, **more} if field == "offered" else {**TRUE, **more, "offered": TRUE["offered"] + 1}


async def serve(peer: Peer, **ledger: int) -> None:
    """Answer every request, with this ledger."""
    ledger = {"offered": 0, "delivered": 0, "conflated": 0, "dropped": 0, "pending": 0, **ledger}
    entry = {"sub": 1, **ledger}
    while True:
        asked = await peer.request()
        if asked["op"] == "list":
            await peer.send(type="ledger", id=asked["id"], subscriptions=[], ledger=[entry])
        else:
            await peer.end(asked, **ledger)


async def test_true_ledger_is_verified(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await play(peer)
        await serve(peer, **TRUE)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A", delivery={"mode": "latest"}) as sub:
            await wait_all_tasks_blocked()
            assert not client.verdict.verified
            verdict = await client.verify(strict=True)
            assert verdict.agrees
            assert verdict.is_exact
            assert str(verdict) == "1 subscription verified, 8 ticks, exact"
            assert sub.verdict.ledger is not None
            assert [entry.offered for entry in await client.ledgers()] == [8]


@pytest.mark.parametrize("field", FIELDS)
async def test_lie_in_the_answer_to_list_is_told_and_raised_where_that_is_asked_for(
    field: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await play(peer)
        await serve(peer, **lie(field))

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A"):
            await wait_all_tasks_blocked()
            verdict = await client.verify()
            assert not verdict.agrees
            assert verdict.subscriptions[0].differences == (WRONG[field],)
            with pytest.raises(LedgerMismatch, match=WRONG[field]) as caught:
                await client.verify(strict=True)
            assert caught.value.differences == verdict.differences


@pytest.mark.parametrize("field", FIELDS)
async def test_lie_in_a_heartbeat_is_logged_once_and_never_forgotten(
    field: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(peer: Peer) -> None:
        await play(peer)
        await peer.heartbeat(**lie(field))
        await peer.heartbeat(**lie(field))
        await peer.heartbeat(**TRUE)
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A"):
            await wait_all_tasks_blocked()
            assert client.verdict.subscriptions[0].checks == 3
            assert client.verdict.subscriptions[0].differences == (WRONG[field],)
    assert caplog.text.count(WRONG[field]) == 1


@pytest.mark.parametrize("field", FIELDS)
async def test_lie_in_the_last_ledger_of_a_subscription_outlives_it(
    field: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await play(peer)
        await serve(peer, **lie(field))

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A"):
            await wait_all_tasks_blocked()
        verdict = client.verdict
        assert (verdict.agrees, verdict.verified, verdict.subscriptions) == (False, 1, ())
        assert WRONG[field] in verdict.differences[0]


@pytest.mark.parametrize("field", FIELDS)
async def test_lie_in_closing_is_told(
    field: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await play(peer)
        entry = {"sub": 1, **lie(field)}
        await peer.send(type="closing", code=4403, reason="x", retry_after_ms=None, ledger=[entry])

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A"):
            await wait_all_tasks_blocked()
            assert WRONG[field] in client.verdict.differences[0]


async def test_subscription_that_the_ledger_leaves_out_is_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await play(peer)
        await peer.accept(sub=2)
        await serve(peer, **TRUE)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A"), client.subscribe("trade", "SIM:B"):
            await wait_all_tasks_blocked()
            (text,) = (await client.verify()).differences
            assert "no entry of subscription 2" in text


async def test_verify_waits_for_a_moment_with_nothing_pending(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(mode="latest")
        asked = await peer.request()
        busy = {"sub": 1, "offered": 3, "delivered": 0, "conflated": 2, "dropped": 0, "pending": 1}
        await peer.send(type="ledger", id=asked["id"], subscriptions=[], ledger=[busy])
        await peer.update(3, count=3)
        await serve(peer, offered=3, delivered=1, conflated=2)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A", delivery={"mode": "latest"}):
            verdict = await client.verify()
            assert verdict.is_exact
            assert verdict.subscriptions[0].checks == 2


async def test_verify_does_not_wait_for_ever_for_a_broker_that_is_always_busy(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(mode="latest")
        await serve(peer, offered=3, conflated=2, pending=1)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A", delivery={"mode": "latest"}):
            begun = trio.current_time()
            verdict = await client.verify(settle_s=3)
            assert trio.current_time() - begun == pytest.approx(3, abs=0.1)
            assert verdict.agrees
            assert not verdict.is_exact
            assert "agrees so far" in str(verdict)


async def test_verify_outlasts_a_lost_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.request()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(sub=5)
        asked = await peer.request()
        entry = {"sub": 5, "offered": 0, "delivered": 0, "conflated": 0, "dropped": 0, "pending": 0}
        await peer.send(type="ledger", id=asked["id"], subscriptions=[], ledger=[entry])
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, first, second), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            assert (await client.verify()).verified == 1
            assert sub.ledger is not None
            assert sub.ledger.sub == 5


async def test_jump_that_a_ledger_does_not_count_is_a_lost_tick(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1, 3)
        await peer.heartbeat(offered=2, delivered=2)
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            events = sub.events()
            assert isinstance(await anext(events), Update)
            await wait_all_tasks_blocked()
            assert sub.statistics().unexplained == 1
            assert sub.verdict.differences == (
                "conflated: the ledger says 0, and jumps in seq account for 1",
            )
