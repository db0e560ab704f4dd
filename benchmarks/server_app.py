"""The applications that `benchmarks/server.py` has served: PEP 3333 and no more, so that any server can run them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import flask
import gevent

from channels.web import sse

BODY = b"Hello, World!\n"
BEAT = 0.5  # seconds between signs of life of a stream, so that a server notices clients that have gone
BURN = 0.020  # seconds of CPU

wsgi_headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def plain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Fourteen bytes."""
    start_response("200 OK", wsgi_headers)
    return [BODY]


def beats() -> Iterator[bytes]:
    """Tells at once who serves it, and goes on for ever."""
    yield b"%d\n" % os.getpid()
    while True:
        gevent.sleep(BEAT)
        yield b"\n"


def burn() -> None:
    """Use the processor, as seen by this thread."""
    until = time.thread_time() + BURN
    while time.thread_time() < until:
        pass


def mixed(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """`/stream`, `/sse`, `/burn`; anything else: the worker's process id."""
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return beats()
    if path == "/sse":
        status, headers, events = sse.stream("nobody:sends", environ=environ)
        start_response(status, headers)
        return events
    if path == "/burn":
        burn()
    body = b"%d\n" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


small = flask.Flask(__name__)


@small.get("/")
def hello() -> str:
    """The same bytes, by way of Flask."""
    return BODY.decode()
