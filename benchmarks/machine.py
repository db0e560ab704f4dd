"""Where a benchmark runs, without importing anything that a server would have to patch."""

from __future__ import annotations

import platform
import socket
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
