"""Handing an open connection to another process: the descriptor and what was read of it, in one message.

Runs in: worker, router.
"""

from __future__ import annotations

import array
import logging
import os
import socket

log = logging.getLogger("channels")

HTTP = b"H"  # a connection with a request on it: bytes read so far
CONTROL = b"C"  # a connection of `channels tail`, `send` or `alert`: its first line
BROKEN_AT_ONCE = 16
MESSAGE_MAX = 192 * 1024  # bytes read so far that may travel with a connection; sockets take about 208 KiB at once

_RIGHTS_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)


class _Raw(socket.socket):
    """A socket object around a descriptor that it does not own."""

    def __init__(self, fd: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd)

    def __del__(self) -> None:
        self.detach()


def give(write_fd: int, kind: bytes, data: bytes, connection: int) -> bool:
    """Pass a connection on; False when the receiver's queue is full, or it takes none.  Never waits.

    The caller closes its copy of the descriptor after True.
    """
    raw = _Raw(write_fd)
    try:
        raw.sendmsg(
            [kind, data],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection]).tobytes())],
            socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
        )
    except OSError:
        return False
    finally:
        raw.detach()
    return True


def take(read_fd: int) -> tuple[bytes, bytes, int] | None:
    """(kind, data, descriptor) of the next connection, or None.  Never waits.

    Of what is no connection it drops BROKEN_AT_ONCE at most: whoever floods an inbox must not hold its reader.

    Raises:
        OSError: No descriptor is free for it: it stays where it is.
    """
    raw = _Raw(read_fd)
    try:
        for _ in range(BROKEN_AT_ONCE):
            try:
                os.close(os.dup(read_fd))  # the kernel throws away what it cannot install, unix(7)
            except OSError:
                if not _holds(raw):
                    return None
                raise
            try:
                message, rights, flags, _ = raw.recvmsg(
                    MESSAGE_MAX + 64, _RIGHTS_SPACE, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except OSError:
                return None
            fds = array.array("i")
            for level, what, data in rights:
                if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            if message and len(fds) == 1 and not flags & socket.MSG_TRUNC:
                return message[:1], message[1:], fds[0]
            if not fds and flags & socket.MSG_CTRUNC:
                log.error("a connection that was passed on is lost: no descriptor was free")
            for fd in fds:
                os.close(fd)
            if not message:
                return None
        return None
    finally:
        raw.detach()


def waits(read_fd: int) -> bool:
    """Whether there is something to take.  Never waits."""
    raw = _Raw(read_fd)
    try:
        return _holds(raw)
    finally:
        raw.detach()


def _holds(raw: _Raw) -> bool:
    """Whether something waits to be taken."""
    try:
        return bool(raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
