"""The running request: which it is, its connection, what hangs on it.

A greenlet that a view spawns names the request by `request_context=`.
"""

from __future__ import annotations

import os
import select
import socket
import types
from collections.abc import Iterable
from typing import Any, Callable

import gevent
from gevent import monkey
from gevent import socket as gsocket

from channels.errors import StreamEnded
from channels.web import upgrade
from channels.web.uwsgi.state import as_bytes, as_text, state
from channels.worker import subscription

_poll = monkey.get_original("select", "poll")

PUMP_BYTES = 65536
PLAIN = (socket.socket, gsocket.socket)


class Context:
    """What `request_context()` gives; also the place of everything that a request has begun here."""

    def __init__(self, environ: dict[str, Any], number: int, core: subscription.Core) -> None:
        self.environ = environ
        self.core = core
        self.number = number
        self.waits: list[tuple[int, int, float]] = []  # descriptor, what for, seconds
        self.ready_fd = -1
        self.signal_received = -1
        self.websocket: Any = None
        self.harakiri: Any = None
        self.file: Iterable[bytes] | None = None
        self.body_reader: Any = None  # the greenlet that waits for more of the body
        self.connection: Any = None  # the socket, once it was taken from the server
        self.head = b""  # what the server had read of it beyond the request
        self._pumped: socket.socket | None = None
        self._pump: Any = None

    # ---- the connection ----

    def take(self) -> Any:
        """The socket: it is the application's from now on.  Raises OSError: the server does not give it."""
        if self.connection is None:
            taken = upgrade.take(self.environ)
            if taken is None:
                raise OSError("this connection cannot be taken over: it is no WebSocket's")
            self.connection, self.head = taken.socket, taken.initial
            self.connection.settimeout(None)
            self.core.unwatch()
        return self.connection

    def fileno(self) -> int:
        """A descriptor that is readable while something of the client waits.

        For TLS, and when the server had read ahead, that is one end of a pair that a greenlet fills: the socket's own
        would say nothing of bytes that were taken out of it already.
        """
        return int(self.reader().fileno())

    def reader(self) -> Any:
        """Where what the client sends is read."""
        sock = self.take()
        if self._pumped is not None:
            return self._pumped
        if not self.head and isinstance(sock, PLAIN) and not hasattr(sock, "pending"):
            return sock
        ours, theirs = gsocket.socketpair()
        self._pumped = ours
        self._pump = gevent.spawn(_pump, sock, self.head, theirs)
        self.head = b""
        return ours

    def close(self) -> None:
        """Never waits."""
        for greenlet in (self._pump, self.body_reader):
            if greenlet is not None:
                greenlet.kill(block=False)
        if self._pumped is not None:
            self._pumped.close()
        if self.harakiri is not None:
            self.harakiri.close()
        if self.websocket is not None:
            self.websocket.forget()


def _pump(sock: Any, head: bytes, sink: Any) -> None:
    data = head
    try:
        while True:
            if data:
                sink.sendall(data)
            try:
                data = sock.recv(PUMP_BYTES)
            except socket.timeout:
                data = b""
                continue
            if not data:
                return
    except OSError:
        pass  # the reader sees the end of it
    finally:
        sink.close()


def find(given: Any = None) -> Context | None:
    """The running request's, made when it is first asked for, or the one given; None outside of a request."""
    if given is not None:
        if not isinstance(given, Context):
            raise TypeError("request_context must come from uwsgi.request_context()")
        return given
    seat = subscription.request_seat()
    if seat is None or seat.request is None:
        return None
    if not isinstance(seat.request, Context):
        environ, number = seat.request
        seat.request = Context(environ, number, seat.take())
        seat.take().on_close.append(seat.request.close)
    return seat.request


def current(given: Any = None) -> Context:
    """The same.  Raises OSError outside of a request."""
    found = find(given)
    if found is None:
        raise OSError("this call works inside a request only; in a greenlet of its own, name it: request_context=")
    return found


class Application:
    """The WSGI application with a context around each request."""

    def __init__(self, application: Callable[..., Any], resume: Callable[[Context], None]) -> None:
        self.application = application
        self._resume = resume  # carries out the waits that a generator's `yield` stands for
        self._state = state()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        seat = subscription.request_seat()
        if seat is None:
            return self.application(environ, start_response)
        self._state.requests += 1
        seat.request = (environ, self._state.requests)
        try:
            result = self.application(environ, start_response)
        except (OSError, StreamEnded):
            if type(seat.request) is tuple or seat.request.connection is None:
                raise
            return self._end(seat.request)
        if type(result) is types.GeneratorType:
            return self._steps(seat, result)
        if type(seat.request) is tuple:
            return result
        return self._finish(seat.request, result)

    def _finish(self, context: Context, result: Any) -> Any:
        if context.connection is None and context.file is None:
            return result
        if hasattr(result, "close"):
            result.close()
        return self._end(context) if context.connection is not None else context.file

    def _steps(self, seat: subscription.Seat, result: Any) -> Any:
        """A generator: what it registered to wait for is waited for between its items."""
        try:
            for item in result:
                used = seat.request if isinstance(seat.request, Context) else None
                if used is None or used.connection is None:
                    yield item
                if used is not None and used.waits:
                    self._resume(used)
        except (OSError, StreamEnded):
            if not isinstance(seat.request, Context) or seat.request.connection is None:
                raise
        finally:
            result.close()
        if isinstance(seat.request, Context) and seat.request.connection is not None:
            self._end(seat.request)

    @staticmethod
    def _end(context: Context) -> list[bytes]:
        """The connection was taken over: nothing more is said on it, by nobody."""
        if context.websocket is not None:
            context.websocket.linger()
        else:
            _shut(context.connection)
        return []


def _shut(sock: Any) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has gone already


# ---- the calls ----


def request_context() -> Context:
    """The running request, to be named in calls from greenlets that do not belong to it."""
    return current()


def request_id() -> int:
    """How many requests this worker has begun, this one included."""
    return current().number


def connection_fd(request_context: Any = None) -> int:
    """A descriptor that is readable while something of the client waits.

    Takes the connection from the server: whoever calls it answers over `websocket_*` or not at all.
    """
    return current(request_context).fileno()


def disconnect(request_context: Any = None) -> None:
    """End the connection; the application may go on."""
    context = current(request_context)
    if context.websocket is not None:
        context.websocket.close()
    _shut(context.take())


def is_connected(fd: int) -> bool:
    """Whether the other end of a socket is there still."""
    try:
        sock = _poll()
        sock.register(fd, select.POLLIN | select.POLLRDHUP)
        events = sock.poll(0)
        if not events:
            return True
        if events[0][1] & (select.POLLNVAL | select.POLLERR | select.POLLHUP):
            return False
        duplicate = socket.socket(fileno=os.dup(fd))
        try:
            return bool(duplicate.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        finally:
            duplicate.close()
    except BlockingIOError:
        return True
    except (OSError, ValueError, OverflowError):
        return False


def cl() -> int:
    """The request's Content-Length."""
    try:
        return int(current().environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def add_var(key: Any, value: Any) -> bool:
    """Set a variable of the request."""
    current().environ[as_text(key, "key")] = as_bytes(value).decode("latin-1")
    return True


def set_logvar(key: Any, value: Any) -> None:
    """A variable for the access log: `%({logvar.KEY}e)s` in its format."""
    current().environ[f"logvar.{as_text(key, 'key')}"] = as_bytes(value).decode("latin-1")


def get_logvar(key: Any) -> bytes | None:
    """What set_logvar has set in this request."""
    value = current().environ.get(f"logvar.{as_text(key, 'key')}")
    return None if value is None else str(value).encode("latin-1")


CALLS = {
    call.__name__: call
    for call in (
        add_var, cl, connection_fd, disconnect, get_logvar, is_connected, request_context, request_id, set_logvar,
    )
}  # fmt: skip
