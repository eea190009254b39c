"""Publishes ticks to a NATS server, for a feed of the type ``nats``; needs nothing of Tapecast, and no client library.

    [[feeds]]
    type = "nats"
    venue = "BUS"
    subjects = ["md.{ch}.{symbol}"]

The subject says channel and symbol, so the message need not. With the NATS command line the same is

    nats pub md.trade.COIN '{"price": "101.5", "size": "3", "side": "buy", "id": "1"}'
"""

import json
import random
import socket
import sys
import time
from decimal import Decimal

port, count, pause_s = (int(sys.argv[1]), int(sys.argv[2]), 0.0) if len(sys.argv) > 2 else (4222, 2**63, 0.5)
chance, price = random.Random(1), Decimal("100.00")
with socket.create_connection(("127.0.0.1", port)) as server, server.makefile("rb") as answers:
    assert answers.readline().startswith(b"INFO ")
    server.sendall(b'CONNECT {"verbose": false}\r\n')
    for number in range(1, count + 1):
        price = max(price + chance.choice([-1, 0, 1]) * Decimal("0.01"), Decimal("0.01"))
        trade = {"price": str(price), "size": str(chance.randint(1, 50)), "side": "buy", "id": str(number)}
        payload = json.dumps(trade).encode()
        server.sendall(b"PUB md.trade.COIN %d\r\n%b\r\nPING\r\n" % (len(payload), payload))
        # A client has to answer the server's pings, or is cut off; here each message is acknowledged, too.
        while (answer := answers.readline()) != b"PONG\r\n":
            if answer != b"PING\r\n":
                sys.exit(answer.decode())
            server.sendall(b"PONG\r\n")
        time.sleep(pause_s)
