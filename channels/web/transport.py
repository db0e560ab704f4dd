"""A socket without a greenlet: read and written in the hub, one writer, whatever does not fit waits in order.

Runs in: worker, under gevent.
"""

from __future__ import annotations

import collections
import logging
import socket as sockets
import ssl
from typing import Any, Callable

import gevent
from gevent import socket as gsocket

log = logging.getLogger("channels")

READ_BYTES = 64 * 1024
READS = 8  # before other sockets get their turn
SEND_BYTES = 64 * 1024  # of what waits, or a little more, in one call
READ, WRITE = 1, 2

# What is nothing but a socket; all that has pending() deciphers, and so may what nobody here knows.
PLAIN = (sockets.socket, gsocket.socket)
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport:
    """A connected socket, plain or TLS.

    Its callbacks are called in the hub and must not wait: `on_data(bytes)`; `on_drained()` when nothing waits to be
    written any more; `on_end()` once, when the other side has ended or the connection has failed.
    """

    def __init__(
        self,
        socket: Any,
        on_data: Callable[[bytes], None],
        on_drained: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._tls = not isinstance(socket, PLAIN) or hasattr(socket, "pending")
        socket.settimeout(0.0)
        if not self._tls and hasattr(socket, "_sock"):  # gevent's: its methods add nothing to what never waits
            self._recv, self._send = socket._sock.recv, socket._sock.send
        else:
            self._recv, self._send = socket.recv, socket.send
        self._on_data, self._on_drained, self._on_end = on_data, on_drained, on_end
        self._loop = gevent.get_hub().loop
        self._reader = self._loop.io(socket.fileno(), READ)
        self._writer = self._loop.io(socket.fileno(), WRITE)
        self._waiting: collections.deque[memoryview] = collections.deque()
        self._bytes = 0  # in it
        self._stream: Any = None  # who writes instead, see attach()
        self.reading = False
        self.ended = False
        self._finish = False

    # ---- reading ----

    def resume(self) -> None:
        """Read what comes."""
        if not self.reading and not self.ended:
            self.reading = True
            self._reader.start(self._readable)
            if self._tls and self._socket.pending():  # deciphered already: the descriptor will not tell
                self._loop.run_callback(self._readable)

    def pause(self) -> None:
        """Leave what comes in the kernel, so that the other side has to wait."""
        if self.reading:
            self.reading = False
            self._reader.stop()

    def _readable(self) -> None:
        try:
            for _ in range(READS):
                if not self.reading:
                    return
                data = self._recv(READ_BYTES)
                if not data:
                    self._end()
                    return
                self._on_data(data)
                if len(data) < READ_BYTES and not self._tls:
                    return
            if self._tls and self.reading:
                self._loop.run_callback(self._readable)
        except _WAIT:
            return
        except OSError as error:
            log.debug("connection lost: %s", error)
            self._end()

    # ---- writing ----

    @property
    def is_plain(self) -> bool:
        """Whether what is written is what goes over the wire."""
        return not self._tls

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return self._bytes if self._stream is None else int(self._stream.waiting)

    def attach(self, stream: Any) -> None:
        """A native stream on this very socket writes from here on, what waits first."""
        self._writer.stop()
        waiting, self._waiting = self._waiting, collections.deque()
        self._bytes = 0
        self._stream = stream
        for part in waiting:
            stream.send(bytes(part))
        self.want_drained()

    def detach(self) -> None:
        """It does no more; nothing is written behind what it has left unwritten."""
        if self._stream is not None and self._stream.cut:
            self._finish = True
        self._stream = None

    def want_drained(self) -> None:
        """Somebody waits for on_drained()."""
        if self._stream is not None and self._stream.waiting:
            self._stream.want_room = True

    def drained(self) -> None:
        """Nothing waits any more: the writer's word, whoever that is."""
        if self._finish:
            self._shut()
        self._on_drained()

    def write(self, data: bytes) -> None:
        """Behind whatever waits.  Never waits itself."""
        if self.ended or self._finish or not data:
            return
        if self._stream is not None:
            self._stream.send(data)
            return
        if self._waiting:
            self._waiting.append(memoryview(data))
            self._bytes += len(data)
            return
        try:
            sent = self._send(data)
        except _WAIT:
            sent = 0
        except OSError as error:
            log.debug("connection lost: %s", error)
            self._loop.run_callback(self._end)
            return
        if sent < len(data):
            self._waiting.append(memoryview(data)[sent:])
            self._bytes += len(data) - sent
            self._writer.start(self._writable)

    def finish(self) -> None:
        """Say that nothing more comes, behind whatever waits."""
        if not self._finish and not self.ended:
            self._finish = True
            if not self.pending:
                self._shut()
            self.want_drained()

    def _writable(self) -> None:
        try:
            while self._waiting:
                first = self._waiting[0]
                if len(first) < SEND_BYTES and len(self._waiting) > 1:  # what waits leaves together
                    parts, size = [], 0
                    while self._waiting and size < SEND_BYTES:
                        parts.append(self._waiting.popleft())
                        size += len(parts[-1])
                    first = memoryview(b"".join(parts))
                    self._waiting.appendleft(first)
                sent = self._send(first)
                self._bytes -= sent
                if sent < len(first):
                    self._waiting[0] = first[sent:]
                    return
                self._waiting.popleft()
        except _WAIT:
            return
        except OSError as error:
            log.debug("connection lost: %s", error)
            self._end()
            return
        self._writer.stop()
        self.drained()

    def _shut(self) -> None:
        try:
            self._socket.shutdown(sockets.SHUT_WR)
        except OSError as error:
            log.debug("connection lost: %s", error)

    # ---- the end ----

    def _end(self) -> None:
        if not self.ended:
            self.stop()
            self._on_end()

    def stop(self) -> None:
        """Watch it no more; the socket is its owner's to close.  May be repeated."""
        self.ended = True
        self.reading = False
        self._waiting.clear()
        self._bytes = 0
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()

    def abort(self) -> None:
        """End it at once."""
        if not self.ended:
            try:
                self._socket.shutdown(sockets.SHUT_RDWR)
            except OSError as error:
                log.debug("connection lost: %s", error)
            self._loop.run_callback(self._end)
