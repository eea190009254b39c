"""The peers that can be run beside the broker: one file each, and one line here.

To add one: a class with a `Peer`'s methods in a file of its own (`bench.peers.nats` is the model for a program,
`bench.peers.plain` for a server in Python), and its instance in `PEERS`. What it sends to subscribers has to
hold the tick as the publisher sent it, as JSON: that is what the load client counts.
"""

from __future__ import annotations

from bench.peers.base import Peer
from bench.peers.centrifugo import Centrifugo
from bench.peers.nats import Nats
from bench.peers.nchan import Nchan
from bench.peers.plain import Plain
from bench.peers.socketify import Socketify
from bench.peers.websockets import Websockets

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Nats(), Nchan(), Centrifugo(), Websockets(), Socketify(), Plain())
}
