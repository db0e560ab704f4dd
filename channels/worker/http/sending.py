"""The writing half of a connection: send all of it, waiting for room.

Runs in: worker, in the request's greenlet.
"""

from __future__ import annotations

import _socket
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import getcurrent

from channels.errors import ClientGone

if TYPE_CHECKING:
    from channels.worker.http.server import Server


class Sending:
    """What a connection can do towards its client.

    Whatever cuts a sending short ends the connection there and then: who catches it could make half an answer look
    whole, or the next answer its rest.
    """

    __slots__ = ("_write_io", "closed", "gone", "server", "sock", "wire", "writer")

    def __init__(self, server: Server, sock: _socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.wire: Any = sock  # what bytes are read from and written to: the socket, or TLS over it
        self.gone = False  # the client has ended its side
        self.closed = False
        self.writer: Any = None  # the greenlet that waits for room
        self._write_io: Any = None

    def send(self, data: bytes) -> None:
        """All of it; waits cooperatively.  Raises ClientGone."""
        try:
            sent = self.wire.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            raise self.lost(error) from None
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        try:
            while data:
                self.wait_writable()
                try:
                    data = data[self.wire.send(data) :]
                except (BlockingIOError, InterruptedError):
                    continue
                except OSError as error:
                    raise self.lost(error) from None
        except BaseException:
            self.abort()
            raise

    def wait_writable(self) -> None:
        """Until the socket takes more.  Raises ClientGone when it takes nothing for `write_timeout`."""
        waiter = getcurrent()
        if waiter is self.server.hub or self.writer is not None:
            raise RuntimeError("one greenlet at a time may write an answer, and none in the hub")
        if self.closed:
            raise ClientGone()
        if self._write_io is None:
            self._write_io = self.server.loop.io(self.sock.fileno(), 2)
        io = self._write_io
        entries = self.server.writes.entries
        entries[self] = self.server.now()
        self.server.deadlines.start()
        self.writer = waiter
        io.start(waiter.switch)
        try:
            self.server.hub.switch()
        finally:
            io.stop()
            self.writer = None
            entries.pop(self, None)

    def pause(self) -> None:
        """Let others run."""
        gevent.sleep(0)

    def lost(self, error: OSError) -> ClientGone:
        """Sending failed: the client has gone."""
        self.abort()
        return ClientGone()

    def abort(self) -> None:
        """Close so that the client sees that something is missing."""
        raise NotImplementedError

    def fileno(self) -> int:
        return self.sock.fileno()

    def expire_write(self) -> None:
        """The client took nothing for too long.  In the hub."""
        if self.writer is not None:
            self.gone = True
            self.writer.throw(ClientGone())
