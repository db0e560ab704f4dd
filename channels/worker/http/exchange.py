"""One request and its answer: the WSGI side (PEP 3333).

Runs in: worker, in a greenlet of the pool.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from greenlet import GreenletExit

from channels.errors import ClientGone, StreamEnded
from channels.worker.http.body import Body
from channels.worker.http.files import FileWrapper, send_file, size_left
from channels.worker.http.head import CHUNKED, BadRequest, Head
from channels.worker.http.response import CLOSE, DATE, SERVER, refusal, status_line
from channels.worker.http.response import fields as parse_fields

if TYPE_CHECKING:
    from channels.worker.http.connection import Connection

log = logging.getLogger("channels")

JOIN_MAX = 1 << 20  # a list of parts is sent as one up to so many bytes
COPY_MAX = 1 << 16  # bytes that are copied to travel with the head


class RequestTimeout(BaseException):
    """Thrown into a request that took longer than `request_timeout`; no `except Exception` keeps it."""


class Exchange:
    """What a request is answered with, and how far that has come."""

    __slots__ = (
        "began", "body", "bound", "chunked", "code", "connection", "environ", "fields", "flags", "head", "head_sent",
        "keep_alive", "left", "length", "line", "mute", "runner", "sent", "status", "taken",
    )  # fmt: skip

    def __init__(self, connection: Connection, head: Head) -> None:
        self.connection = connection
        self.head = head
        self.environ = environ = head.environ
        self.began = time.perf_counter()
        self.runner: Any = None
        self.bound: Any = None  # what bind_request gave
        self.status: str | None = None
        self.code = 0
        self.head_sent = False
        self.keep_alive = head.keep_alive
        self.chunked = False
        self.mute = False  # the answer has no body, whatever the application says
        self.fields = b""
        self.length = -1  # that the application announced
        self.left = -1  # of it
        self.sent = 0  # bytes of body, for the access log
        self.taken = False  # the socket, or the rest of the answer, is somebody else's now
        self.body: Body | None = None
        if head.length:
            self._open_body(head.length)
        else:
            environ["wsgi.input"] = io.BytesIO()
        if head.upgrade:
            environ["channels.upgrade"] = self.upgrade

    def _open_body(self, length: int) -> None:
        connection = self.connection
        if length != CHUNKED and len(connection.buffer) >= length:
            self.environ["wsgi.input"] = io.BytesIO(connection.buffer[:length])
            connection.buffer = connection.buffer[length:]
            return
        limit = connection.server.config.limit_request_body
        self.body = self.environ["wsgi.input"] = Body(connection, length, limit, self.head.expects)

    # ---- the application's side ----

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333.  Raises BadResponse for what HTTP cannot carry; nothing is sent then."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self.code, self.line = status_line(status)
        self.fields, self.length, self.flags = parse_fields(headers)
        self.status = status
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body, and the head before the first one.  Raises ClientGone."""
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"a WSGI application's body is bytes, not {type(data).__name__}")
            data = bytes(data)
        out = b""
        if not self.head_sent:
            out = self._start(-1)
        if self.mute:
            if out:
                self.connection.send(out)
            return
        if self.left >= 0:
            if len(data) > self.left:
                self._too_much()
                data = data[: self.left]
            self.left -= len(data)
        self.sent += len(data)
        if self.chunked:
            if not data:
                if out:
                    self.connection.send(out)
                return
            if len(data) > COPY_MAX:
                self.connection.send(out + b"%x\r\n" % len(data))
                self.connection.send(data)
                out, data = b"\r\n", b""
            else:
                out += b"%x\r\n%b\r\n" % (len(data), data)
                data = b""
        elif len(data) > COPY_MAX and out:
            self.connection.send(out)
            out = b""
        self.connection.send(out + data if out else data)

    def upgrade(self) -> tuple[Any, bytes]:
        """Take the socket over, with what was read beyond the request: it speaks another protocol from here on.

        The socket is a cooperative one.  It is closed when the application returns.  `request_timeout` is no longer
        for it.
        """
        if self.head_sent or self.taken:
            raise RuntimeError("the answer has begun: too late to take the socket over")
        self.taken = True
        self.keep_alive = False
        self.connection.server.running.entries.pop(self, None)
        return self.connection.hand_over()

    def give_away(self) -> bool:
        """The rest of the answer is written by somebody else, straight to the socket; False: it cannot be.

        Whoever takes it calls `complete` at its end, in the hub, and no greenlet waits for it until then.
        """
        connection = self.connection
        if not connection.plain or self.mute or self.left >= 0 or not self.head_sent or connection.gone:
            return False
        self.taken = True
        self.keep_alive = False
        connection.detach()
        connection.server.running.entries.pop(self, None)
        connection.server.stats.running -= 1
        return True

    def take_back(self) -> None:
        """It was not taken after all."""
        self.taken = False
        self.connection.server.stats.running += 1
        self.connection.resume()

    # ---- the head ----

    def _start(self, total: int) -> bytes:
        """The head's bytes.

        Args:
            total: Bytes of the whole body; -1: not known.
        """
        if self.status is None:
            raise AssertionError("the application gave a body before it called start_response")
        connection = self.connection
        server = connection.server
        code, length, flags = self.code, self.length, self.flags
        http11 = self.head.http11
        is_head = self.environ["REQUEST_METHOD"] == "HEAD"
        out = self.line + self.fields
        if code == 204 or code < 200:
            self.mute = True
        elif code == 304 or is_head:
            self.mute = True
            if length < 0 < total:
                length = total
            if length >= 0:
                out += b"Content-Length: %d\r\n" % length
        else:
            if length < 0:
                length = total
            if length >= 0:
                self.left = length
                out += b"Content-Length: %d\r\n" % length
            elif http11:
                self.chunked = True
                out += b"Transfer-Encoding: chunked\r\n"
            else:
                self.keep_alive = False
        if flags & CLOSE or server.closing:
            self.keep_alive = False
        if not self.keep_alive:
            out += b"Connection: close\r\n"
        elif not http11:
            out += b"Connection: keep-alive\r\n"
        clock = server.clock
        clock.tick(server.now())
        if not flags & (DATE | SERVER):
            out += clock.both
        else:
            out += b"" if flags & DATE else clock.date
            out += b"" if flags & SERVER else clock.server
        self.head_sent = True
        return out + b"\r\n"

    def _too_much(self) -> None:
        log.error(
            "%s %s: more body than Content-Length: %d says; cut there",
            self.environ["REQUEST_METHOD"],
            self.environ["RAW_URI"],
            self.length,
        )
        self.keep_alive = False

    # ---- running it ----

    def run(self) -> None:
        """From the application's call to the end of the answer; raises GreenletExit only."""
        connection = self.connection
        server = connection.server
        try:
            try:
                if server.bind_request is not None:
                    self.bound = server.bind_request(connection)
                self._serve(server.application(self.environ, self.start_response))
            except StreamEnded as ended:
                self._end_early(ended)
            except BadRequest as error:
                self._fail(error.status, error.reason)
            except TimeoutError as error:
                if error is connection.timed_out:
                    self._fail(408)
                else:
                    self._crash()
            except RequestTimeout:
                server.stats.timeouts += 1
                log.error(
                    "%s %s took longer than %g s: ended",
                    self.environ["REQUEST_METHOD"],
                    self.environ["RAW_URI"],
                    server.config.request_timeout,
                )
                self._fail(504)
            except GreenletExit:
                self._abort()
                raise
            except BaseException:
                self._crash()
        except ClientGone:
            self._abort()
        finally:
            if not self.taken or connection.handed is not None:
                self.complete()

    def _serve(self, result: Iterable[bytes]) -> None:
        try:
            if not self.taken:
                self._send(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _send(self, result: Iterable[bytes]) -> None:
        kind = type(result)
        if (kind is list or kind is tuple) and not self.head_sent:
            whole = result[0] if len(result) == 1 else b"".join(result)  # type: ignore[index,arg-type]
            if type(whole) is bytes and len(whole) <= JOIN_MAX:
                self._send_whole(whole)
                return
        elif kind is FileWrapper and self._send_file(result):  # type: ignore[arg-type]
            return
        taker = self.connection.server.on_stream
        for part in result:
            if part:
                self.write(part)
                if type(part) is not bytes and taker is not None and taker(self, part):
                    return
        self.end()

    def _send_whole(self, body: bytes) -> None:
        head = self._start(len(body))
        if self.mute:
            self.connection.send(head)
            return
        if len(body) != self.left:
            if len(body) > self.left:
                self._too_much()
                body = body[: self.left]
            self.left -= len(body)
            self.sent = len(body)
            self.connection.send(head + body)
            self._check_left()
            return
        self.left = 0
        self.sent = len(body)
        if len(body) > COPY_MAX:
            self.connection.send(head)
            self.connection.send(body)
        else:
            self.connection.send(head + body)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        connection = self.connection
        size = size_left(wrapper.filelike)
        if size is None or not connection.plain:
            return False
        if not self.head_sent:
            connection.send(self._start(size))
        if self.mute or self.chunked:
            return self.mute
        most = self.left if self.left >= 0 else size
        sent = send_file(connection, wrapper.filelike, most)
        self.sent += sent
        if self.left >= 0:
            self.left -= sent
        self._check_left()
        return True

    def end(self) -> None:
        """No more parts."""
        if not self.head_sent:
            self._send_whole(b"")
        elif self.chunked and not self.mute:
            self.connection.send(b"0\r\n\r\n")
        self._check_left()

    def _check_left(self) -> None:
        if self.left > 0 and not self.mute:
            log.error(
                "%s %s: %d bytes of body less than Content-Length says",
                self.environ["REQUEST_METHOD"],
                self.environ["RAW_URI"],
                self.left,
            )
            self.keep_alive = False

    # ---- when it goes wrong ----

    def _end_early(self, ended: StreamEnded) -> None:
        """The client went, or the worker drains."""
        if isinstance(ended, ClientGone) and self.connection.gone:
            self._abort()
            return
        self.keep_alive = False
        if self.taken:
            return
        if self.status is None:
            self._fail(503, fields="Retry-After: 1\r\n")
        else:
            self.end()

    def _crash(self) -> None:
        log.exception("%s %s failed", self.environ["REQUEST_METHOD"], self.environ["RAW_URI"])
        self._fail(500)

    def _fail(self, code: int, reason: str = "", fields: str = "") -> None:
        """Say so if nothing was said yet; else cut the answer off so that the client sees that it is not whole."""
        self.keep_alive = False
        if self.head_sent or self.taken:
            self._abort()
            return
        server = self.connection.server
        server.clock.tick(server.now())
        answer = refusal(code, server.clock.both, reason, fields)
        self.status, self.code, self.head_sent = str(code), code, True
        if self.environ["REQUEST_METHOD"] == "HEAD":
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        self.connection.send(answer)

    def _abort(self) -> None:
        self.keep_alive = False
        if not self.taken:
            self.connection.abort()

    # ---- the end ----

    def complete(self) -> None:
        """The answer is out, as far as it will be."""
        connection = self.connection
        server = connection.server
        body = self.body
        keep = False
        try:
            if self.bound is not None:
                server.unbind_request(self.bound)
                self.bound = None
            if server.access_log is not None:
                server.access_log.write(self, time.perf_counter() - self.began)
            keep = self.keep_alive and (body is None or body.discard())
        except RequestTimeout:
            pass  # what was left of the body did not come in time
        except Exception:
            log.exception("%s %s: its end failed", self.environ["REQUEST_METHOD"], self.environ["RAW_URI"])
        finally:
            connection.finished(keep, (body is None or body.whole) and not self.head.keep_alive)
