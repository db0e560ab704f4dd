"""The access log: a line per answer, written together with others.

Runs in: worker.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from channels.worker.http.clock import Clock
from channels.worker.http.config import HttpConfig
from channels.worker.http.template import compile_format

if TYPE_CHECKING:
    from channels.worker.http.connection import Connection
    from channels.worker.http.exchange import Exchange

log = logging.getLogger("channels")

LINES_MAX = 256  # that wait for each other
STDOUT = 1


class Entry:
    """What a line is made of."""

    __slots__ = ("bytes", "environ", "fields", "seconds", "status", "time")
    pid = 0

    def __init__(
        self, environ: dict[str, Any], status: int, count: int, seconds: float, time: str, fields: bytes
    ) -> None:
        self.environ = environ
        self.status = status
        self.bytes = count
        self.seconds = seconds
        self.time = time
        self.fields = fields


class AccessLog:
    """One per worker.  Lines are whole writes to a file opened for appending, so that workers do not mix them."""

    def __init__(self, config: HttpConfig, clock: Clock, loop: Any) -> None:
        self._path = config.accesslog
        self._make = compile_format(config.access_log_format)
        self._clock = clock
        self._lines: list[str] = []
        self._delay = config.access_log_buffer
        self._timer = loop.timer(self._delay, ref=False)
        self._fd = self._open()
        Entry.pid = os.getpid()

    def _open(self) -> int:
        if self._path == "-":
            return STDOUT
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, exchange: Exchange, seconds: float) -> None:
        """A request was answered."""
        self._clock.tick(exchange.connection.server.now())
        entry = Entry(
            exchange.environ,
            exchange.code,
            exchange.sent,
            seconds,
            self._clock.logged,
            exchange.fields,
        )
        self._add(self._make(entry))

    def refused(self, connection: Connection, status: int) -> None:
        """Something came that is no request."""
        environ = {"REMOTE_ADDR": connection.address[0]}
        self._add(self._make(Entry(environ, status, 0, 0.0, self._clock.logged, b"")))

    def _add(self, line: str) -> None:
        lines = self._lines
        lines.append(line)
        if len(lines) == 1 and self._delay:
            self._timer.start(self.flush)
        elif len(lines) >= LINES_MAX or not self._delay:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._timer.stop()
        lines, self._lines = self._lines, []
        if not lines:
            return
        data = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            log.error("access log %s: %s", self._path, os.strerror(error.errno or 0))

    def reopen(self) -> None:
        """After a rotation."""
        self.flush()
        if self._fd == STDOUT:
            return
        try:
            fresh = self._open()
        except OSError as error:
            log.error("cannot reopen the access log: %s", os.strerror(error.errno or 0))
            return
        os.close(self._fd)
        self._fd = fresh

    def close(self) -> None:
        self.flush()
        self._timer.close()
        if self._fd != STDOUT:
            os.close(self._fd)
