"""A request's own socket, taken from whatever server runs the application.

Runs in: a request, before anything was answered.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any


class Upgraded:
    """The socket, what was read beyond the request, and how the application has to end afterwards."""

    def __init__(self, socket: Any, initial: bytes, server: str) -> None:
        self.socket = socket
        self.initial = initial
        self._server = server

    def result(self) -> Iterable[bytes]:
        """What the application returns, or raises, so that the server writes nothing more."""
        if self._server == "gunicorn":
            raise StopIteration  # its sign that the connection is somebody else's
        if self._server == "werkzeug":
            raise ConnectionError("the WebSocket has ended")  # the one error that it lets pass in silence
        return []


def take(environ: dict[str, Any]) -> Upgraded | None:
    """The request's socket; None when the server does not give it away.

    Ours (`channels.upgrade`), gevent's pywsgi, gunicorn's and werkzeug's do.
    """
    upgrade = environ.get("channels.upgrade")
    if upgrade is not None:
        socket, initial = upgrade()
        return Upgraded(socket, initial, "channels")
    for server in ("gunicorn", "werkzeug"):
        socket = environ.get(f"{server}.socket")
        if socket is not None:
            return Upgraded(socket, b"", server)
    source = environ.get("wsgi.input")
    reader = getattr(source, "rfile", source)  # pywsgi's, which may have read ahead
    if isinstance(reader, io.BufferedReader):
        socket = getattr(reader.raw, "_sock", None)
        if socket is not None:
            socket.settimeout(0.0)
            return Upgraded(socket, bytes(reader.peek()), "pywsgi")
    return None
