"""The error log: one format, one place to set it up, reopened when a rotation asks for it."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import sys
from typing import TextIO

FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

log = logging.getLogger("channels")

_handler: _Handler | None = None


class Formatter(logging.Formatter):
    """One record begins in the first column and nothing else does, whatever clients and exceptions say in it.

    Further lines are indented; control characters, which terminals act upon, are written as escapes.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if text.isprintable():
            return text
        return without_controls(text).replace("\n", "\n  ")


def without_controls(text: str) -> str:
    """Fit for a terminal: control characters but tabs and line feeds written as escapes."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """stderr, or a file opened for appending; each record is one write, so that processes do not mix lines."""

    def __init__(self, path: str, owner: tuple[int, int] | None) -> None:
        self.path = path
        self._owner = owner
        super().__init__(sys.stderr if path in ("", "-") else self._open())
        self.setFormatter(Formatter(FORMAT, TIME_FORMAT))

    def _open(self) -> TextIO:
        fd = open_log(self.path, self._owner if os.geteuid() == 0 else None)
        return open(fd, "a", encoding="utf-8", errors="replace")

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


def open_log(path: str, owner: tuple[int, int] | None) -> int:
    """A descriptor for appending; the file is made if there is none.  Raises OSError.

    With an `owner`, whom the file is given to, this is root writing where somebody else may, too: then a symbolic link
    is followed only if it is root's, and nothing but a plain file with one name is given away.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    if owner is None:
        return os.open(path, flags, 0o666)
    is_link = os.path.islink(path)
    if is_link and os.lstat(path).st_uid != 0:
        raise PermissionError(errno.EPERM, "a symbolic link that is not root's is not followed", path)
    fd = os.open(path, flags | (0 if is_link else os.O_NOFOLLOW), 0o666)
    found = os.fstat(fd)
    if not is_link and stat.S_ISREG(found.st_mode) and found.st_uid != owner[0]:
        if found.st_nlink != 1:
            os.close(fd)
            raise PermissionError(errno.EPERM, "a file with several names is not given away", path)
        os.fchown(fd, *owner)
    return fd


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
