"""Imports one feed in a process of its own, and tells what it does to the network meanwhile.

    python -m feeds.testing.importing KIND FOLDER

Prints one line for each thing that an import should not do.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

#: Audit events of Python ("Audit events table" of its documentation, 3.11) that mean the network, or another program.
_NETWORK = {
    *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"),
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"),
    *("subprocess.Popen", "os.system", "os.posix_spawn"),
}


def main(kind: str, folder: str) -> None:
    """Import, and print what was done that should not be."""
    from feeds.plugins import find_feed

    done: list[str] = []

    def look(event: str, args: tuple[object, ...]) -> None:
        if event in _NETWORK:
            shown = ", ".join(str(each) for each in args if isinstance(each, str | int | tuple))
            done.append(f"{event}({shown[:80]})")
            raise RuntimeError(f"no network at import: {event}")

    before = threading.active_count()
    sys.addaudithook(look)
    try:
        find_feed(kind, Path(folder)).load()
    except Exception as error:
        if not done:
            done.append(f"import fails: {error}")
    if threading.active_count() > before:
        done.append("starts a thread")
    # An adapter may print, too: this is all that is said. Without the last line it has ended the process.
    print(*(f"tapecast-import: {each}" for each in done), "tapecast-imported", sep="\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
