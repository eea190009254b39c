"""A program as a feed: it needs nothing of Tapecast, and could be in any language. A coin that nobody trades.

    [[feeds]]
    type = "process"
    command = ["python3", "examples/feeds/program.py"]
    venue = "LAB"

The same lines can be sent to a broker that runs elsewhere, into a feed of the type ``ingest``:

    python3 examples/feeds/program.py | curl -T - -X POST -H "Authorization: Bearer $KEY" http://HOST:8765/v1/ingest
"""

import json
import random
import sys
import time
from decimal import Decimal

count, pause_s = (int(sys.argv[1]), 0.0) if len(sys.argv) > 1 else (2**63, 0.5)
chance, price = random.Random(1), Decimal("100.00")
for number in range(1, count + 1):
    price = max(price + chance.choice([-1, 0, 1]) * Decimal("0.01"), Decimal("0.01"))
    size = str(chance.randint(1, 50))
    # No `ts`: it happens now. No `seq`, no `rts`: they are the broker's to give.
    trade = {
        "ch": "trade",
        "sym": "LAB:COIN",
        "price": str(price),
        "size": size,
        "side": "buy",
        "id": str(number),
    }
    bid, ask = str(price - Decimal("0.01")), str(price + Decimal("0.01"))
    quote = {"ch": "quote", "sym": "LAB:COIN", "bid": bid, "bid_size": size, "ask": ask, "ask_size": size}
    # Flushed, or they wait in a buffer until there are some thousand of them.
    print(json.dumps(trade), json.dumps(quote), sep="\n", flush=True)
    time.sleep(pause_s)
