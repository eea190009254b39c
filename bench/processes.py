"""What the kernel knows of a process: CPU time, memory, children; and of the machine (proc(5))."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
from pathlib import Path

from msgspec import Struct

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Machine(Struct, frozen=True):
    """Where a run took place; two runs are worth comparing only if this is the same."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str


def machine() -> Machine:
    """Describe this machine."""
    cpu = "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return Machine(cpu, cores, round(memory, 1), f"{platform.system()} {platform.release()}", python)


def family(pid: int) -> list[int]:
    """Return a process and its descendants, those that are alive."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds, user and system, that a process and its descendants have used."""
    total = 0
    for member in family(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants; pages that they share count for each."""
    total = 0
    for member in family(pid):
        try:
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * _PAGE_BYTES
        except OSError:
            continue
    return total


def idle_s() -> float:
    """Return the seconds that the machine's cores were idle since it started, added up."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[4]) / _TICKS_PER_S


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now; whoever is quick could still take one."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def raise_file_limit() -> int:
    """Allow as many open files as the system does; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        return soft
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize
