"""The application of test_fabric: streams by the classical loop, and posts that say how many workers listened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from channels import channel_fd, channel_join, channel_recv, channel_send, wait_fd_read, worker_id


def events(channel: str) -> Iterable[bytes]:
    channel_join(channel)
    fd = channel_fd()
    yield b"event: worker\ndata: %d\n\n" % worker_id()
    while True:
        wait_fd_read(fd)
        while (body := channel_recv()) is not None:
            yield b"data: " + body + b"\n\n"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    verb, _, channel = environ["PATH_INFO"][1:].partition("/")
    if verb == "events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events(channel)
    if verb == "raises":  # when it has joined and sent a part
        start_response("200 OK", [("Content-Type", "text/plain")])
        return raising(channel)
    if verb == "returns":
        channel_join(channel)
        body = b"returned"
    elif verb == "fails":
        channel_join(channel)
        raise RuntimeError("as it should")
    else:
        body = b"%d" % channel_send(channel, environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def raising(channel: str) -> Iterable[bytes]:
    channel_join(channel)
    yield b"part"
    raise RuntimeError("as it should")
