"""Contracts that change, notices, tokens: what a client asks and is told besides ticks."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from broker.client import ClientClosed, Notice, RequestRefused, SubscribeError, Update, connect
from broker.core.delivery import DeliveryRequest
from tests.client.fakes import Peer, fake_broker

URL = "ws://broker.test:8765/v1/ws"
#: What the broker's side of a modify says when it has agreed.
LATEST = {"mode": "latest", "max_rate": 10.0, "max_delay_ms": 0, "queue": None, "overflow": None}


async def agree(peer: Peer, **delivery: object) -> dict[str, object]:
    """Answer a modify with the contract in force; return the request."""
    asked = await peer.request()
    assert asked["op"] == "modify"
    await peer.send(type="ack", id=asked["id"], op="modify", sub=asked["sub"], delivery=delivery)
    return dict(asked)


async def test_modify_sends_what_changes_and_returns_what_is_in_force(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(sub=4)
        asked = await agree(peer, **LATEST)
        assert asked == {"op": "modify", "id": 2, "sub": 4, "delivery": {"mode": "latest", "max_rate": 50}}
        asked = await agree(peer, mode="every", queue=7)
        assert asked["delivery"] == {"mode": "every", "queue": 7}
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            assert await sub.modify(mode="latest", max_rate=50) == LATEST
            assert sub.delivery == LATEST
            assert sub.statistics().mode == "latest"
            request = DeliveryRequest(mode="every", queue=7)
            assert await client.modify(sub, request) == {"mode": "every", "queue": 7}


async def test_refused_modify_raises_and_leaves_the_contract_as_it_was(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        asked = await peer.request()
        await peer.refuse(asked["id"], "invalid_delivery", "delivery.queue: 0 is too small")
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            with pytest.raises(SubscribeError, match="queue: 0") as caught:
                await sub.modify(queue=0)
            assert caught.value.code == "invalid_delivery"
            assert sub.delivery == {"mode": "every"}


async def test_modified_contract_is_asked_for_again_after_a_reconnect(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.accept()
        assert asked["delivery"] == {"mode": "every", "queue": 5}
        await agree(peer, **LATEST)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.accept(mode="latest")
        # `queue` has no meaning in `latest`, and would be refused.
        assert asked["delivery"] == {"mode": "latest", "max_rate": 10.0}
        await peer.update(1, count=1)
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, first, second), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A", delivery={"mode": "every", "queue": 5}) as sub:
            await sub.modify(mode="latest", max_rate=10)
            assert (await anext(sub)).seq == 1


async def test_modify_that_a_lost_connection_took_along_goes_out_with_the_next(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        assert (await peer.request())["op"] == "modify"

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(sub=9)
        asked = await agree(peer, **LATEST)
        assert asked["sub"] == 9
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, first, second), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            assert await sub.modify(mode="latest") == LATEST


async def test_modify_of_a_subscription_that_ends_meanwhile_does_not_wait_for_ever(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        sub = client.subscribe("trade", "SIM:A")

        async def change() -> None:
            with pytest.raises(SubscribeError, match="has ended"):
                await sub.modify(mode="latest")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            await wait_all_tasks_blocked()
            await sub.aclose()
        with pytest.raises(SubscribeError, match="has ended"):
            await sub.modify(mode="latest")


async def test_asking_a_client_at_its_end_raises(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.request())["op"] == "list"
        await peer.closing(4403, "not allowed", None)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        for _ in range(2):
            with pytest.raises(ClientClosed, match="not allowed"):
                await client.verify()


async def test_notices_come_as_events_and_to_the_callback(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(sub=1)
        await peer.accept(sub=2)
        await peer.send(type="notice", state="pressed", sub=1, queued=800, limit=1000)
        await peer.send(type="notice", state="recovered", colour="green")
        await peer.update(1)
        await peer.update(1, sym="SIM:B")
        await trio.sleep_forever()

    seen: list[Notice] = []
    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with (
            client.subscribe("trade", "SIM:A") as first,
            client.subscribe("trade", "SIM:B", on_notice=seen.append) as second,
        ):
            events = first.events()
            assert await anext(events) == Notice(1, "pressed", 800, 1000)
            assert await anext(events) == Notice(None, "recovered", None, None)
            assert isinstance(await anext(events), Update)
            assert (await anext(second)).seq == 1
    assert seen == [Notice(None, "recovered", None, None)]


async def test_token_is_shown_first_on_every_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.request()
        assert (asked["op"], asked["token"]) == ("auth", "secret")
        await peer.send(type="ack", id=asked["id"], op="auth")
        await peer.accept()
        await peer.update(1)

    async def last(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.request()
        await peer.refuse(asked["id"], "unauthorized", "that token has expired")
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script, script, last), connect(URL, token="secret") as client:
        sub = client.subscribe("trade", "SIM:A")
        assert (await anext(sub)).seq == 1
        with pytest.raises(ClientClosed, match="expired") as caught:
            await anext(sub)
        assert caught.value.code == 4401
        assert client.statistics().reconnects == 2


async def test_token_given_later_is_kept_once_it_was_taken(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.request()
        await peer.refuse(asked["id"], "unauthorized", "no such token")
        asked = await peer.request()
        await peer.send(type="ack", id=asked["id"], op="auth")

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.request())["token"] == "right"
        reached.set()
        await trio.sleep_forever()

    reached = trio.Event()
    async with fake_broker(monkeypatch, first, second), connect(URL) as client:
        with pytest.raises(RequestRefused, match="no such token"):
            await client.auth("wrong")
        await client.auth("right")
        await reached.wait()
