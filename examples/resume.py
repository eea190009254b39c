"""Follow every trade across restarts, of the broker and of this program, and say what is missing.

The cursor is written to a file. Stop this program, or the broker, and start it again: it goes on behind the
last trade, and a gap is printed where the broker's history does not reach back.

Start a broker first (``tapecast demo``), then: ``python examples/resume.py [URL] [FILE]``
"""

import sys
from pathlib import Path

import trio

import broker.client
from broker.client import Gap, Notice


def load(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def save(file: Path, cursor: str | None) -> None:
    if cursor is not None:
        file.write_text(cursor)


async def main(url: str, file: Path) -> None:
    cursor = load(file)
    async with broker.client.connect(url, on_state=lambda state: print(f"--- {state}")) as client:
        async with client.subscribe("trade", "SIM:*", cursor=cursor) as trades:
            try:
                async for event in trades.events():
                    if isinstance(event, Gap):
                        print(
                            f"--- {event.sym}: {event.missing or 'some'} trades are missing: {event.reason}"
                        )
                    elif isinstance(event, Notice):
                        print(f"--- the broker says: {event.state}")
                    else:
                        for trade in event.ticks:
                            print(f"{trade.sym:<12} #{trade.seq} {trade.price} x {trade.size}")
                        # Only now: what is behind the cursor has been dealt with.
                        cursor = event.cursor or cursor
            finally:
                save(file, cursor)


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    try:
        trio.run(main, arguments.get(1, "localhost:8765"), Path(arguments.get(2, "resume.cursor")))
    except (KeyboardInterrupt, BrokenPipeError):
        # Ctrl-C, or `| head` has had enough.
        sys.stderr.close()
    except broker.client.ClientError as exc:
        sys.exit(str(exc))
