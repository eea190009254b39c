"""A broker that does what a test says, at the other end of a stream in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
import trio_websocket

from broker.client import link

#: What a test lets the broker do with one connection.
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The broker's side of one connection."""

    def __init__(self, ws: trio_websocket.WebSocketConnection, *, is_json: bool) -> None:
        self.ws = ws
        self._is_json = is_json

    async def send(self, **message: Any) -> None:
        raw = msgspec.json.encode(message).decode() if self._is_json else msgspec.msgpack.encode(message)
        await self.ws.send_message(raw)

    async def request(self) -> Any:
        """Return the client's next request."""
        raw = await self.ws.get_message()
        return msgspec.json.decode(raw) if isinstance(raw, str) else msgspec.msgpack.decode(raw)

    async def welcome(self, epoch: str = "e", heartbeat_s: float = 10.0) -> None:
        await self.send(type="welcome", session="s", epoch=epoch, heartbeat_s=heartbeat_s, server="fake/1")

    async def accept(self, sub: int = 1, cursor: str = "e-0", mode: str = "every") -> Any:
        """Answer the next request, a subscribe, with an ack; return it."""
        asked = await self.request()
        assert asked["op"] == "subscribe"
        await self.acknowledge(asked, sub, cursor, mode)
        return asked

    async def acknowledge(self, asked: Any, sub: int = 1, cursor: str = "e-0", mode: str = "every") -> None:
        """Answer a subscribe with an ack."""
        await self.send(
            type="ack",
            id=asked["id"],
            op="subscribe",
            sub=sub,
            ch=asked["ch"],
            symbols=asked["symbols"],
            rejected=[],
            delivery={"mode": mode},
            cursor=cursor,
        )

    async def end(self, asked: Any, **ledger: int) -> None:
        """Answer an unsubscribe."""
        assert asked["op"] == "unsubscribe"
        counts = {"offered": 0, "delivered": 0, "conflated": 0, "dropped": 0, "pending": 0, **ledger}
        sub = asked["sub"]
        await self.send(type="ack", id=asked["id"], op="unsubscribe", sub=sub, ledger={"sub": sub, **counts})

    async def heartbeat(self, cursor: str | None = None, sub: int = 1, **ledger: int) -> None:
        """Send a heartbeat with one account."""
        counts = {"offered": 0, "delivered": 0, "conflated": 0, "dropped": 0, "pending": 0, **ledger}
        await self.send(type="heartbeat", ts=1, cursor=cursor, ledger=[{"sub": sub, **counts}])

    async def gap(self, first: int | None, last: int | None, reason: str = "overflow") -> None:
        """Tell a gap in the trades of SIM:A."""
        fields = {"sub": 1, "ch": "trade", "sym": "SIM:A", "from": first, "to": last, "reason": reason}
        await self.send(type="gap", **fields)

    async def update(self, *seqs: int, sym: str = "SIM:A", count: int | None = None) -> None:
        """Send trades of ``sym`` with these numbers, merged ones with ``count``."""
        more = {} if count is None else {"count": count}
        ticks = [{**self.trade(seq, sym), **more} for seq in seqs]
        await self.send(type="update", cursor=f"e-{max(seqs)}", data=ticks)

    def trade(self, seq: int, sym: str = "SIM:A") -> dict[str, Any]:
        """Return a trade as this connection's codec has it."""
        ts: int | str = "1700000000000000001" if self._is_json else 1700000000000000001
        fields = {"price": "1.50", "size": "2", "side": "buy", "id": str(seq)}
        return {"ch": "trade", "sym": sym, "seq": seq, "ts": ts, "rts": ts, **fields}

    async def refuse(self, id_: int, code: str, message: str) -> None:
        await self.send(type="error", id=id_, code=code, message=message, retry=False)

    async def closing(self, code: int, reason: str, retry_after_ms: int | None) -> None:
        await self.send(type="closing", code=code, reason=reason, retry_after_ms=retry_after_ms, ledger=[])


class FakeBroker:
    """Takes the place of the network.

    Attributes:
        scripts: what to do with the next connections; an exception is raised instead of connecting.
        dialed: when the client tried to connect, in seconds of the clock.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.scripts: list[Script | Exception] = []
        self.dialed: list[float] = []
        self._nursery = nursery

    async def dial(self, *_: object) -> trio.abc.Stream:
        self.dialed.append(trio.current_time())
        if not self.scripts:
            raise ConnectionRefusedError(111, "connection refused")
        script = self.scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, far, script)
        return near

    async def _serve(self, stream: trio.abc.Stream, script: Script) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            subprotocol = request.proposed_subprotocols[0]
            ws = await request.accept(subprotocol=subprotocol)
            try:
                await script(Peer(ws, is_json=subprotocol.endswith("json")))
            except trio_websocket.ConnectionClosed:
                # The client left: that is its right.
                nursery.cancel_scope.cancel()
            finally:
                await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def fake_broker(
    monkeypatch: pytest.MonkeyPatch, *scripts: Script | Exception
) -> AsyncIterator[FakeBroker]:
    """Let the client's connections end at a `FakeBroker`, for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        broker = FakeBroker(nursery)
        broker.scripts.extend(scripts)
        monkeypatch.setattr(link, "_open_stream", broker.dial)
        yield broker
        nursery.cancel_scope.cancel()
