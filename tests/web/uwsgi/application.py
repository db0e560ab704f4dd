"""What the tests of the uwsgi module serve: a page that evaluates, a WebSocket that echoes, some things registered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import gevent
import uwsgi  # type: ignore[import-not-found]

fired: list[int] = []
spoken: list[bytes] = []
hooks: list[str] = []
names = {"uwsgi": uwsgi, "gevent": gevent, "time": time, "threading": threading, "fired": fired, "spoken": spoken}
names["hooks"] = hooks

for number, target in (
    (7, "workers"),
    (8, "worker"),
    (9, ""),
    (10, "worker2"),
    (11, "active-workers"),
    (12, "worker9"),
):
    uwsgi.register_signal(number, target, fired.append)


def _fail(number: int) -> None:
    raise RuntimeError(f"signal {number} fails on purpose")


uwsgi.register_signal(13, "workers", _fail)
uwsgi.register_rpc("where", lambda *given: b"%d:%s" % (uwsgi.worker_id(), b",".join(given)))
uwsgi.register_rpc("nothing", lambda: None)
uwsgi.register_rpc("text", lambda: 7)
uwsgi.register_rpc("evaluate", lambda text: repr(eval(text, names)).encode())
uwsgi.post_fork_hook = lambda: hooks.append(f"fork {uwsgi.worker_id()}")
uwsgi.atexit = lambda: print(f"atexit {uwsgi.worker_id()}", flush=True)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return PAGES[environ["PATH_INFO"]](environ, start_response)


def _evaluate(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    names["environ"] = environ
    try:
        answer = repr(eval(environ["wsgi.input"].read().decode(), names))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]


def _echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    uwsgi.websocket_handshake()
    while True:
        message = uwsgi.websocket_recv()
        if message == b"bye":
            return []
        if message.startswith(b"\0"):
            uwsgi.websocket_send_binary(message)
        else:
            uwsgi.websocket_send(message)


def _refuse(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    try:
        uwsgi.websocket_handshake()
    except OSError as error:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [str(error).encode()]
    raise AssertionError("that was a handshake")


def _polled(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Echoes what a poll of the descriptor finds, one message per wake-up."""
    fd = uwsgi.connection_fd()
    uwsgi.websocket_handshake()
    while True:
        uwsgi.wait_fd_read(fd, 10)
        uwsgi.suspend()
        if uwsgi.ready_fd() == fd and (message := uwsgi.websocket_recv_nb()):
            uwsgi.websocket_send(b"woken for " + message)


def _apart(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Sends from greenlets that do not belong to the request."""
    uwsgi.websocket_handshake()
    context = uwsgi.request_context()
    first = uwsgi.websocket_recv()

    def send(number: int) -> None:
        for _ in range(20):
            uwsgi.websocket_send(first * number, request_context=context)

    jobs = threading.Thread(target=lambda: gevent.joinall([gevent.spawn(send, number) for number in range(1, 6)]))
    jobs.start()
    jobs.join()
    return []


def _chunks(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    parts = []
    while part := uwsgi.chunked_read(5):
        parts.append(part)
    start_response("200 OK", [])
    return [b"".join(parts)]


def _slowly(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says when nothing is there yet."""
    start_response("200 OK", [])
    assert uwsgi.chunked_read_nb() is None
    yield b"none yet"
    yield uwsgi.chunked_read(10)
    assert uwsgi.chunked_read(10) == b""
    yield b"end"


def _file(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    path, chunk, position, size = environ["QUERY_STRING"].split(":")
    uwsgi.sendfile(path, int(chunk), int(position), int(size))
    return []


def _steps(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """A generator in the manner of uWSGI's asynchronous mode."""
    read, write = gevent.os.os.pipe()
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield uwsgi.async_sleep(0.01)
    gevent.spawn_later(0.05, gevent.os.os.write, write, b"woken")
    yield uwsgi.wait_fd_read(read, 10)
    assert uwsgi.ready_fd() == read
    yield gevent.os.os.read(read, 10)
    yield uwsgi.wait_fd_read(read, 0.05)
    yield b" then " + str(uwsgi.ready_fd()).encode()


def _locked(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Counts in the shared area under a lock, without the area's own care."""
    view = uwsgi.sharedarea_memoryview(0)
    for _ in range(20):
        uwsgi.lock(3)
        before = int.from_bytes(view[512:520], "little")
        gevent.sleep(0.001)
        view[512:520] = (before + 1).to_bytes(8, "little")
        uwsgi.unlock(3)
    start_response("200 OK", [])
    return [b"done"]


PAGES = {
    "/": _evaluate,
    "/apart": _apart,
    "/chunks": _chunks,
    "/echo": _echo,
    "/file": _file,
    "/locked": _locked,
    "/polled": _polled,
    "/refuse": _refuse,
    "/slowly": _slowly,
    "/steps": _steps,
}
