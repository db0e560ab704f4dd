"""One client's connection: bytes in, requests one after the other, and what becomes of it in between.

While nothing runs on it, it costs a watcher of the loop and no greenlet.  Runs in: worker, in the hub unless said.
"""

from __future__ import annotations

import _socket
import socket
import struct
from typing import TYPE_CHECKING, Any

from gevent.socket import socket as CooperativeSocket
from greenlet import getcurrent

from channels.errors import ClientGone
from channels.worker.http.exchange import Exchange
from channels.worker.http.head import BadRequest, Head
from channels.worker.http.peers import believe
from channels.worker.http.proxy_protocol import parse as parse_proxy
from channels.worker.http.response import refusal
from channels.worker.http.sending import Sending
from channels.worker.http.tls import TlsSocket, TlsWire

if TYPE_CHECKING:
    from channels.worker.http.server import Listener, Server

READ_SIZE = 16 * 1024
READ_AHEAD = 64 * 1024  # bytes that may wait behind the running request
HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EMPTY_LINES_MAX = 8  # before a request line (RFC 9112, section 2.2)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is not sent is forgotten, the client sees a reset


class Connection(Sending):
    """A client, from accept to close."""

    __slots__ = (
        "_paused", "_proxy", "address", "buffer", "core", "detached", "exchange", "handed", "io", "lingering",
        "listener", "plain", "timed", "timed_out", "trusted", "waiter",
    )  # fmt: skip

    def __init__(self, server: Server, listener: Listener, sock: _socket.socket, address: Any) -> None:
        super().__init__(server, sock)
        self.listener = listener
        self.plain = server.tls is None
        self.address: tuple[str, str] = ("", "") if isinstance(address, (str, bytes)) else (address[0], str(address[1]))
        self.buffer = b""  # read, not yet used
        self.exchange: Exchange | None = None  # the request that runs
        self.detached = False
        self.lingering = False
        self.handed: Any = None  # the socket that the application took over
        self.core: Any = None  # whom to tell when the client goes
        self.waiter: Any = None  # the greenlet that waits for bytes
        self.timed: dict[Any, float] | None = None  # the deadline it stands in
        self.timed_out: TimeoutError | None = None
        self._paused = False
        self._proxy = server.config.proxy_protocol
        self.trusted = server.forwarders.holds(self.address[0], self.unix)
        self.io = server.loop.io(sock.fileno(), 1)
        self.io.start(self._readable)
        if not self.plain and not self._proxy:
            self.wire = TlsWire(sock, server.tls)

    @property
    def unix(self) -> bool:
        return self.sock.family == socket.AF_UNIX

    def begin(self, data: bytes = b"") -> None:
        """Take it up, with what was read of it already."""
        heads = self.server.heads
        heads.entries[self] = self.server.now()
        self.timed = heads.entries
        if data:
            self._take(data)
        else:
            self._readable()  # most clients have spoken by now

    # ---- reading ----

    def _readable(self) -> None:
        if self.exchange is not None:
            self._readable_while_busy()
            return
        try:
            data = self.wire.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if self.lingering:
            if not data:
                self.close()
            return
        if not data:
            if self._proxy or HEAD_END not in self.buffer:  # else its turn comes first, and this is seen once more
                self.close()
            return
        self._take(self.buffer + data if self.buffer else data)

    def _readable_while_busy(self) -> None:
        """Somebody waits for it; or it is a next request, or the client's end."""
        if self.waiter is not None:
            self.waiter.switch()
            return
        if len(self.buffer) >= READ_AHEAD:
            self.io.stop()
            self._paused = True
            return
        try:
            data = self.wire.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self.buffer += data
        else:
            self._has_gone()

    def _has_gone(self) -> None:
        self.gone = True
        self.io.stop()
        if self.core is not None:
            self.core.end(ClientGone)

    def _again(self) -> None:
        """A request that came behind the last one; others had their turn before it."""
        if self.exchange is None and self.buffer and not (self.closed or self.lingering or self.detached):
            self._take(self.buffer)

    def _take(self, data: bytes) -> None:
        """Bytes between requests."""
        try:
            if self._proxy:
                data = self._take_proxy(data)
                if not data:
                    return
            if data[0] == 13:
                data = _skip_empty_lines(data)
            end = data.find(HEAD_END)
            if end < 0:
                self._take_part(data)
                return
            server = self.server
            end += 4
            if end > server.config.limit_request_head:
                raise BadRequest(431, "head too large")
            self.buffer = data[end:]
            environ = self.listener.environ.copy()
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = self.address
            head = server.parser.parse(data[:end], environ)
            if self.trusted:
                believe(environ, server.forwarders)
        except BadRequest as error:
            self._refuse(error)
            return
        if self.timed is not None:
            del self.timed[self]
            self.timed = None
        if server.on_head is not None:
            self._offer(head)
        else:
            self.serve(head)

    def serve(self, head: Head) -> None:
        """Run the application on a request."""
        server = self.server
        server.stats.requests += 1
        server.stats.running += 1
        self.exchange = exchange = Exchange(self, head)
        if server.config.request_timeout:
            server.running.entries[exchange] = server.now()
            server.deadlines.start()
        server.pool.run(exchange)

    def set_aside(self) -> None:
        """Whoever took it by `on_head` lets it wait."""
        self.detached = True
        self.io.stop()

    def take_up(self) -> None:
        """It goes on."""
        self.detached = False
        self.io.start(self._readable)

    def refuse_head(self, status: int, reason: str) -> None:
        """Whoever took it by `on_head` has nobody to serve it."""
        self.detached = False
        self.io.start(self._readable)
        self._refuse(BadRequest(status, reason))

    def _offer(self, head: Head) -> None:
        """Another worker may be the one for it."""
        taker = self.server.on_head
        assert taker is not None
        if not taker(self, head):
            self.serve(head)

    def _take_part(self, data: bytes) -> None:
        """The beginning of a head."""
        config = self.server.config
        self.buffer = data
        if not data:
            return
        if not 65 <= data[0] <= 90 or data.count(b"\n") != data.count(b"\r\n"):
            raise BadRequest(400, "no HTTP")
        if len(data) > config.limit_request_line and data.find(b"\r\n", 0, config.limit_request_line + 2) < 0:
            raise BadRequest(414, "request line too long")
        if len(data) > config.limit_request_head:
            raise BadRequest(431, "head too large")
        heads = self.server.heads.entries
        if self.timed is not heads:
            self._enter(heads)

    def _take_proxy(self, data: bytes) -> bytes:
        """The PROXY header that comes first; what is behind it, decrypted."""
        found = parse_proxy(data)
        if found is None:
            self.buffer = data
            return b""
        if not self.server.proxies.holds(self.address[0], self.unix):
            raise BadRequest(400, "a PROXY header from a stranger")
        self._proxy = False
        rest, client = found
        self.buffer = b""
        if client is not None:
            self.address = client
            self.trusted = self.server.forwarders.holds(client[0], False)
        if self.plain:
            return rest
        self.wire = TlsWire(self.sock, self.server.tls, rest)
        try:
            return bytes(self.wire.recv(READ_SIZE))
        except BlockingIOError:
            return b""
        except OSError:
            self.close()
            return b""

    def _enter(self, entries: dict[Any, float]) -> None:
        if self.timed is not None:
            del self.timed[self]
        entries[self] = self.server.now()
        self.timed = entries
        self.server.deadlines.start()

    def say_continue(self) -> bool:
        """Tell the client that it may send the body; False: too late, the answer has begun."""
        exchange = self.exchange
        if exchange is None or exchange.head_sent:
            return False
        self.send(CONTINUE)
        return True

    def more(self, forever: bool = False) -> bool:
        """Wait until `buffer` has grown; False at the client's end.  In the request's greenlet.

        Raises:
            TimeoutError: Nothing came for `body_timeout`, unless `forever`.
        """
        while not self.gone:
            try:
                data = self.wire.recv(READ_AHEAD)
            except (BlockingIOError, InterruptedError):
                self._wait_readable(forever)
                continue
            except OSError:
                data = b""
            if data:
                self.buffer += data
                return True
            self._has_gone()
        return False

    def _wait_readable(self, forever: bool) -> None:
        waiter = getcurrent()
        if waiter is self.server.hub or self.waiter is not None:
            raise RuntimeError("one greenlet at a time may read a request's body, and none in the hub")
        if self._paused:
            self._paused = False
            self.io.start(self._readable)
        entries = self.server.bodies.entries
        if not forever:
            entries[self] = self.server.now()
            self.server.deadlines.start()
        self.waiter = waiter
        try:
            self.server.hub.switch()
        finally:
            self.waiter = None
            entries.pop(self, None)

    # ---- between requests ----

    def finished(self, keep: bool, last: bool) -> None:
        """The running request's answer is out.

        Args:
            keep: The connection goes on.
            last: The client has said that it says no more, and all that it said was read.
        """
        server = self.server
        exchange, self.exchange = self.exchange, None
        if not self.detached:
            server.stats.running -= 1
        if server.config.request_timeout:
            server.running.entries.pop(exchange, None)
        if self.closed:
            server.forget(self)
        elif (
            self.handed is not None
            or (self.gone and not (keep and self.buffer))  # what was asked before the client's end is answered
            or (last and not self.buffer and self.plain)
        ):
            self.close()
        elif not keep:
            if self.detached:
                self.detached = False
                self.io.start(self._readable)
            self.end()
        else:
            if self._paused or self.gone:  # the client's end is seen once more, behind what came before it
                self._paused = self.gone = False
                self.io.start(self._readable)
            if self.buffer:
                server.loop.run_callback(self._again)
            entries = server.idles.entries
            entries[self] = server.now()
            self.timed = entries
            server.deadlines.start()
        if server.stats.requests >= server.requests_limit:
            server.limit_reached()

    def end(self) -> None:
        """Say no more, and listen a little longer: closing at once could reset what the client has not read yet."""
        if self.closed:
            return
        self.buffer = b""
        self.lingering = True
        try:
            self.wire.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._enter(self.server.lingers.entries)
        if self._paused:
            self._paused = False
            self.io.start(self._readable)
        self._readable()

    def end_idle(self) -> None:
        """The worker drains and it asks for nothing.  What it asks for at this very moment is still answered.

        Whoever has begun to ask has its time for that.
        """
        self._readable()
        if self.buffer and self.timed is self.server.heads.entries:
            return
        if not self.closed and not self.lingering and self.exchange is None and not self.detached:
            self.end()

    def _refuse(self, error: BadRequest) -> None:
        """Answer what is no request, and close."""
        server = self.server
        server.stats.refused += 1
        server.clock.tick(server.now())
        if server.access_log is not None:
            server.access_log.refused(self, error.status)
        try:
            self.wire.send(refusal(error.status, server.clock.both, error.reason))
        except OSError:
            self.close()
            return
        self.end()

    # ---- giving it away ----

    def detach(self, head: Head | None = None) -> tuple[_socket.socket, bytes]:
        """Stop looking at it: somebody else reads and writes its socket from here on.

        Returns:
            The socket, which stays this object's, and what was read of it and not used, from `head` on.
            Afterwards comes either `resume`, or `close`, which leaves other processes' copies open.
        """
        self.detached = True
        self.io.stop()
        if self.timed is not None:
            del self.timed[self]
            self.timed = None
        data, self.buffer = self.buffer, b""
        return self.sock, head.raw + data if head is not None else data

    def resume(self, data: bytes = b"") -> None:
        """Take it back, with bytes that were read meanwhile."""
        self.detached = False
        self.buffer = data
        self._paused = False
        self.io.start(self._readable)
        if self.exchange is None:
            self._enter(self.server.idles.entries)
            if data:
                self.server.loop.run_callback(self._again)

    def hand_over(self) -> tuple[Any, bytes]:
        """A cooperative socket for the application, and what was read already."""
        data, self.buffer = self.buffer, b""
        self.io.stop()
        if self.plain:
            family, kind, protocol = self.sock.family, self.sock.type, self.sock.proto
            self.handed = CooperativeSocket(family, kind, protocol, fileno=self.sock.detach())
        else:
            self._paused = True
            self.handed = TlsSocket(self)
        return self.handed, data

    # ---- who watches the client for a core ----

    def start(self, core: Any) -> None:
        """Somebody waits in this request: tell `core` when the client goes."""
        self.core = core
        if self.gone:
            core.end(ClientGone)
        elif self._paused and len(self.buffer) < READ_AHEAD:
            self._paused = False
            self.io.start(self._readable)

    def stop(self) -> None:
        """Nobody waits any more."""
        self.core = None

    # ---- time is up, and the end ----

    def expire(self) -> None:
        """No head in time, or idle for too long: removed from its deadline already."""
        idle = self.timed is self.server.idles.entries
        self.timed = None
        if not idle and self.buffer:
            self._refuse(BadRequest(408, "no whole head in time"))
        else:
            self.end_idle()

    def expire_body(self) -> None:
        if self.waiter is not None:
            self.timed_out = TimeoutError("the client sends no more of the request's body")
            self.waiter.throw(self.timed_out)

    def abort(self) -> None:
        """Close so that the client sees that something is missing."""
        if self.closed:
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # closed already
        self.close()

    def close(self) -> None:
        """Close this process's socket.  May be repeated."""
        if self.closed:
            return
        self.closed = True
        self.gone = True
        if self.timed is not None:
            self.timed.pop(self, None)
            self.timed = None
        for io in (self.io, self._write_io):
            if io is not None:
                io.stop()
                io.close()
        self.sock.close()
        if self.handed is not None:
            self.handed.close()
        if self.core is not None:
            self.core.end(ClientGone)
        if self.exchange is None or self.detached:  # else when its application has cleaned up
            self.server.forget(self)
        for waiter in (self.waiter, self.writer):
            if waiter is not None:
                self.server.loop.run_callback(_wake_with_end, self, waiter)


def _wake_with_end(connection: Connection, waiter: Any) -> None:
    if waiter in (connection.waiter, connection.writer):
        waiter.throw(ClientGone())


def _skip_empty_lines(data: bytes) -> bytes:
    for _ in range(EMPTY_LINES_MAX):
        if not data.startswith(b"\r\n"):
            break
        data = data[2:]
    return b"" if data == b"\r" else data
