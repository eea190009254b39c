"""A load client: a process that does what `tapecast bench` tells it, a line at a time, and reports in lines."""

from __future__ import annotations

import gc
import time

from bench.histogram import Histogram
from bench.load import Load
from bench.plan import Command, Orders, Plan, Report, say
from bench.processes import raise_file_limit
from bench.settle import settle, settle_peer
from bench.storm import storm

#: Between two reports of progress.
PROGRESS_S = 1.0


def main() -> None:
    """Run one load client from its plan to its accounts."""
    raise_file_limit()
    orders = Orders()
    plan = orders.wait(Plan)
    load = Load(plan)
    # Clients live as long as the process: the collector would only walk over them, time and again.
    gc.disable()
    began = time.perf_counter()
    failures = load.connect(load.clients)
    live = load.report("live")
    live.took_s = time.perf_counter() - began
    live.failures = failures[:10]
    say(live)
    command = _wait(load, orders)
    while command.do != "settle":
        if command.do == "measure":
            command = _measure(load, orders)
        elif command.do == "cut":
            say(storm(load))
            command = _wait(load, orders)
        else:
            command = _wait(load, orders)
    accounts = settle_peer(load, command.published) if plan.peer else settle(load, _tell_waiting)
    report = Report("settled", accounts=accounts)
    say(report)


def _tell_waiting() -> None:
    say(Report("waiting"))


def _wait(load: Load, orders: Orders) -> Command:
    """Read on until there is another command."""
    while (command := orders.next()) is None:
        load.turn(0.02)
    return command


def _measure(load: Load, orders: Orders) -> Command:
    """Measure until told otherwise, reporting progress; return what was told."""
    load.reset()
    total = load.report("stopped")
    ages = Histogram()
    following = time.perf_counter() + PROGRESS_S
    while (command := orders.next()) is None:
        load.turn(0.02)
        if time.perf_counter() >= following:
            following += PROGRESS_S
            _report(load, "progress", total, ages)
    _report(load, "progress", total, ages)
    total.event = "stopped"
    total.connected = load.connected
    total.ages = sorted(ages.counts.items())
    total.max_ns = ages.max_ns
    say(total)
    return command


def _report(load: Load, event: str, total: Report, ages: Histogram) -> None:
    """Report what came since the last report, and add it to the total."""
    part = load.report(event)
    load.reset()
    merged = Histogram.from_recorded(dict(part.ages), part.max_ns)
    ages.add(merged)
    part.ages = sorted(merged.counts.items())
    took = total.took_s + part.took_s
    total.busy = (total.busy * total.took_s + part.busy * part.took_s) / took if took else 0.0
    total.cpu = (total.cpu * total.took_s + part.cpu * part.took_s) / took if took else 0.0
    total.took_s = took
    total.ticks += part.ticks
    total.received += part.received
    total.reads += part.reads
    total.frames += part.frames
    say(part)


if __name__ == "__main__":
    main()
