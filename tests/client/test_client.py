"""The client as an application uses it, against a broker that follows a script."""

from __future__ import annotations

import gc
import re
from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import broker.client
from broker.client import ClientClosed, ConnectError, Gap, Snapshot, SubscribeError, Update, connect
from broker.client.wire import CodecName
from tests.client.fakes import Peer, fake_broker

URL = "ws://broker.test:8765/v1/ws"


async def stay(peer: Peer) -> None:
    """Keep the connection open, and listen to nothing."""
    await trio.sleep_forever()


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_iterating_yields_the_snapshot_then_the_updates(
    codec: CodecName, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.accept()
        assert asked["symbols"] == ["SIM:A", "SIM:B", "SIM:C"]
        await peer.send(type="snapshot", sub=1, cursor="e-5", data=[peer.trade(5)])
        await peer.update(6, 7)
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL, codec=codec) as client:
        seqs = []
        async for tick in client.subscribe("trade", "SIM:A", ["SIM:B", "SIM:C"]):
            assert tick.ts == 1700000000000000001
            seqs.append(tick.seq)
            if tick.seq == 7:
                break
        assert seqs == [5, 6, 7]


async def test_events_tell_snapshots_updates_and_gaps_apart(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.send(type="snapshot", sub=1, cursor="e-5", data=[peer.trade(5)])
        await peer.send(**{
            "type": "gap", "sub": 1, "ch": "trade", "sym": "SIM:A", "from": 6, "to": 8, "reason": "overflow",
        })  # fmt: skip
        await peer.update(9)
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            events = sub.events()
            first, second, third = [await anext(events) for _ in range(3)]
            assert isinstance(first, Snapshot)
            assert first.is_complete
            assert second == Gap(1, "trade", "SIM:A", 6, 8, "overflow")
            assert isinstance(third, Update)
            assert third.cursor == "e-9"
            account = sub.statistics()
            assert (account.snapshots, account.ticks, account.gaps, account.missing) == (1, 1, 1, 3)


async def test_gaps_reach_the_callback_in_their_place(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1)
        await peer.send(**{
            "type": "gap", "sub": 1, "ch": "trade", "sym": "SIM:A", "from": 2, "to": 3, "reason": "overflow",
        })  # fmt: skip
        await peer.update(4)
        await stay(peer)

    seen: list[object] = []
    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async for tick in client.subscribe("trade", "SIM:A", on_gap=lambda gap: seen.append(gap.missing)):
            seen.append(f"tick {tick.seq}")
            if tick.seq == 4:
                break
    assert seen == ["tick 1", 2, "tick 4"]


async def test_lost_connection_is_resumed_behind_the_last_tick(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.accept()
        assert "cursor" not in asked
        await peer.update(1, 2)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.accept(sub=9, cursor="e-2")
        assert asked["cursor"] == "e-2"
        assert asked.get("snapshot") is None
        await peer.update(2, 3)
        await stay(peer)

    states: list[str] = []
    async with fake_broker(monkeypatch, first, second), connect(URL, on_state=states.append) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            assert [(await anext(sub)).seq for _ in range(3)] == [1, 2, 3]
            assert sub.statistics().duplicates == 1
            assert client.statistics().reconnects == 1
    assert states == ["connected", "reconnecting", "connected", "closed"]


async def test_attempts_spread_out_up_to_ten_seconds(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(peer: Peer) -> None:
        await peer.welcome()

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    async with fake_broker(monkeypatch, gone) as fake, connect(URL):
        await trio.sleep(60)
        waits = [b - a for a, b in zip(fake.dialed, fake.dialed[1:], strict=False)]
        assert waits[:8] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])


async def test_broker_that_asks_for_patience_gets_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def draining(peer: Peer) -> None:
        await peer.welcome()
        await peer.closing(1001, "going down", 5000)

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    async with fake_broker(monkeypatch, draining) as fake, connect(URL) as client:
        await trio.sleep(5.3)
        assert fake.dialed[1] - fake.dialed[0] == pytest.approx(5.2)
        assert client.state == "reconnecting"


async def test_broker_that_wants_us_no_more_ends_every_iterator(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1)
        await peer.closing(4403, "not allowed", None)

    async with fake_broker(monkeypatch, script) as fake, connect(URL) as client:
        sub = client.subscribe("trade", "SIM:A")
        assert (await anext(sub)).seq == 1
        for late in (sub, client.subscribe("quote", "SIM:B")):
            with pytest.raises(ClientClosed, match="not allowed") as caught:
                await anext(late)
            assert caught.value.code == 4403
        await trio.sleep(60)
        assert len(fake.dialed) == 1
        assert client.state == "closed"


async def test_first_connection_that_fails_is_a_connect_error_that_names_the_url(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_broker(monkeypatch):
        with pytest.raises(ConnectError, match=re.escape(f"{URL}: connection refused")):
            async with connect(URL):
                pytest.fail("there is no broker")


async def test_first_connection_is_tried_again_where_that_is_asked_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1)
        await stay(peer)

    async with fake_broker(monkeypatch, OSError("no"), OSError("no"), script):
        async with connect(URL, retry_first=True) as client:
            assert client.state == "connecting"
            assert (await anext(client.subscribe("trade", "SIM:A"))).seq == 1


async def test_giving_up_says_after_how_many_attempts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(peer: Peer) -> None:
        await peer.welcome()

    async with fake_broker(monkeypatch, gone) as fake, connect(URL, max_attempts=3) as client:
        with pytest.raises(ClientClosed, match=r"after 3 attempts.*refused"):
            await anext(client.subscribe("trade", "SIM:A"))
        assert len(fake.dialed) == 4


async def test_broker_that_accepts_and_says_nothing_is_given_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_broker(monkeypatch, stay):
        with pytest.raises(ConnectError, match="nothing heard for 3 s"):
            async with connect(URL, connect_timeout_s=3):
                pytest.fail("it never said welcome")


async def test_refused_session_says_why(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(peer: Peer) -> None:
        await peer.closing(1013, "no room", 5000)

    async with fake_broker(monkeypatch, full):
        with pytest.raises(ConnectError, match="no room"):
            async with connect(URL):
                pytest.fail("there was no room")


async def test_silence_of_two_heartbeats_and_five_seconds_is_death(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mute(peer: Peer) -> None:
        await peer.welcome(heartbeat_s=10)
        await stay(peer)

    async with fake_broker(monkeypatch, mute), connect(URL) as client:
        await trio.sleep(24)
        assert client.statistics().state == "connected"
        await trio.sleep(2)
        assert client.statistics().state == "reconnecting"


async def test_heartbeats_keep_a_quiet_connection_and_move_the_cursor(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def quiet(peer: Peer) -> None:
        await peer.welcome(heartbeat_s=10)
        await peer.accept()
        await peer.update(1)
        for beat in range(2, 12):
            await trio.sleep(10)
            await peer.send(type="heartbeat", ts=1, cursor=f"e-{beat}", ledger=[])
        await stay(peer)

    async with fake_broker(monkeypatch, quiet) as fake, connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            assert (await anext(sub)).seq == 1
            await trio.sleep(101)
            assert client.state == "connected"
            assert len(fake.dialed) == 1
            with trio.move_on_after(1):
                await anext(sub)
            assert sub.cursor == "e-11"


async def test_refused_subscription_raises_where_it_begins_and_harms_no_other(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(2):
            asked = await peer.request()
            await peer.send(
                type="error", id=asked["id"], code="unknown_symbol", message="no such", retry=False
            )
        await peer.accept()
        await peer.update(1)
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        with pytest.raises(SubscribeError, match="no such") as caught:
            async with client.subscribe("trade", "NO:PE"):
                pytest.fail("it was refused")
        assert caught.value.code == "unknown_symbol"
        sub = client.subscribe("trade", "NO:PE")
        for _ in range(2):
            with pytest.raises(SubscribeError):
                await anext(sub)
        assert (await anext(client.subscribe("trade", "SIM:A"))).seq == 1


async def test_leaving_the_loop_ends_a_subscription_that_nobody_holds(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[object] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(sub=4)
        await peer.update(1, 2, 3)
        requests.append(await peer.request())

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async for _ in client.subscribe("trade", "SIM:A"):
            break
        gc.collect()
        await wait_all_tasks_blocked()
        assert requests == [{"op": "unsubscribe", "sub": 4, "id": 2}]


async def test_closing_a_subscription_brings_its_final_ledger(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.end(await peer.request(), offered=5, delivered=3, conflated=2)
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            pass
        assert sub.ledger is not None
        assert sub.ledger.delivered == 3
        assert [tick async for tick in sub] == []


async def test_broker_that_never_acknowledges_does_not_keep_a_subscription_open(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        with trio.fail_after(3):
            async with client.subscribe("trade", "SIM:A"):
                pass


async def test_unread_subscription_stops_the_reading_at_its_bound(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        for seq in range(1, 1000, 10):
            await peer.update(*range(seq, seq + 10))
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL, buffer_ticks=50) as client:
        async with client.subscribe("trade", "SIM:A") as sub:
            await trio.sleep(60)
            assert 50 <= sub.statistics().buffered < 60
            assert client.state == "connected"
            assert [(await anext(sub)).seq for _ in range(1000)] == list(range(1, 1001))


async def test_answer_behind_a_full_buffer_still_arrives(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(sub=1)
        for seq in range(1, 101, 10):
            await peer.update(*range(seq, seq + 10))
        await peer.accept(sub=2)
        await stay(peer)

    async with fake_broker(monkeypatch, script), connect(URL, buffer_ticks=50) as client:
        async with client.subscribe("trade", "SIM:A"):
            await trio.sleep(1)
            with trio.fail_after(5):
                async with client.subscribe("trade", "SIM:B"):
                    pass


async def test_exceptions_of_the_application_come_out_as_they_are(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await stay(peer)

    async with fake_broker(monkeypatch, script):
        with pytest.raises(ZeroDivisionError):
            async with connect(URL):
                raise ZeroDivisionError


async def test_leaving_the_client_ends_iterators_of_other_tasks(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await stay(peer)

    async def follow(client: broker.client.Client) -> None:
        with pytest.raises(ClientClosed, match="by the application"):
            await anext(client.subscribe("trade", "SIM:A"))

    async with fake_broker(monkeypatch, script), trio.open_nursery() as nursery:
        async with connect(URL) as client:
            nursery.start_soon(follow, client)
            await wait_all_tasks_blocked()


async def test_subscription_begun_while_there_is_no_connection_begins_with_the_next(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(peer: Peer) -> None:
        await peer.welcome()

    async def back(peer: Peer) -> None:
        await peer.welcome("e2")
        await peer.accept()
        await peer.update(1)
        await stay(peer)

    async with fake_broker(monkeypatch, gone, OSError("no"), back), connect(URL) as client:
        await wait_all_tasks_blocked()
        assert client.state == "reconnecting"
        assert (await anext(client.subscribe("trade", "SIM:A"))).seq == 1


async def test_unexplained_jump_is_logged_and_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1)
        await peer.update(4)
        await stay(peer)

    gaps: list[Gap] = []
    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with client.subscribe("trade", "SIM:A", on_gap=gaps.append) as sub:
            assert [(await anext(sub)).seq for _ in range(2)] == [1, 4]
            assert sub.statistics().unexplained == 2
    assert [(gap.first, gap.last, gap.reason) for gap in gaps] == [(2, 3, "unexplained")]
    assert "SIM:A" in caplog.text


async def test_peer_that_closes_during_the_handshake_is_noticed_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial(*_: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        await far.aclose()
        return near

    async with fake_broker(monkeypatch):
        monkeypatch.setattr("broker.client.link._open_stream", dial)
        start = trio.current_time()
        with pytest.raises(ConnectError, match="during the WebSocket handshake"):
            async with connect(URL):
                pytest.fail("nobody was there")
        assert trio.current_time() == start


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP 404"),
        (b'HTTP/1.1 400 Bad Request\r\ncontent-length: 16\r\n\r\n{"detail":"why"}', "HTTP 400: why"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "handshake"),
    ],
)
async def test_what_is_no_broker_is_a_connect_error(
    answer: bytes, text: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial(*_: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(answer)
        return near

    monkeypatch.setattr("broker.client.link._open_stream", dial)
    with pytest.raises(ConnectError, match=text):
        async with connect(URL):
            pytest.fail("that was no broker")


async def test_tasks_may_share_a_client(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        for sub in range(1, 4):
            await peer.accept(sub=sub)
        for seq in range(1, 11):
            for number in range(3):
                await peer.update(seq, sym=f"SIM:S{number}")
        await stay(peer)

    seen: dict[str, list[int]] = {}

    async def follow(client: broker.client.Client, sym: str) -> None:
        async with client.subscribe("trade", sym) as sub, aclosing(sub):
            seen[sym] = [(await anext(sub)).seq for _ in range(10)]

    async with fake_broker(monkeypatch, script), connect(URL) as client:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(follow, client, f"SIM:S{number}")
    assert seen == {f"SIM:S{number}": list(range(1, 11)) for number in range(3)}


@pytest.mark.parametrize(
    "arguments", [{"url": "ftp://x"}, {"url": URL, "codec": "xml"}, {"url": URL, "buffer_ticks": 0}]
)
async def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        async with connect(**arguments):  # type: ignore[arg-type]
            pytest.fail("that made no sense")
