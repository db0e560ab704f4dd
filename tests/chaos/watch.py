"""Who lives in a server, from its log as it grows, and what a process takes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.server import DIED, READY, Server

MASTER = re.compile(r"pid=(\d+) listening on ")


class Living:
    """Masters in the order in which they began, and the workers that are ready; each line of the log is read once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._at = 0
        self.masters: list[int] = []
        self.workers: dict[int, int] = {}
        self.died = 0
        self.look()

    def look(self) -> None:
        lines = self._server.lines[self._at :]
        self._at += len(lines)
        for line in lines:
            if found := READY.search(line):
                self.workers[int(found[1])] = int(found[3])
            elif found := DIED.search(line):
                self.died += 1
                if self.workers.get(int(found[1])) == int(found[3]):
                    del self.workers[int(found[1])]
            elif found := MASTER.search(line):
                self.masters.append(int(found[1]))

    def forget(self, slot: int) -> None:
        """It was killed, whatever the log says."""
        self.workers.pop(slot, None)


def resident_kib(pid: int) -> int:
    """Memory that is a process's own; 0 when it is gone.

    Without the segment: a page of it that only one process has touched since is counted as private, proc(5), though it
    was there from the start.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return 0
    total, shared = 0, False
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            shared = "memfd:" in line
        elif words[0] in ("Private_Clean:", "Private_Dirty:") and not shared:
            total += int(words[1])
    return total


def held(pid: int) -> dict[str, int]:
    """Descriptors, mappings, and KiB resident that are the process's own."""
    with open(f"/proc/{pid}/maps") as maps:
        mappings = sum(1 for _ in maps)
    return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "maps": mappings, "own_kib": resident_kib(pid)}
