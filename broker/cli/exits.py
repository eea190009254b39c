"""Exit codes, and how a failure looks: one message on stderr, never a traceback for a user's mistake."""

from __future__ import annotations

import sys

OK = 0
FAILURE = 1
USAGE = 2
#: EX_CONFIG of BSD's sysexits.h.
CONFIGURATION = 78
#: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


class Failed(Exception):
    """The verb can't do what it was asked to, by no fault of ours: reported in one message, exit code 1.

    Attributes:
        errno: the system's number, where it was the system that refused.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


def complain(message: str) -> None:
    """Write one message to stderr; a stderr that is gone is nobody's problem any more."""
    try:
        print(f"tapecast: {message}", file=sys.stderr, flush=True)
    except OSError:
        return


def innermost(exc: BaseException) -> BaseException:
    """Return the one exception in the groups that nurseries wrap it in, or ``exc`` if there are several."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc
