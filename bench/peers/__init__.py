"""The peers that can be run beside the broker: one file each, and one line here."""

from __future__ import annotations

from bench.peers.base import Peer
from bench.peers.nats import Nats

PEERS: dict[str, Peer] = {peer.name: peer for peer in (Nats(),)}
