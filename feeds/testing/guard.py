"""Runs an adapter where it can't take the checks with it: on a clock that jumps, in a thread, watched.

An adapter that swallows its cancellation runs in a circle for ever, and one that blocks never comes back. Neither can
be stopped from outside in Python; so its thread is left behind, asleep where that is possible.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing

from feeds.testing.verdicts import Blocked, Failed

T = TypeVar("T")

#: Steps of tasks within one moment of the simulated clock, above which somebody runs in a circle.
MOST_STEPS = 50_000
#: No check takes a fifth of this, so who is still there then doesn't let itself be ended.
MOST_SIMULATED_S = 10_000.0
#: Real time for one check; most take milliseconds.
MOST_REAL_S = 60.0


class Watchdog(trio.abc.Instrument):
    """Notices that simulated time doesn't go on.

    Attributes:
        over: set when the run has ended, or will not.
        fault: why it will not; empty if it has.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.fault = ""
        self._now = -1.0
        self._steps = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        if self.fault:
            self._sleep_for_ever()
        now = trio.current_time()
        if now > MOST_SIMULATED_S:
            self.give_up("does not end when it is cancelled: does it shield itself?")
            self._sleep_for_ever()
        if now != self._now:
            self._now, self._steps = now, 0
            return
        self._steps += 1
        if self._steps > MOST_STEPS:
            self.give_up(
                "runs in a circle without ever waiting: does it catch trio.Cancelled, or BaseException?"
            )
            self._sleep_for_ever()

    def give_up(self, fault: str) -> None:
        """Say that the run can't be ended, and leave it behind."""
        self.fault = fault
        self.over.set()

    def _sleep_for_ever(self) -> None:
        threading.Event().wait()


def run_guarded(main: Callable[[Watchdog], Awaitable[T]]) -> T:
    """Run an async function under a clock that jumps from one deadline to the next, and return what it returns.

    Raises:
        Failed: it doesn't come to an end; `Blocked`, if it takes the whole process with it.
    """
    watchdog = Watchdog()
    box: dict[str, Any] = {}

    def run() -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            box["value"] = trio.run(main, watchdog, clock=clock, instruments=[watchdog])
        except BaseException as error:
            box["error"] = error
        watchdog.over.set()

    threading.Thread(target=run, name="tapecast feed check", daemon=True).start()
    if not watchdog.over.wait(MOST_REAL_S):
        watchdog.fault = "blocks"
        raise Blocked(
            f"blocks: not over after {MOST_REAL_S:g} s of real time; does it call what waits without await?"
        )
    if watchdog.fault:
        raise Failed(watchdog.fault)
    if "error" in box:
        error = _unwrapped(box["error"])
        if not isinstance(error, Exception):
            raise Failed(f"raises {type(error).__name__}, which is no Exception: {error!r:.200}") from None
        raise error
    value: T = box["value"]
    return value


def _unwrapped(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
