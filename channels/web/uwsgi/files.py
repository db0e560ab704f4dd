"""Bodies and descriptors: chunked input, files as responses, plain sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import gevent
from gevent import socket as gsocket

from channels.web.uwsgi import request
from channels.web.uwsgi.state import as_bytes, as_text
from channels.web.uwsgi.waiting import wait_any
from channels.worker.waiting import READ, WRITE

BLOCK_BYTES = 65536
RECV_MAX = 4096  # bytes that recv() takes at once, uWSGI's limit


class FileBody:
    """A stretch of a file as a response; the server may look for `filelike` to send it without copying."""

    def __init__(self, filelike: Any, start: int, size: int | None, block: int) -> None:
        self.filelike = filelike
        self._start = start
        self._left = size
        self._block = block

    def __iter__(self) -> Iterator[bytes]:
        if self._start:
            self.filelike.seek(self._start)
        while self._left is None or self._left > 0:
            wanted = self._block if self._left is None else min(self._block, self._left)
            data = self.filelike.read(wanted)
            if not data:
                return
            if self._left is not None:
                self._left -= len(data)
            yield data

    def close(self) -> None:
        self.filelike.close()


# ---- the calls ----


def sendfile(filename_or_fd: Any, chunk: int = 0, pos: int = 0, filesize: int = 0) -> bool | None:
    """Answer the running request with a file, instead of with what the application returns.

    Args:
        filename_or_fd: A path, a descriptor, or anything with fileno(); the last two are duplicated.
        chunk: Bytes read at once; 0: 65,536.
        pos: Where it begins.
        filesize: How much; 0: to the end.

    Raises OSError: it cannot be opened.
    """
    context = request.current()
    if hasattr(filename_or_fd, "fileno"):
        filename_or_fd = filename_or_fd.fileno()
    if isinstance(filename_or_fd, int):
        opened: Any = os.fdopen(os.dup(filename_or_fd), "rb")
    else:
        opened = open(filename_or_fd, "rb")  # noqa: SIM115
    if chunk < 0 or pos < 0 or filesize < 0:
        opened.close()
        raise ValueError("chunk, pos and filesize cannot be negative")
    wrapper = context.environ.get("wsgi.file_wrapper")
    if wrapper is not None and not filesize:
        opened.seek(pos)
        context.file = wrapper(opened, chunk or BLOCK_BYTES)
    else:
        context.file = FileBody(opened, pos, filesize or None, chunk or BLOCK_BYTES)
    return True


def chunked_read(timeout: float = 0) -> bytes:
    """What comes next of the request's body; b"" at its end.  Waits cooperatively.

    Raises OSError: nothing has come for `timeout` seconds (0: the server's own limit), or the client has gone.
    """
    context = request.current()
    reader = _reader(context)
    if not reader.ready():
        reader.join(timeout or None)
    if not reader.ready():
        raise OSError("unable to receive chunked part: it did not come")
    context.body_reader = None
    return bytes(reader.get())


def chunked_read_nb() -> bytes | None:
    """The same, None when nothing has come yet."""
    context = request.current()
    reader = _reader(context)
    gevent.sleep(0)
    return chunked_read() if reader.ready() else None


def _reader(context: request.Context) -> Any:
    """Reads the next part, in a greenlet: who gives up waiting for it gets it next time."""
    if context.body_reader is None:
        context.body_reader = gevent.spawn(_some, context.environ["wsgi.input"])
    return context.body_reader


def _some(source: Any) -> bytes:
    read = getattr(source, "read1", None)
    return bytes(read(BLOCK_BYTES) if read is not None else source.readline(BLOCK_BYTES))


def send(*arguments: Any) -> bool | None:
    """send(data) to the client of the running request, send(fd, data) to any descriptor; waits cooperatively."""
    if not 1 <= len(arguments) <= 2:
        raise TypeError("send takes data, or a descriptor and data")
    data = as_bytes(arguments[-1])
    if len(arguments) == 1:
        request.current().take().sendall(data)
        return True
    fd = arguments[0]
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            wait_any([(fd, WRITE, 0.0)], None, None)
    return True


def recv(fd: int, max_size: int = RECV_MAX) -> bytes | None:
    """What comes over a descriptor, at most 4,096 bytes; waits cooperatively.  None at its end, or when it fails."""
    try:
        if wait_any([(fd, READ, 0.0)], None, None) == fd:
            return os.read(fd, min(max_size, RECV_MAX)) or None
    except OSError:
        pass  # uWSGI says the same of both
    return None


def close(fd: int) -> None:
    """Close a descriptor."""
    try:
        os.close(fd)
    except OSError:
        pass  # uWSGI says nothing of it


def connect(socket_name: Any, timeout: float = 0) -> int:
    """A descriptor connected to "HOST:PORT" or to a path; -1 when that fails.  Waits cooperatively."""
    name = as_text(socket_name, "socket_name")
    host, _, port = name.rpartition(":")
    family = socket.AF_INET if host and port.isdigit() else socket.AF_UNIX
    made = gsocket.socket(family, socket.SOCK_STREAM)
    made.settimeout(timeout or 30.0)
    try:
        made.connect((host.strip("[]"), int(port)) if family == socket.AF_INET else name)
    except OSError:
        made.close()
        return -1
    return int(made.detach())


def extract(name: Any) -> bytes | None:
    """A file's content, None when it cannot be read or is empty."""
    try:
        with open(as_text(name), "rb") as source:
            return source.read() or None
    except OSError:
        return None


CALLS = {
    function.__name__: function
    for function in (chunked_read, chunked_read_nb, close, connect, extract, recv, send, sendfile)
}
