"""The file with the master's pid, in the way of gunicorn and nginx.

Runs in: supervisor.
"""

from __future__ import annotations

import os
from typing import Callable

from channels.errors import BadSetting
from channels.master import processes

OLD_SUFFIX = ".oldbin"


class PidFile:
    """A file with the master's pid, in the way of gunicorn and nginx."""

    def __init__(self, path: str) -> None:
        self.path = path

    def check(self) -> None:
        """Whether write() would succeed now: all of it but the name.  Raises BadSetting as that does."""
        self._write(_remove)

    def write(self) -> None:
        """Raises BadSetting when another live master has it, or when it cannot be written."""
        self._write(lambda fresh: os.rename(fresh, self.path))

    def _write(self, finish: Callable[[str], None]) -> None:
        other = self.read()
        if other is not None and other != os.getpid() and processes.is_alive(other):
            raise BadSetting("pid", self.path, f"process {other} is running already; stop it or remove the file")
        fresh = f"{self.path}.{os.getpid()}"
        try:
            _remove(fresh)  # of a master that was killed here, or a trap: nothing is ever written through a link
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with open(fd, "w") as file:
                file.write(f"{os.getpid()}\n")
                os.fchmod(fd, 0o644)
            finish(fresh)
        except OSError as error:
            raise BadSetting("pid", self.path, f"cannot be written: {error.strerror}") from None

    def read(self) -> int | None:
        """Whose it is; None when that cannot be told."""
        try:
            # Without waiting: what stands there may be anything, a pipe included.
            with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
                pid = int(file.read(32).strip())
                return pid if pid > 0 else None
        except (OSError, ValueError):
            return None

    def step_aside(self) -> None:
        """A new master comes: keep ours under another name."""
        self._rename(self.path, self.path + OLD_SUFFIX)

    def step_back(self) -> None:
        """It did not stay."""
        self._rename(self.path + OLD_SUFFIX, self.path)

    def remove(self) -> None:
        """Only if it is still ours, under either name."""
        for path in (self.path, self.path + OLD_SUFFIX):
            if PidFile(path).read() == os.getpid():
                try:
                    _remove(path)
                except OSError:
                    pass

    def _rename(self, old: str, new: str) -> None:
        if PidFile(old).read() == os.getpid():
            try:
                os.rename(old, new)
            except OSError:
                pass


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
