"""systemd's two interfaces: sockets handed in, state told.  sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger("channels")

FIRST_FD = 3


def inherited_listeners() -> list[socket.socket]:
    """The listening sockets that systemd made for this process; its variables are taken out of the environment."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        found.append(listener)
    return found


class Notifier:
    """Tells $NOTIFY_SOCKET; does nothing without it."""

    def __init__(self) -> None:
        self._where = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        due = usec.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_period = int(usec) / 2e6 if due else None  # seconds; half of what systemd allows
        self._next_watchdog = 0.0

    @property
    def environment(self) -> dict[str, str]:
        """For a new master: what was taken out of ours."""
        found = {"NOTIFY_SOCKET": self._where} if self._where else {}
        if self.watchdog_period is not None:
            found["WATCHDOG_USEC"] = str(int(self.watchdog_period * 2e6))
        return found

    def tell(self, *lines: str) -> None:
        if not self._where:
            return
        address = "\0" + self._where[1:] if self._where.startswith("@") else self._where
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("cannot notify systemd: %s", error)

    def state(self, state: str) -> None:
        """ "ready", "reloading" or "stopping"."""
        if state == "ready":
            self.tell("READY=1", f"MAINPID={os.getpid()}", "STATUS=serving")
        elif state == "reloading":
            self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")
        elif state == "stopping":
            self.tell("STOPPING=1", "STATUS=draining")

    def next_watchdog(self, now: float) -> float:
        """When watchdog() is due; never, without a watchdog, is far away."""
        return now + 3600.0 if self.watchdog_period is None else self._next_watchdog

    def watchdog(self, now: float) -> None:
        """From the master's loop: it turns."""
        if self.watchdog_period is not None and now >= self._next_watchdog:
            self._next_watchdog = now + self.watchdog_period
            self.tell("WATCHDOG=1")
