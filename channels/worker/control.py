"""What the command `channels tail | send | alert` asks of a worker, over a connection that the router has passed on."""

from __future__ import annotations

import base64
import json
import logging
import socket
from typing import Any

import gevent
from gevent.socket import socket as Socket

from channels.core import native
from channels.errors import ChannelsError
from channels.worker import alerts, subscription

log = logging.getLogger("channels")

READ_TIMEOUT = 30.0  # seconds for a body


def serve(line: bytes, fd: int, message_max: int) -> None:
    """In a greenlet of its own."""
    connection = Socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
    try:
        request = json.loads(line)
        {"tail": _tail, "send": _send, "alert": _alert}[request["do"]](connection, request, message_max)
    except (ChannelsError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        _say(connection, {"error": str(error) or type(error).__name__})
    except OSError as error:
        log.debug("control: whoever asked has gone: %s", error)
    finally:
        connection.close()


def _say(connection: Socket, answer: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        log.debug("control: whoever asked has gone")


def _body(connection: Socket, request: dict[str, Any], message_max: int) -> bytes:
    size = int(request["size"])
    if not 0 <= size <= message_max:
        raise ValueError(f"a body has at most {message_max} bytes")
    parts, got = [], 0
    with gevent.Timeout(READ_TIMEOUT, ValueError("the body did not come")):
        while got < size:
            part = connection.recv(min(size - got, 1 << 20))
            if not part:
                raise ValueError("the body ended early")
            parts.append(part)
            got += len(part)
    return b"".join(parts)


def _send(connection: Socket, request: dict[str, Any], message_max: int) -> None:
    body = _body(connection, request, message_max)
    _say(connection, {"workers": native.channel_send(request["channel"], body)})


def _alert(connection: Socket, request: dict[str, Any], message_max: int) -> None:
    body = _body(connection, request, message_max)
    timeout = request.get("timeout")
    if timeout is None:
        alerts.send(None, request["name"], body, worker=int(request["worker"]))
        _say(connection, {"sent": True})
        return
    answer = alerts.call(None, request["name"], body, worker=int(request["worker"]), timeout=float(timeout))
    _say(connection, {"answer": None if answer is None else base64.b64encode(answer).decode()})


def _tail(connection: Socket, request: dict[str, Any], message_max: int) -> None:
    with subscription.subscribe(*request["channels"]) as sub:
        _say(connection, {"joined": sub.channels})
        # The other end says nothing more: when it becomes readable it has gone.
        watch = gevent.spawn(_close_when_gone, connection, sub)
        try:
            for message in sub:
                connection.sendall(
                    json.dumps(
                        {
                            "channel": message.channel,
                            "data": base64.b64encode(message.data).decode(),
                            "id": message.id,
                            "time": message.time,
                            "event": message.event,
                            "missed": message.missed,
                        }
                    ).encode()
                    + b"\n"
                )
        finally:
            watch.kill()


def _close_when_gone(connection: Socket, sub: subscription.Subscription) -> None:
    try:
        connection.recv(1)
    except OSError:
        log.debug("control: the tail's connection failed")
    sub.close()
