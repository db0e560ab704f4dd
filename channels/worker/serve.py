"""Serving HTTP in a worker: gevent's pywsgi behind the seam where a server of our own comes."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any, Callable

import gevent
from gevent import pywsgi
from gevent.pool import Pool

from channels import passing
from channels.assignment import Assignment
from channels.errors import ClientGone, Draining, Restarting, StreamEnded
from channels.worker import control, subscription
from channels.worker.application import WSGIApplication
from channels.worker.client import Client
from channels.worker.inbox import InboxReader

log = logging.getLogger("channels")


class _Watcher:
    """Sees that the client has gone while the application waits."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._io: Any = None

    def start(self, core: subscription.Core) -> None:
        self._io = gevent.get_hub().loop.io(self._sock.fileno(), 1)
        self._io.start(self._look, core)

    def _look(self, core: subscription.Core) -> None:
        try:
            gone = self._sock._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        self.stop()
        if gone:
            core.end(ClientGone)

    def stop(self) -> None:
        if self._io is not None:
            self._io.stop()
            self._io.close()
            self._io = None


class _Handler(pywsgi.WSGIHandler):
    def handle(self) -> None:
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # a Unix socket
        super().handle()

    def run_application(self) -> None:
        core, token = subscription.bind_request(_Watcher(self.socket))
        try:
            super().run_application()
        except StreamEnded:
            self.close_connection = True
            if self.headers_sent and self.response_use_chunked:
                self._sendall(b"0\r\n\r\n")  # type: ignore[attr-defined]  # missing in its stub
        finally:
            subscription.unbind_request(core, token)


class Serving:
    """The HTTP servers of one worker, one per listener."""

    def __init__(self, given: Assignment, client: Client, application: WSGIApplication) -> None:
        self.on_leaving: Callable[[str], None] = lambda reason: None
        self._servers = []
        for listener in given.listeners:
            inherited = gevent.socket.socket(fileno=listener.detach())
            inherited.setblocking(False)
            self._servers.append(
                pywsgi.WSGIServer(inherited, application, spawn=Pool(), handler_class=_Handler, log=None, error_log=log)
            )

        message_max = given.settings.message_max
        self._inbox = InboxReader(
            given.inboxes[given.slot].read,
            {passing.CONTROL: lambda line, fd: gevent.spawn(control.serve, line, fd, message_max)},
        )

    def start(self) -> None:
        for server in self._servers:
            server.start()
        self._inbox.start()

    def flush(self) -> None:
        """Write what is buffered."""

    def reopen(self) -> None:
        """After a log rotation."""

    def drain(self, seconds: float, last: bool) -> None:
        """Take nothing new; what runs may finish, streams are told to end.

        Args:
            last: Nobody else listens: what the kernel has queued is still accepted.
        """
        for server in self._servers:
            server.stop_accepting()
        subscription.drain_cores(Draining if last else Restarting)
        deadline = time.monotonic() + seconds
        for server in self._servers:
            server.stop(timeout=max(deadline - time.monotonic(), 0.0))
