"""The error log: one format, one place to set it up, reopened when a rotation asks for it."""

from __future__ import annotations

import logging
import os
import sys

FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"

log = logging.getLogger("channels")

_handler: logging.StreamHandler[object] | None = None


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """stderr, or a file opened for appending; each record is one write, so that processes do not mix lines."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(sys.stderr if path in ("", "-") else open(path, "a", encoding="utf-8", errors="replace"))  # noqa: SIM115
        self.setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))

    def reopen(self) -> None:
        if self.path in ("", "-"):
            return
        fresh = open(self.path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
        old = self.setStream(fresh)
        if old is not None:
            old.close()


def setup(level: str, path: str = "") -> None:
    """Send what this package and the application log to `path`, or to stderr.  Raises OSError."""
    global _handler
    fresh = _Handler(path)
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    root.addHandler(fresh)
    _handler = fresh
    log.setLevel(level.upper())
    if root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(min(logging.WARNING, getattr(logging, level.upper())))


def reopen() -> None:
    """After a rotation: go on in a new file of the same name.  Runs in: every process."""
    if isinstance(_handler, _Handler):
        try:
            _handler.reopen()
        except OSError as error:
            log.error("cannot reopen the log: %s", os.strerror(error.errno or 0))
