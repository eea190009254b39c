"""What is sent to the peers."""

from __future__ import annotations

import pytest

from bench.counting import Ages, Count, open_counter
from bench.peers import PEERS
from bench.peers.base import Peer
from bench.workloads import WORKLOADS, Group

TICK = b'{"ch":"quote","sym":"SIM:ACME","seq":1,"ts":"1795000000000000000","rts":"1795000000000000000","bid":"1"}'
GROUP = Group(subscribers=1, symbols_each=2)


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_published_ticks_are_what_the_load_client_counts(peer: Peer) -> None:
    data = peer.hello() + peer.publish([("SIM:ACME", TICK), ("SIM:BETA", TICK)])
    count = Count()
    open_counter("json", every=False).read(count, data, 1_795_000_000_000_000_000, Ages())
    assert count.ticks == 2


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_subscribing_names_every_symbol(peer: Peer) -> None:
    greeting = peer.greeting("127.0.0.1:1", GROUP, ["SIM:ACME", "SIM:BETA"])
    assert greeting.request.startswith(b"GET /")
    assert greeting.request.endswith(b"\r\n\r\n")
    asked = greeting.request + greeting.opening
    assert b"ACME" in asked
    assert b"BETA" in asked


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_every_peer_says_whether_it_is_there(peer: Peer) -> None:
    reason = peer.missing()
    assert reason is None or len(reason) > 10
    assert peer.unfit(WORKLOADS["W4"]) is None
