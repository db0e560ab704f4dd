"""Where the control socket is found: its listening end belongs to the supervisor and outlives every router.

Opened before privileges are dropped, so its place may be root's alone.  Two masters of an upgrade may share one path:
it belongs to the one that routes.  Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from channels import control
from channels.master import processes

log = logging.getLogger("channels")

BACKLOG = 16


class ControlPath:
    """A listening Unix socket of this user alone, under a name of this process's until publish()."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener: socket.socket | None = None  # None: it could not be had, and that was logged
        self._own = path.with_name(f"{path.name}.{os.getpid()}")

    def open(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.path.parent == control.directory():
                control.make_directory(self.path.parent)
                _tidy(self.path.parent)
            self._own.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                listener.bind(str(self._own))
            finally:
                os.umask(before)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            log.warning("no control socket at %s: %s", self.path, error.strerror or error)
            return
        self.listener = listener

    def publish(self) -> None:
        """Take the path, whoever has it."""
        if self.listener is None:
            return
        fresh = self._own.with_name(f"{self._own.name}.new")
        try:
            fresh.unlink(missing_ok=True)
            os.link(self._own, fresh)
            os.rename(fresh, self.path)
            fresh.unlink(missing_ok=True)  # rename() leaves both when they are one file already
        except OSError as error:
            log.warning("no control socket at %s: %s", self.path, error.strerror or error)

    def close(self) -> None:
        """Remove what is ours."""
        if self.listener is None:
            return
        self.listener.close()
        self.listener = None
        try:
            if os.path.samestat(self.path.lstat(), self._own.lstat()):
                self.path.unlink()
        except OSError:
            pass  # another master has it
        self._own.unlink(missing_ok=True)

    def close_in_child(self) -> None:
        """In a process that has nothing to do with it."""
        if self.listener is not None:
            self.listener.close()


def _tidy(directory: Path) -> None:
    """Sockets of masters that were killed."""
    for path in directory.glob("*.sock*"):
        pid = path.name.partition(".")[0]
        if pid.isdigit() and not processes.is_alive(int(pid)):
            path.unlink(missing_ok=True)
