"""Where a benchmark runs, without importing anything that a server would have to patch."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
    """What others take of the processors from here on: all that runs, less this process and its ended children."""

    def __init__(self) -> None:
        self._busy, self._begun = self._foreign_seconds(), time.monotonic()

    def _foreign_seconds(self) -> float:
        with open("/proc/stat") as file:
            user, nice, system, _, _, _, _, stolen = map(int, file.readline().split()[1:9])
        own = os.times()
        everything = (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")
        return everything - own.user - own.system - own.children_user - own.children_system

    def foreign(self) -> float:
        """Processors that others kept busy, on average: 1.0 is one of them all the time."""
        took = time.monotonic() - self._begun
        return max(self._foreign_seconds() - self._busy, 0.0) / took if took > 0 else 0.0
