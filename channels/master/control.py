"""The control socket: what the command `channels ls | top | doctor` asks is answered here, the rest by a worker.

Runs in: router, in greenlets beside the routing one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from typing import Any

import gevent
from gevent.socket import socket as Socket

from channels import control, passing, stats
from channels.assignment import Inbox
from channels.core import native
from channels.errors import ChannelsError
from channels.master.routing import Routing

log = logging.getLogger("channels")

READ_TIMEOUT = 5.0  # seconds for the request's line
FOR_WORKERS = ("tail", "send", "alert")


class ControlSocket:
    """Answers on a Unix socket of the master's user alone, which the supervisor has opened."""

    def __init__(
        self, listener: socket.socket, routing: Routing, segment: native.Segment, inboxes: list[Inbox]
    ) -> None:
        self._listener = Socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=listener.detach())
        self._routing = routing
        self._segment = segment
        self._inboxes = inboxes
        self._next = 0

    def start(self) -> None:
        gevent.spawn(self._accept, self._listener)

    def _accept(self, listener: Socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                log.warning("control socket: %s", error)
                gevent.sleep(1.0)
                continue
            gevent.spawn(self._serve, connection)

    def _serve(self, connection: Socket) -> None:
        try:
            with gevent.Timeout(READ_TIMEOUT, False):  # type: ignore[arg-type]  # its stub omits False
                if not self._is_allowed(connection):
                    return
                line = _read_line(connection)
                request = json.loads(line)
                if not isinstance(request, dict):
                    raise ValueError("a request is an object")
                if request.get("do") in FOR_WORKERS:
                    self._pass_on(connection, line)
                else:
                    self._say(connection, self._answer(request))
        except (ChannelsError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._say(connection, {"error": str(error) or type(error).__name__})
        except OSError as error:
            log.debug("control socket: %s", error)
        finally:
            connection.close()

    @staticmethod
    def _is_allowed(connection: Socket) -> bool:
        """The socket's mode keeps others out; its owner and root come in."""
        return control.peer_uid(connection) in (0, os.getuid())

    @staticmethod
    def _say(connection: Socket, answer: dict[str, Any]) -> None:
        try:
            connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            log.debug("control socket: whoever asked has gone")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        what = request["do"]
        if what == "ls":
            return {"channels": self._channels(str(request.get("prefix", "")))}
        if what == "stats":
            answer = stats.snapshot(self._segment)
            answer["router"]["spilled_bytes"] = {
                slot: self._routing.router.spilled_bytes(slot) for slot in self._routing.router.live
            }
            return answer
        raise ValueError(f"the master does not know what {what!r} is")

    def _channels(self, prefix: str) -> list[dict[str, Any]]:
        found = []
        for row in self._routing.names.matching(prefix.encode()):
            name, members, last = self._routing.describe(row)
            found.append({"name": name, "workers": members, "last": last})
        return found

    def _pass_on(self, connection: Socket, line: bytes) -> None:
        """To a ready worker, in turn."""
        ready = [slot for slot in range(1, self._segment.slots) if self._is_ready(slot)]
        for i in range(len(ready)):
            slot = ready[(self._next + i) % len(ready)]
            if passing.give(self._inboxes[slot].write, passing.CONTROL, line, connection.fileno()):
                self._next += i + 1
                return
        raise ValueError("there is no worker to do that now")

    def _is_ready(self, slot: int) -> bool:
        generation, _, _, ready, _ = self._segment.slot(slot)
        return bool(generation & 1) and ready == generation


def _read_line(connection: Socket) -> bytes:
    """The first line; what follows it stays in the socket."""
    line = b""
    while not line.endswith(b"\n"):
        if len(line) > control.LINE_MAX:
            raise ValueError(f"a request has at most {control.LINE_MAX} bytes")
        seen = connection.recv(4096, socket.MSG_PEEK)
        if not seen:
            raise ValueError("the request ended early")
        part = seen[: seen.find(b"\n") + 1] or seen
        line += connection.recv(len(part))
    return line
