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
    """Anonymous memory that is resident, proc(5); 0 when the process is gone.

    A page counts whether it is still shared with who was forked or not, which depends on who has lived how long; the
    shared segment and what is mapped of files does not count.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def held(pid: int) -> dict[str, int]:
    """Descriptors, mappings, and KiB of memory of its own."""
    with open(f"/proc/{pid}/maps") as maps:
        mappings = sum(1 for _ in maps)
    return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "maps": mappings, "own_kib": resident_kib(pid)}
