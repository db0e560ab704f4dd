"""What tests/chaos/streams.py talks to: event streams and WebSockets in one channel, and somebody who fills it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import gevent

from channels import channel_send
from channels.web import sse, websocket
from channels.web.websocket import WebSocket

CHANNEL = "busy"
JOINED = "joined"


def listen(ws: WebSocket) -> None:
    """In the channel, and an echo."""
    ws.join(CHANNEL)
    ws.send(JOINED)
    for message in ws:
        ws.send(message)


def pump(first: int, count: int, rate: int, size: int) -> int:
    """So many messages, so many a second: the number, from `first` on, when it was sent in nanoseconds, a filling."""
    began = time.monotonic()
    filling = b"x" * size
    for number in range(count):
        channel_send(CHANNEL, b"%d %d %b" % (first + number, time.monotonic_ns(), filling), timeout=None)
        if number >= (time.monotonic() - began) * rate:
            gevent.sleep(0.001)
    return count


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """/events, /socket; /pump?FIRST,COUNT,RATE,SIZE answers when it is done; anything else: the process."""
    path = environ["PATH_INFO"]
    if path == "/socket":
        return websocket.serve(environ, start_response, listen)
    if path == "/events":
        status, headers, body = sse.stream(CHANNEL, environ=environ)
        start_response(status, headers)
        return body
    said = os.getpid()
    if path == "/pump":
        said = pump(*map(int, environ["QUERY_STRING"].split(",")))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % said]
