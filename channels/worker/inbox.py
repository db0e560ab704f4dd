"""Connections that other processes have passed to this worker.

Runs in: worker.
"""

from __future__ import annotations

import os
from typing import Any, Callable

import gevent

from channels import passing

AT_ONCE = 16  # connections taken before the loop turns


class InboxReader:
    """Takes them as they come; each kind has its taker."""

    def __init__(self, read_fd: int, takers: dict[bytes, Callable[[bytes, int], Any]]) -> None:
        self._fd = read_fd
        self._takers = takers
        self._io = gevent.get_hub().loop.io(read_fd, 1, ref=False)

    def start(self) -> None:
        self._io.start(self.take)

    def take(self) -> None:
        """What is there now; in a callback of the hub, so takers spawn."""
        for _ in range(AT_ONCE):
            passed = passing.take(self._fd)
            if passed is None:
                return
            kind, data, fd = passed
            taker = self._takers.get(kind)
            if taker is None:
                os.close(fd)
            else:
                taker(data, fd)

    def stop(self) -> None:
        self._io.stop()
        self._io.close()
