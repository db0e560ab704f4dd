"""What changes once a second: the fields Date and Server, and the access log's time.

Runs in: worker.
"""

from __future__ import annotations

import time


class Clock:
    """Reads no clock: `tick` is told the time."""

    def __init__(self, server: str) -> None:
        self._server = f"Server: {server}\r\n" if server else ""
        self._second = -1
        self.date = b""
        self.both = b""
        self.server = self._server.encode("latin-1")
        self.logged = ""

    def tick(self, now: float) -> None:
        """Bring them up to date.

        Args:
            now: Unix seconds.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            date = f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S', time.gmtime(second))} GMT\r\n"
            self.date = date.encode("ascii")
            self.both = self.date + self.server
            self.logged = time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(second))
