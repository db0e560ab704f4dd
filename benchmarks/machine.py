"""Where a benchmark runs, without importing anything that a server would have to patch."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path
from typing import Callable, TypeVar

ROOT = Path(__file__).parent.parent
DISTURBED = 0.15  # processors that others may keep busy meanwhile


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Load:
    """What others take of the processors from here on: all that runs, less this process and its ended children.

    With `living` also less the children that live, and theirs: for servers that are measured more than once.
    """

    def __init__(self, living: bool = False) -> None:
        self._living = living
        self._busy, self._begun = self._foreign_seconds(), time.monotonic()

    def _foreign_seconds(self) -> float:
        with open("/proc/stat") as file:
            user, nice, system, _, _, _, _, stolen = map(int, file.readline().split()[1:9])
        own = os.times()
        everything = (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")
        if self._living:
            everything -= _descendants_seconds()
        return everything - own.user - own.system - own.children_user - own.children_system

    def foreign(self) -> float:
        """Processors that others kept busy, on average: 1.0 is one of them all the time."""
        took = time.monotonic() - self._begun
        return max(self._foreign_seconds() - self._busy, 0.0) / took if took > 0 else 0.0


def _descendants_seconds() -> float:
    """Of processor time, with that of their ended children (proc_pid_stat(5), fields 4 and 14 to 17)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(entry)] = int(fields[1])
            ticks[int(entry)] = sum(map(int, fields[11:15]))
    found, new = set(), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found |= new
    return sum(ticks[pid] for pid in found) / os.sysconf("SC_CLK_TCK")


Figure = TypeVar("Figure")


def least_disturbed(measure: Callable[[], Figure], tries: int = 3) -> tuple[float, Figure]:
    """(what others took, figure) of the first try that nobody disturbed, or of the least disturbed one."""
    made: list[tuple[float, Figure]] = []
    while len(made) < tries and (not made or made[-1][0] > DISTURBED):
        load = Load(living=True)
        figure = measure()
        made.append((load.foreign(), figure))
    return min(made, key=lambda each: each[0])
