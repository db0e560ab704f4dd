"""The error log: one format, one place to set it up, reopened when a rotation asks for it."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"

log = logging.getLogger("channels")

_handler: _Handler | None = None


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """stderr, or a file opened for appending; each record is one write, so that processes do not mix lines."""

    def __init__(self, path: str, owner: tuple[int, int] | None) -> None:
        self.path = path
        self._owner = owner
        super().__init__(sys.stderr if path in ("", "-") else self._open())
        self.setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))

    def _open(self) -> TextIO:
        file = open(self.path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
        if self._owner is not None and os.geteuid() == 0:
            os.fchown(file.fileno(), *self._owner)
        return file

    def reopen(self) -> None:
        if self.path not in ("", "-"):
            fresh = self._open()
            old = self.setStream(fresh)
            if old is not None:
                old.close()

    def close_file(self) -> None:
        """Another one follows."""
        if self.path not in ("", "-"):
            self.stream.close()


def setup(level: str, path: str = "", owner: tuple[int, int] | None = None) -> None:
    """Send what this package and the application log to `path`, or to stderr.  Raises OSError.

    Args:
        owner: User and group that the file is given to, so that workers without privileges can reopen it.
    """
    global _handler
    fresh = _Handler(path, owner)
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
        _handler.close_file()
    root.addHandler(fresh)
    _handler = fresh
    log.setLevel(level.upper())
    if root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(min(logging.WARNING, getattr(logging, level.upper())))


def reopen() -> None:
    """After a rotation: go on in a new file of the same name.  Runs in: every process."""
    if _handler is not None:
        try:
            _handler.reopen()
        except OSError as error:
            log.error("cannot reopen the log %s: %s", _handler.path, error.strerror)
