"""The HTTP/1.1 server: listening sockets in, connections held, the application called.

    server = Server(("127.0.0.1", 8000), application)
    server.serve_forever()

Runs in: worker, or any process with gevent.
"""

from __future__ import annotations

import _socket
import errno
import logging
import socket
import sys
from collections.abc import Iterable
from typing import Any, Callable

import gevent
from gevent.event import Event
from greenlet import getcurrent

from channels.worker.http.accept import DESCRIPTORS_PAUSE, AcceptPolicy
from channels.worker.http.accesslog import AccessLog
from channels.worker.http.bind import family_and_name, listening, plain, tune
from channels.worker.http.clock import Clock
from channels.worker.http.config import HttpConfig
from channels.worker.http.connection import Connection
from channels.worker.http.deadlines import Deadlines
from channels.worker.http.exchange import Exchange, RequestTimeout
from channels.worker.http.files import FileWrapper
from channels.worker.http.head import Head, HeadParser
from channels.worker.http.peers import Peers
from channels.worker.http.pool import Pool
from channels.worker.http.tls import context

log = logging.getLogger("channels")

ACCEPTS_AT_ONCE = 16
GUEST_LOOK = 0.25  # seconds between looks at another worker's listening socket
IDLE_GRACE = 1.0  # a draining server lets go of connections that have asked for nothing for so long
HANDSHAKES = 0.1  # seconds that the last to listen gives handshakes that are under way
NEVER = 1 << 62
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Application = Callable[..., Iterable[bytes]]


class Stats:
    """What a server has done and does."""

    __slots__ = ("accepted", "connections", "no_room", "refused", "requests", "running", "timeouts")

    def __init__(self) -> None:
        self.accepted = 0
        self.connections = 0  # open
        self.requests = 0
        self.running = 0  # requests
        self.refused = 0  # what was no request
        self.timeouts = 0  # requests that took longer than request_timeout
        self.no_room = 0  # times that no descriptor was left for a connection


class Listener:
    """A listening socket, its watcher, and what environ says of it."""

    def __init__(self, server: Server, given: Any) -> None:
        self.guest = False  # another worker's: looked at now and then, for connections that nobody takes
        self.given = listening(given)
        self.sock = plain(self.given)
        self.where = self.sock.getsockname()  # known when it is closed, too
        loop = server.loop
        self.io: Any = loop.io(self.sock.fileno(), 1)
        self.timer: Any = loop.timer(0)
        if self.sock.family != socket.AF_UNIX:
            tune(self.sock, server.config.write_timeout)
        self.environ = self._environ(server.config)

    def _environ(self, config: HttpConfig) -> dict[str, Any]:
        where = self.where
        name, port = (where[0], str(where[1])) if isinstance(where, tuple) else ("localhost", "")
        environ = {
            "SCRIPT_NAME": "",
            "SERVER_NAME": name,
            "SERVER_PORT": port,
            "SERVER_SOFTWARE": config.server_header or "channels",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if config.certfile else "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": config.multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }
        if config.certfile:
            environ["HTTPS"] = "on"
        return environ


class Server:
    """Serves a WSGI application on one or several listening sockets.

    Args:
        listener: (host, port), "host:port", "unix:path", a listening socket, or a list of such.
        bind_request: Called with the connection when a request begins, in its greenlet and context; what it gives goes
            to `unbind_request` when the request is over.
        on_head: Called with (connection, head) before the application; True: it has taken the connection.
        accept_policy: Says when to accept; without it, always.
    """

    def __init__(
        self,
        listener: Any,
        application: Application,
        config: HttpConfig = HttpConfig(),  # noqa: B008  # frozen
        bind_request: Callable[[Connection], Any] | None = None,
        unbind_request: Callable[[Any], None] | None = None,
        on_head: Callable[[Connection, Head], bool] | None = None,
        accept_policy: AcceptPolicy | None = None,
    ) -> None:
        self.application = application
        self.config = config
        self.bind_request = bind_request
        self.unbind_request = unbind_request or (lambda bound: None)
        self.on_head = on_head
        self.accept_policy = accept_policy
        self.on_stream: Callable[[Exchange, Any], bool] | None = (
            None  # may take over after a part that is no plain bytes
        )
        self.on_connections: Callable[[int], None] = lambda change: None
        self.requests_limit = NEVER  # limit_reached is called from so many requests on
        self.limit_reached: Callable[[], None] = lambda: None
        self.stats = Stats()
        self.closing = not config.keepalive  # answers end their connections
        self.draining = False
        self.connections: set[Connection] = set()
        self.hub = gevent.get_hub()
        self.loop = self.hub.loop
        self.now: Callable[[], float] = self.loop.now
        self.pool = Pool(self.hub)
        self.parser = HeadParser(config)
        self.clock = Clock(config.server_header)
        self.access_log = AccessLog(config, self.clock, self.loop) if config.accesslog else None
        self.forwarders = Peers(config.forwarded_allow_ips)
        self.proxies = Peers(config.proxy_allow_ips, "proxy_allow_ips")
        self.tls = context(config)
        self.deadlines = Deadlines(self.loop)
        expire = Connection.expire
        self.heads = self.deadlines.add(config.header_timeout, expire)
        self.idles = self.deadlines.add(config.keepalive or 1e-3, expire)
        self.bodies = self.deadlines.add(config.body_timeout, Connection.expire_body)
        self.writes = self.deadlines.add(config.write_timeout, Connection.expire_write)
        self.lingers = self.deadlines.add(config.linger_timeout or 1e-3, Connection.close)
        self.running = self.deadlines.add(config.request_timeout, _time_out)
        given = listener if isinstance(listener, list) else [listener]
        self.listeners = [Listener(self, one) for one in given]
        self._accepting = False
        self._empty = Event()
        self._empty.set()
        self._stopped = Event()
        self._idle_timer = self.loop.timer(0.0, 0.25, ref=False)

    # ---- where ----

    @property
    def address(self) -> Any:
        """Of the first listening socket."""
        return self.listeners[0].sock.getsockname()

    @property
    def server_port(self) -> int:
        """Of the first listening socket that has one."""
        for listener in self.listeners:
            where = listener.sock.getsockname()
            if isinstance(where, tuple):
                return int(where[1])
        raise AttributeError("no listening socket has a port")

    # ---- accepting ----

    def start(self) -> None:
        """Accept from now on."""
        self._accepting = True
        self._stopped.clear()
        for listener in self.listeners:
            self._watch(listener)

    def _watch(self, listener: Listener) -> None:
        if listener.guest:
            listener.timer.close()
            listener.timer = self.loop.timer(GUEST_LOOK, GUEST_LOOK)
            listener.timer.start(self._accept, listener)
        else:
            listener.io.start(self._accept, listener)

    def serve_forever(self) -> None:
        """Start, and wait until somebody calls stop()."""
        self.start()
        self._stopped.wait()

    def _accept(self, listener: Listener) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            policy = self.accept_policy
            if policy is not None:
                delay = policy.delay(self.stats.connections, self.config.worker_connections)
                if delay:
                    self._pause(listener, delay)
                    return
            elif self.stats.connections >= self.config.worker_connections:
                self._pause(listener, DESCRIPTORS_PAUSE)
                return
            if not self._accept_one(listener):
                break
        if self._accepting and not (listener.guest or listener.io.active or listener.timer.active):
            # libev has ended a watcher for which the kernel had no memory, epoll_ctl(2), and calls it once more.
            self._pause(listener, DESCRIPTORS_PAUSE)

    def _accept_one(self, listener: Listener) -> bool:
        try:
            fd, address = listener.sock._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _NO_ROOM:
                self.stats.no_room += 1
                log.warning("cannot accept: %s; trying again in %g s", error.strerror, DESCRIPTORS_PAUSE)
                self._pause(listener, DESCRIPTORS_PAUSE)
                return False
            return error.errno == errno.ECONNABORTED
        self._hold(listener, fd, address, b"")
        return True

    def _pause(self, listener: Listener, seconds: float) -> None:
        """Let others accept, or wait for room."""
        listener.io.stop()
        listener.timer.close()
        listener.timer = self.loop.timer(seconds)
        listener.timer.start(self._unpause, listener)

    def _unpause(self, listener: Listener) -> None:
        if self._accepting:
            self._watch(listener)
            self._accept(listener)

    def _hold(self, listener: Listener, fd: int, address: Any, data: bytes) -> None:
        sock = listener.sock
        client = _socket.socket(sock.family, sock.type, sock.proto, fd)
        client.setblocking(False)
        self.stats.accepted += 1
        try:
            connection = Connection(self, listener, client, address)
        except (OSError, MemoryError) as error:  # counted from here on, or a drain would wait for it for ever
            client.close()
            log.error("cannot serve a connection: %s", error)
            return
        self.stats.connections += 1
        self.on_connections(1)
        self._empty.clear()
        self.connections.add(connection)
        self.deadlines.start()
        connection.begin(data)

    def adopt(self, sock: int | Any, data: bytes, address: Any) -> None:
        """Serve a connection that another process has accepted.  In the hub.

        Args:
            sock: A descriptor, or a socket object that is detached; this server's from here on.
            data: What was read of it already.
            address: As accept() gave it.
        """
        fd = sock if isinstance(sock, int) else sock.detach()
        self._hold(self._listener_of(fd), fd, address, data)

    def _listener_of(self, fd: int) -> Listener:
        """The one that a connection came in by."""
        if len(self.listeners) == 1:
            return self.listeners[0]
        where = family_and_name(fd)[1]
        here = [(listener, listener.where) for listener in self.listeners]
        alike = [listener for listener, own in here if isinstance(own, tuple) == isinstance(where, tuple)]
        same = [listener for listener, own in here if isinstance(own, tuple) and own[1] == where[1]]
        return (same if isinstance(where, tuple) and same else alike or self.listeners)[0]

    def forget(self, connection: Connection) -> None:
        """The connection is closed here."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.stats.connections -= 1
            self.on_connections(-1)
            if not self.connections:
                self._empty.set()

    # ---- the end ----

    def stop_accepting(self) -> None:
        """Leave the listening sockets alone; they stay open."""
        self._accepting = False
        for listener in self.listeners:
            listener.io.stop()
            listener.timer.stop()

    def begin_drain(self, last: bool = False) -> None:
        """Take nothing new; answers end their connections, and idle ones are closed.

        Args:
            last: Nobody else listens: what the kernel has queued is still accepted, and so are those whose handshake
                is under way: they may have been told already that they are connected.  Waits for them, but in the hub.
        """
        self.closing = self.draining = True
        if last and self._accepting and getcurrent() is not self.hub:
            gevent.sleep(HANDSHAKES)
        self.stop_accepting()
        if getcurrent() is self.hub:
            self._close_listeners(last)
        else:  # requests begin in the hub only
            done = Event()
            self.loop.run_callback(self._close_listeners, last, done)
            done.wait()
        self._idle_timer.start(self._end_idle)

    def _close_listeners(self, last: bool, done: Event | None = None) -> None:
        try:
            for listener in self.listeners:
                while last and self._accept_one(listener):
                    pass
                self._close_listener(listener)
        finally:
            if done is not None:
                done.set()

    def _close_listener(self, listener: Listener) -> None:
        listener.io.close()
        listener.timer.close()
        listener.given.close()

    def _end_idle(self) -> None:
        limit = self.now() - IDLE_GRACE
        for entries in (self.idles.entries, self.heads.entries):
            for connection, since in list(entries.items()):
                if since <= limit:
                    connection.end_idle()
        if not self.connections:
            self._idle_timer.stop()

    def wait_empty(self, seconds: float | None) -> bool:
        """Until the last connection is closed; False when the time is up."""
        return bool(self._empty.wait(seconds))

    def abort(self) -> None:
        """Close every connection now."""
        for connection in list(self.connections):
            connection.abort()

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, wait for what runs, close."""
        if not self.draining:
            self.begin_drain()
        self.wait_empty(self.config.linger_timeout if timeout is None else timeout)
        self.abort()
        if self.access_log is not None:
            self.access_log.close()
            self.access_log = None
        self._idle_timer.stop()
        self.deadlines.close()
        self.pool.close()
        self._stopped.set()


def _time_out(exchange: Any) -> None:
    runner = exchange.runner
    if runner.job is exchange:
        runner.spoilt = True
        runner.throw(RequestTimeout())
