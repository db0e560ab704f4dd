"""WebSockets as uWSGI has them: one frame is taken per read: `connection_fd()` stays readable while others wait.

RFC 6455 over the frames of the `websockets` library.  Runs in: worker, in a request or in any greenlet of its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator
from typing import Any

import gevent
from gevent.lock import RLock

from channels.errors import Restarting, StreamEnded
from channels.web.uwsgi import request
from channels.web.uwsgi.request import Context
from channels.web.uwsgi.state import as_bytes, as_text, state
from channels.web.uwsgi.waiting import wait_any
from channels.worker.waiting import READ

try:
    from websockets.exceptions import PayloadTooBig, ProtocolError
    from websockets.frames import Close, CloseCode, Frame, Opcode

    from channels.web import handshake, wire
except ImportError:  # pragma: no cover
    handshake = None  # type: ignore[assignment]

SEND_TIMEOUT = 30.0  # seconds that a client may take for one frame
PONG_WITHIN = 30.0  # seconds after a ping in which something must come
REASON_MAX = 60  # characters of a closing's reason: with two bytes each they fit a control frame
LINGER = 2.0  # seconds for the client to end the connection after a goodbye


class WebSocket:
    """One connection.  Several greenlets may send, one at a time may receive."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sock = context.take()
        self._source = context.reader()
        self._writing = RLock()
        self._partial = bytearray()  # of a message whose end has not come; fragments may be many and empty
        self._text = False
        self._read = bytearray()  # of a frame whose end has not come
        self._parser: Generator[None, None, Any] | None = None
        self._closed = False  # nothing can be sent
        self._ended = False  # nothing will be received
        self._heard = self._pinged = time.monotonic()
        self._message_max = state().settings.websocket_max_size
        self._silence = state().settings.stream_heartbeat  # seconds; 0: never a ping
        os.set_blocking(self._source.fileno(), False)
        self._sock.settimeout(SEND_TIMEOUT)
        context.core.on_end = self._on_end
        if context.core.ended is not None:
            self._on_end(context.core.ended)

    # ---- receiving ----

    def receive(self, wait: bool) -> bytes:
        """The next message; without `wait`, b"" when none is there yet.  Raises OSError: there will be none."""
        while True:
            message = self._step()
            if message is not None:
                return message
            self._keep_alive()
            if not wait:
                return b""
            self._wait()

    def _wait(self) -> None:
        seconds = None
        if self._silence:
            seconds = max(max(self._heard, self._pinged) + self._silence - time.monotonic(), 0.01)
        wait_any([(self._source.fileno(), READ, 0.0)], seconds, None)

    def _keep_alive(self) -> None:
        """A ping after a silence; whoever does not answer it is gone."""
        if not self._silence:
            return
        now = time.monotonic()
        if self._pinged > self._heard and now - self._pinged > PONG_WITHIN:
            self._fail("the client has not answered a ping")
        elif now - max(self._heard, self._pinged) >= self._silence:
            self._pinged = now
            self._send(Opcode.PING, b"")

    def _step(self) -> bytes | None:
        """Frames until a message is whole; None: more has to come."""
        while True:
            if self._ended:
                raise OSError("the WebSocket is closed")
            frame = self._frame()
            if frame is None:
                return None
            message = self._take(frame)
            if message is not None:
                return message

    def _frame(self) -> Any:
        if self._parser is None:
            self._parser = Frame.parse(self._exactly, mask=True, max_size=self._message_max)
        try:
            next(self._parser)
        except StopIteration as end:
            self._parser = None
            return end.value
        except ProtocolError as error:
            self._fail(str(error), CloseCode.PROTOCOL_ERROR)
        except PayloadTooBig as error:
            self._fail(str(error), CloseCode.MESSAGE_TOO_BIG)
        except (EOFError, OSError):
            self._fail("the client has gone")
        return None

    def _exactly(self, size: int) -> Generator[None, None, bytes]:
        """So many bytes and not one more: what follows stays in the socket."""
        while len(self._read) < size:
            try:
                data = os.read(self._source.fileno(), size - len(self._read))
            except (BlockingIOError, InterruptedError):
                yield
                continue
            if not data:
                raise EOFError
            self._heard = time.monotonic()
            self._read += data
        found = bytes(self._read)
        self._read.clear()
        return found

    def _take(self, frame: Any) -> bytes | None:
        if frame.opcode is Opcode.PING:
            self._send(Opcode.PONG, frame.data)
        elif frame.opcode is Opcode.CLOSE:
            self._answer_close(frame.data)
        elif frame.opcode is not Opcode.PONG:
            return self._gather(frame)
        return None

    def _gather(self, frame: Any) -> bytes | None:
        if (frame.opcode is Opcode.CONT) != self._open:
            self._fail("a fragment without a beginning, or a beginning within a message", CloseCode.PROTOCOL_ERROR)
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._open = not frame.fin
        self._partial += frame.data
        if len(self._partial) > self._message_max:
            self._fail(f"more than {self._message_max} bytes", CloseCode.MESSAGE_TOO_BIG)
        if not frame.fin:
            return None
        message = bytes(self._partial)
        self._partial = bytearray()
        if self._text:
            try:
                message.decode()
            except UnicodeDecodeError:
                self._fail("text that is not UTF-8", CloseCode.INVALID_DATA)
        return message

    _open = False  # a message has begun and not ended

    def _answer_close(self, data: bytes) -> None:
        try:
            close = Close.parse(data)
            code = CloseCode.NORMAL_CLOSURE if close.code == CloseCode.NO_STATUS_RCVD else close.code
        except (ProtocolError, UnicodeDecodeError):
            code = CloseCode.PROTOCOL_ERROR
        self.close(code)
        self._ended = True

    # ---- sending ----

    def send(self, data: bytes, text: bool) -> None:
        """A whole message, when it returns with the kernel; waits cooperatively for a slow client.  Raises OSError."""
        self._send(Opcode.TEXT if text else Opcode.BINARY, data)

    def _send(self, opcode: Any, payload: bytes) -> None:
        data = wire.frame(opcode, payload)
        with self._writing:
            if self._closed:
                raise OSError("the WebSocket is closed")
            sent = False
            try:
                self._sock.sendall(data)
                sent = True
            finally:
                if not sent:  # half a frame may be out: nothing that follows would be understood
                    self._closed = True
                    self._shut(socket.SHUT_RDWR)

    # ---- the end ----

    def _fail(self, why: str, code: int | None = None) -> None:
        self._ended = True
        if code is None:
            self._closed = True
            self._shut(socket.SHUT_RDWR)
        else:
            self.close(code, why)
        raise OSError(why)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, if nobody has yet; what the client sends is not read any more."""
        if not self._closed:
            try:
                self._send(Opcode.CLOSE, Close(code, reason[:REASON_MAX]).serialize())
            except OSError:
                pass  # it has gone
            self._closed = True
        self._shut(socket.SHUT_WR)
        self._ended = True

    def linger(self) -> None:
        """The end of the request: what the client still sends is thrown away until it ends the connection too.

        Closed at once, with something unread, the kernel would reset it, and the goodbye might never arrive.
        """
        self.close()
        fd = self._source.fileno()
        deadline = time.monotonic() + LINGER
        try:
            while wait_any([(fd, READ, 0.0)], deadline - time.monotonic(), None) == fd and os.read(fd, 65536):
                pass
        except OSError:
            pass  # it has gone
        self._shut(socket.SHUT_RDWR)

    def _on_end(self, reason: type[StreamEnded]) -> None:
        """The worker drains: whoever waits for the descriptor sees the end of it.  In the hub."""
        gevent.spawn(self._leave, CloseCode.SERVICE_RESTART if reason is Restarting else CloseCode.GOING_AWAY)

    def _leave(self, code: int) -> None:
        self.close(code)
        self._shut(socket.SHUT_RD)

    def _shut(self, how: int) -> None:
        """Of the socket below a TLS one too."""
        try:
            below = socket.socket(fileno=os.dup(self._sock.fileno()))
        except OSError:
            return
        try:
            below.shutdown(how)
        except OSError:
            pass  # it has gone
        finally:
            below.close()

    def forget(self) -> None:
        """The request is over: other greenlets of it get an error.  Never waits."""
        self._closed = self._ended = True


# ---- the calls ----


def websocket_handshake(key: Any = "", origin: Any = "", proto: Any = "", request_context: Any = None) -> None:
    """Answer the running request's handshake.

    Args:
        key: Sec-WebSocket-Key, if it is not the request's.
        origin: Taken and not used: uWSGI sent it back in a header that RFC 6455 does not have.
        proto: The sub-protocol; by default the first that the client offers.

    Raises:
        OSError: It is no handshake, or the server does not give the connection away.
    """
    context = request.current(request_context)
    if handshake is None:
        raise OSError("WebSockets need the package `websockets`: pip install wsgi-channels[websocket]")
    environ = context.environ
    if key:
        environ = {**environ, "HTTP_SEC_WEBSOCKET_KEY": as_text(key, "key")}
    offered = [name.strip() for name in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",") if name.strip()]
    _, response = handshake.answer(
        environ,
        origins="*",
        subprotocols=[as_text(proto, "proto")] if proto else offered,
        compression=False,
        max_size=state().settings.websocket_max_size,
    )
    if response.status_code != 101:
        raise OSError(f"unable to complete websocket handshake: {response.body.decode().strip()}")
    sock = context.take()
    sock.settimeout(SEND_TIMEOUT)
    sock.sendall(response.serialize())
    context.websocket = WebSocket(context)


def _open(given: Any) -> WebSocket:
    found = request.current(given).websocket
    if found is None:
        raise OSError("there is no WebSocket: call uwsgi.websocket_handshake() first")
    return found  # type: ignore[no-any-return]


def websocket_recv(request_context: Any = None) -> bytes:
    """The next message, whole; waits cooperatively.  Raises OSError: the connection has ended."""
    return _open(request_context).receive(wait=True)


def websocket_recv_nb(request_context: Any = None) -> bytes:
    """The same without waiting: b"" when no whole message is there."""
    return _open(request_context).receive(wait=False)


def websocket_send(message: Any, request_context: Any = None) -> None:
    """Send text.  Raises OSError: the connection has ended."""
    _open(request_context).send(as_bytes(message, "message"), text=True)


def websocket_send_binary(message: Any, request_context: Any = None) -> None:
    """Send bytes.  Raises OSError: the connection has ended."""
    _open(request_context).send(as_bytes(message, "message"), text=False)


CALLS = {
    call.__name__: call
    for call in (websocket_handshake, websocket_recv, websocket_recv_nb, websocket_send, websocket_send_binary)
}
