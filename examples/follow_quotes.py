"""Print the best bid and offer of every simulated symbol as they change.

Start a broker first (``tapecast demo``), then: ``python examples/follow_quotes.py [URL]``
"""

import sys

import trio

import broker.client


async def main(url: str) -> None:
    async with broker.client.connect(url) as client:
        async for quote in client.subscribe("quote", "SIM:*"):
            print(f"{quote.sym:<12} {quote.bid} / {quote.ask}")


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "localhost:8765")
    except (KeyboardInterrupt, BrokenPipeError):
        # Ctrl-C, or `| head` has had enough.
        sys.stderr.close()
    except broker.client.ClientError as exc:
        sys.exit(str(exc))
