"""Where a server of one's own listens: an address, or a socket that listens already."""

from __future__ import annotations

import _socket
import os
import socket
import stat
from typing import Any

BACKLOG = 2048
PROBE_IDLE, PROBE_EVERY, PROBES = 60, 10, 6  # seconds of silence, seconds, count: keepalive of tcp(7)


def listening(where: Any) -> Any:
    """A socket object that listens and does not block.

    Args:
        where: (host, port), "host:port", "unix:path", or a socket; port 0 takes any.
    """
    if hasattr(where, "fileno"):
        where.setblocking(False)
        return where
    if isinstance(where, str):
        if where.startswith("unix:"):
            return _unix(where[5:])
        host, _, port = where.rpartition(":")
        where = (host.strip("[]"), int(port))
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _unix(path: str) -> socket.socket:
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def plain(listener: Any) -> _socket.socket:
    """The socket below gevent's or the standard library's, whose calls never wait for a hub."""
    if isinstance(listener, _socket.socket):
        return listener
    found = listener._sock
    assert isinstance(found, _socket.socket)
    return found


def family_and_name(fd: int) -> tuple[int, Any]:
    """Of a socket of which only the descriptor is known; takes no further one.  Raises OSError."""
    looked = _socket.socket(-1, -1, -1, fd)
    try:
        return looked.family, looked.getsockname()
    finally:
        looked.detach()


def tune(listener: _socket.socket, patience: float) -> None:
    """What its connections inherit (tcp(7)): no delay, and the end of those whose client vanished without a word.

    Args:
        patience: Seconds for which a client may acknowledge nothing of what is sent, or have no room for it.
    """
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(patience * 1000), 1)),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_IDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ):
        try:
            listener.setsockopt(level, option, value)
        except OSError:
            pass  # not TCP
