"""Follow everything for a while, and check the broker's accounts against what came.

Every number in the verdict is counted twice: by the broker, in its ledger, and by the client, from ``seq``.

Start a broker first (``tapecast demo``), then: ``python examples/verify.py [URL] [SECONDS]``
"""

import sys

import trio

import broker.client
from broker.client import Client, Notice


async def follow(client: Client, ch: str) -> None:
    contract = {"mode": "latest"} if ch == "quote" else {"mode": "every", "queue": 5000}
    async with client.subscribe(ch, "SIM:*", delivery=contract, on_notice=tell) as ticks:
        async for _ in ticks:
            # A real program would do something with it here.
            continue


def tell(notice: Notice) -> None:
    print(f"--- the broker says: {notice.state} ({notice.queued} of {notice.limit} queued)")


async def main(url: str, seconds: float) -> bool:
    async with broker.client.connect(url) as client, trio.open_nursery() as nursery:
        for ch in ("quote", "trade", "book"):
            nursery.start_soon(follow, client, ch)
        await trio.sleep(seconds)
        verdict = await client.verify()
        for subscription in verdict.subscriptions:
            print(subscription)
        print(verdict)
        nursery.cancel_scope.cancel()
    return verdict.agrees


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    try:
        is_true = trio.run(main, arguments.get(1, "localhost:8765"), float(arguments.get(2, 5)))
        sys.exit(0 if is_true else 1)
    except (KeyboardInterrupt, BrokenPipeError):
        # Ctrl-C, or `| head` has had enough.
        sys.stderr.close()
    except broker.client.ClientError as exc:
        sys.exit(str(exc))
