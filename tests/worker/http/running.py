"""A real server in a thread of its own, with a hub of its own; tests talk to it with plain blocking sockets."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Callable

import gevent

from channels.worker.http import HttpConfig, Server

DEADLINE = 20.0


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]


class Running:
    """Use with `with`."""

    def __init__(
        self, application: Callable[..., Any] = hello, listener: Any = ("127.0.0.1", 0), **options: Any
    ) -> None:
        server_options = {
            name: options.pop(name)
            for name in ("bind_request", "unbind_request", "on_head", "accept_policy", "on_stream")
            if name in options
        }
        self._make = (listener, application, HttpConfig(**options), server_options)
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.server: Server = None  # type: ignore[assignment]
        self.error: BaseException | None = None

    def _run(self) -> None:
        listener, application, config, options = self._make
        try:
            on_stream = options.pop("on_stream", None)
            self.server = Server(listener, application, config, **options)
            self.server.on_stream = on_stream
            self.server.start()
        except BaseException as error:
            self.error = error
            self._up.set()
            return
        self._up.set()
        while not self.server._stopped.wait(1.0):  # with a time, for the hub to have something to wait for
            pass
        gevent.get_hub().destroy(destroy_loop=True)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._up.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        if not self.server._stopped.is_set():
            self.spawn(self.server.stop, 0)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def spawn(self, function: Callable[..., Any], *args: Any) -> None:
        """Call it in a greenlet of the server's thread."""
        self.server.loop.run_callback_threadsafe(gevent.spawn, function, *args)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it there; its result."""
        done = threading.Event()
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(function(*args))
            except BaseException as error:
                result.append(error)
            done.set()

        self.spawn(run)
        assert done.wait(DEADLINE)
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    @property
    def port(self) -> int:
        return self.server.server_port

    def connect(self) -> socket.socket:
        where = self.server.address
        client = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        client.settimeout(DEADLINE)
        client.connect(where)
        return client

    def ask(self, raw: bytes) -> bytes:
        """Say so much on a new connection, and no more; everything that comes back until the server closes."""
        with self.connect() as client:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            return everything(client)

    def get(self, path: str = "/", *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", *fields]
            client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return read_answer(client, method)


class Answer:
    """Status, fields by lower-case name, body; `whole` says whether the body came to its end."""

    def __init__(self, status: int, fields: dict[str, str], body: bytes, whole: bool, raw: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.whole = whole
        self.raw = raw


def everything(client: socket.socket) -> bytes:
    """Until the other end closes; a reset ends it too."""
    parts = []
    while True:
        try:
            part = client.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def read_answer(client: Any, method: str = "GET") -> Answer:
    """One answer, read byte for byte by an implementation that is not the server's."""
    raw = bytearray()

    def line() -> bytes:
        start = len(raw)
        while not raw.endswith(b"\r\n") or len(raw) == start:
            byte = client.recv(1)
            if not byte:
                raise EOFError(bytes(raw))
            raw.extend(byte)
        return bytes(raw[start:-2])

    def exactly(count: int) -> bytes:
        start = len(raw)
        while len(raw) < start + count:
            part = client.recv(start + count - len(raw))
            if not part:
                raise EOFError(bytes(raw))
            raw.extend(part)
        return bytes(raw[start:])

    version, code, *_ = line().decode("latin-1").split(" ")
    assert version == "HTTP/1.1"
    status = int(code)
    fields: dict[str, str] = {}
    while True:
        field = line().decode("latin-1")
        if not field:
            break
        name, _, value = field.partition(": ")
        assert name.lower() not in fields or name.lower() == "set-cookie", f"{name} twice"
        fields[name.lower()] = value
    body, whole = b"", True
    try:
        if method == "HEAD" or status in (204, 304) or status < 200:
            pass
        elif fields.get("transfer-encoding") == "chunked":
            while True:
                size = int(line(), 16)
                body += exactly(size)
                assert exactly(2) == b"\r\n"
                if not size:
                    break
        elif "content-length" in fields:
            body = exactly(int(fields["content-length"]))
        else:
            body = everything(client)
            raw.extend(body)
    except (EOFError, ConnectionResetError):
        whole = False
    return Answer(status, fields, body, whole, bytes(raw))


def wait_until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Poll until it is true; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)
