"""Connections that other processes have passed to this worker.

Runs in: worker.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Callable

import gevent

from channels import passing
from channels.worker.http.accept import DESCRIPTORS_PAUSE

log = logging.getLogger("channels")

AT_ONCE = 16  # connections taken before the loop turns


class InboxReader:
    """Takes them as they come; each kind has its taker."""

    def __init__(self, read_fd: int, takers: dict[bytes, Callable[[bytes, int], Any]]) -> None:
        self._fd = read_fd
        self._takers = takers
        self._loop = gevent.get_hub().loop
        self._io = self._loop.io(read_fd, 1, ref=False)
        self._timer: Any = None  # while no descriptor is free

    def start(self) -> None:
        self._io.start(self.take)

    def take(self) -> None:
        """What is there now; in a callback of the hub, so takers spawn."""
        for _ in range(AT_ONCE):
            try:
                passed = passing.take(self._fd)
            except OSError as error:
                self._pause(error)
                return
            if passed is None:
                return
            kind, data, fd = passed
            taker = self._takers.get(kind)
            if taker is None:
                os.close(fd)
            else:
                taker(data, fd)

    def _pause(self, error: OSError) -> None:
        """Leave them where they are, until there may be room."""
        log.warning("cannot take what was passed on: %s; trying again in %g s", error.strerror, DESCRIPTORS_PAUSE)
        self._io.stop()
        self._end_pause()
        self._timer = self._loop.timer(DESCRIPTORS_PAUSE, ref=False)
        self._timer.start(self.start)

    def _end_pause(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def stop(self) -> None:
        self._end_pause()
        self._io.stop()
        self._io.close()
