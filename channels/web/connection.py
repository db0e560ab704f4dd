"""An open WebSocket, on the Sans-I/O core of the `websockets` library (RFC 6455, RFC 7692).

It is read and written in the hub: no greenlet of its own, one writer, whole frames.  Runs in: worker, in a request.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from greenlet import getcurrent
from websockets.exceptions import InvalidState, ProtocolError
from websockets.frames import CloseCode, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from channels.core import native
from channels.errors import Draining, Restarting, StreamEnded, WebSocketClosed
from channels.settings import Settings
from channels.web.pulse import pulse
from channels.web.transport import Transport
from channels.web.upgrade import Upgraded
from channels.web.wire import binary_frames, frame, gap_text, text_frames, text_opcode
from channels.worker import client as fabric
from channels.worker import naming, streams, subscription
from channels.worker.subscription import Message, Subscription

log = logging.getLogger("channels")

CLOSE_TIMEOUT = 5.0  # seconds for the other side to end the connection
CHUNK_BYTES = 64 * 1024  # frames of channels that leave together, up to about so many bytes
CHUNKS = 16  # before others get their turn


class WebSocket:
    """An open WebSocket, the application's side of it.

    Several greenlets may send; one at a time may receive.
    """

    def __init__(self, upgraded: Upgraded, protocol: ServerProtocol, settings: Settings, slow: str | None) -> None:
        self.subprotocol: str | None = protocol.subprotocol
        self.prefix = ""  # before the names of channels that it joins
        self._upgraded = upgraded
        self._protocol = protocol
        self._compressed = bool(protocol.extensions)
        self._slow = settings.stream_overflow if slow is None else slow
        self._buffer = settings.stream_buffer
        self._queue_max, self._queue_bytes_max = settings.websocket_queue, settings.websocket_max_size
        self._queue: collections.deque[str | bytes] = collections.deque()
        self._queue_bytes = 0
        self._partial = bytearray()  # of a message in fragments, which may be many and empty
        self._is_text = True
        self._receiver: Any = None
        self._expired = False  # its time is up
        self._room = Event()
        self._room.set()
        self._done = Event()
        self._closer: Any = None
        self._pinged = False
        self._subscription: Subscription | None = None
        self._stream: Any = None  # native: writes for us, and forwards the channels of its kind
        self._binary: dict[str, bool] = {}  # by name, and by prefix, of what the subscription has joined
        self._binary_prefixes: dict[str, bool] = {}
        self.beat_tick = self.beat_due = 0
        self._transport = Transport(upgraded.socket, self._data, self._drained, self._end)
        self._core = subscription.current_core() if fabric.is_attached() else None
        if self._core is not None:
            self._core.unwatch()
            self._core.on_end = self._core_ended
        self._flush()
        if settings.stream_heartbeat:
            pulse().add(self, settings.stream_heartbeat)
        self._transport.resume()
        if upgraded.initial:
            self._data(upgraded.initial)
        if self._core is not None and self._core.ended is not None:
            self._core_ended(self._core.ended)

    # ---- the application's side ----

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message: str of a text, bytes of a binary one; None when `timeout` seconds are over.

        Raises:
            WebSocketClosed: It is closed and nothing waits any more; let it pass, or iterate to end quietly.
        """
        if not self._queue and not self._wait(timeout):
            if self.closed:
                raise WebSocketClosed(self.close_code or CloseCode.ABNORMAL_CLOSURE, self.close_reason)
            return None
        message = self._queue.popleft()
        self._queue_bytes -= len(message)
        self._read_on()
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        """Messages until it is closed."""
        while True:
            try:
                message = self.receive()
            except WebSocketClosed:
                return
            if message is not None:
                yield message

    def send(self, data: str | bytes | bytearray | memoryview, timeout: float | None = None) -> None:
        """Send a text (str) or a binary message.  Waits cooperatively while `stream_buffer` bytes wait to be written.

        Raises:
            WebSocketClosed: It is closed, or was meanwhile.
            TimeoutError: The client did not read for `timeout` seconds; nothing of it was sent.
        """
        opcode, payload = (Opcode.TEXT, data.encode()) if isinstance(data, str) else (Opcode.BINARY, bytes(data))
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self.closed:
                raise WebSocketClosed(self.close_code or CloseCode.ABNORMAL_CLOSURE, self.close_reason)
            if self._transport.pending <= self._buffer:
                break
            self._room.clear()
            self._transport.want_drained()
            if not self._room.wait(None if deadline is None else max(deadline - time.monotonic(), 0.0)):
                raise TimeoutError(f"the client did not read for {timeout:g} s; nothing was sent")
        self._put(opcode, payload)

    def join(self, *channels: str, prefixes: Iterable[str] = (), binary: bool = False) -> None:
        """Forward what is sent to these channels to the client, as text or binary messages.

        Names are taken literally; `prefixes` adds every channel whose name begins so.  What is no UTF-8 is binary in
        any case.  Goes on in the background until it is closed.  A client that is too slow is told of the gap, or
        closed with 1013, as its `slow` says.  Raises as channels.subscribe().
        """
        names, beginnings = self._named(channels, prefixes)
        kind = native.WS_BINARY if binary else native.WS_TEXT
        if self._stream is None and self._transport.is_plain and not self._compressed and not self.closed:
            self._stream = streams.current().open(self._upgraded.socket.fileno(), kind, self)
            self._transport.attach(self._stream)
        if self._stream is not None and self._stream.kind == kind:
            subscription.current_core().check()
            streams.current().join(self._stream, *names, prefixes=beginnings)
            return
        if self._subscription is None:
            core = subscription.current_core()
            core.check()
            overflow = "close" if self._slow == "close" else "drop_oldest"
            self._subscription = core.subscription(None, self._buffer, overflow)
            self._subscription.waiter = self  # the dispatcher calls switch() when a message comes
        self._binary.update(dict.fromkeys(names, binary))
        self._binary_prefixes.update(dict.fromkeys(beginnings, binary))
        self._subscription.join(*names, prefixes=beginnings)

    def leave(self, *channels: str, prefixes: Iterable[str] = ()) -> None:
        """Forward them no more.  Does not wait."""
        names, beginnings = self._named(channels, prefixes)
        if self._stream is not None:
            streams.current().leave(self._stream, *names, prefixes=beginnings)
        if self._subscription is not None:
            self._subscription.leave(*names, prefixes=beginnings)
        for name in names:
            self._binary.pop(name, None)
        for prefix in beginnings:
            self._binary_prefixes.pop(prefix, None)

    def _named(self, channels: Iterable[str], prefixes: Iterable[str]) -> tuple[list[str], list[str]]:
        beginnings = naming.literal_prefixes(prefixes)
        return [self.prefix + name for name in channels], [self.prefix + prefix for prefix in beginnings]

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close it; does not wait.  Without effect when it is closed.

        Args:
            code: 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, 7.4).
            reason: At most 123 bytes of UTF-8.

        Raises:
            ValueError: Such a close may not be sent.
        """
        if self.closed:
            return
        self._quit()
        try:
            self._protocol.send_close(code, reason)
        except InvalidState:
            return
        except ProtocolError as error:
            raise ValueError(f"close code {code} with a reason of {len(reason)} characters: {error}") from None
        self._flush()
        self._closing()

    @property
    def closed(self) -> bool:
        """Whether the end has begun: nothing can be sent any more."""
        return self._protocol.state is not State.OPEN or self._transport.ended

    @property
    def close_code(self) -> int | None:
        """Of the side that closed it first; 1006 when the connection was lost; None while it is open."""
        if not self.closed:
            return None
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        first = received if self._protocol.close_rcvd_then_sent else sent or received
        return CloseCode.ABNORMAL_CLOSURE if first is None else int(first.code)

    @property
    def close_reason(self) -> str:
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        first = received if self._protocol.close_rcvd_then_sent else sent or received
        return "" if first is None else str(first.reason)

    @property
    def pending(self) -> int:
        """Bytes that wait for the client to read."""
        return self._transport.pending

    def finish(self, code: int = 1000, reason: str = "") -> None:
        """Close it and wait until the connection has ended, for at most a few seconds; then the socket is free."""
        try:
            self.close(code, reason)
            if not self._transport.ended:
                self._done.wait(CLOSE_TIMEOUT)
        finally:
            pulse().remove(self)
            if self._stream is not None:
                streams.current().forget(self._stream)
            self._transport.stop()
            if self._closer is not None:
                self._closer.stop()
                self._closer.close()
            if self._subscription is not None:
                self._subscription.close()
            if self._core is not None:
                self._core.on_end = None

    def result(self) -> Iterable[bytes]:
        """What the WSGI application returns, or raises, when it is finished."""
        return self._upgraded.result()

    # ---- what comes; in the hub ----

    def _data(self, data: bytes) -> None:
        self._pinged = False
        self.beat_tick = pulse().tick
        self._protocol.receive_data(data)
        self._events()
        if self.closed:
            self._quit()
        self._flush()
        if self.closed:
            self._closing()
        elif self._is_full():
            self._transport.pause()
            self._transport.want_drained()

    def _events(self) -> None:
        for event in self._protocol.events_received():
            opcode = getattr(event, "opcode", None)
            if opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            if opcode is not Opcode.CONT:
                self._is_text = opcode is Opcode.TEXT
            payload = bytes(event.data)  # type: ignore[union-attr]
            if opcode is Opcode.CONT or not event.fin:  # type: ignore[union-attr]
                self._partial += payload
            if event.fin:  # type: ignore[union-attr]
                if opcode is Opcode.CONT:
                    payload = bytes(self._partial)
                    self._partial = bytearray()
                try:
                    message: str | bytes = payload.decode() if self._is_text else payload
                except UnicodeDecodeError as error:
                    self._protocol.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
                    return
                self._queue.append(message)
                self._queue_bytes += len(message)
        if self._queue:
            self._wake()

    def _is_full(self) -> bool:
        """Too much waits for the application, or to be written: the client has to wait."""
        return (
            len(self._queue) >= self._queue_max
            or self._queue_bytes >= self._queue_bytes_max
            or self._transport.pending > self._buffer
        )

    def _read_on(self) -> None:
        if not self._transport.reading and (self.closed or not self._is_full()):
            self._transport.resume()

    def _wait(self, timeout: float | None) -> bool:
        """Until a message waits: True; closed or out of time: False."""
        if self._receiver is not None:
            raise RuntimeError("another greenlet receives from this WebSocket")
        if timeout is not None and timeout <= 0:
            return False
        hub = gevent.get_hub()
        timer = None if timeout is None else hub.loop.timer(timeout)
        self._expired = False
        self._receiver = getcurrent()
        try:
            if timer is not None:
                timer.start(self._expire)
            while not self._queue and not self.closed and not self._expired:
                hub.switch()
        finally:
            self._receiver = None
            if timer is not None:
                timer.stop()
                timer.close()
        return bool(self._queue)

    def _expire(self) -> None:
        self._expired = True
        self._wake()

    def _wake(self) -> None:
        """In the hub, or scheduled there: whoever receives looks again."""
        hub = gevent.get_hub()
        if getcurrent() is not hub:
            hub.loop.run_callback(self._wake)
        elif self._receiver is not None:
            self._receiver.switch()

    def beat(self) -> None:
        """Nothing came for a whole period: ask; nothing came since: it is gone."""
        if not self._transport.reading:
            return  # the application, or the client, is behind: an answer would not be read either
        if self.closed or self._pinged:
            self._transport.abort()
            return
        self._pinged = True
        self._protocol.send_ping(b"")
        self._flush()

    # ---- what goes ----

    def _put(self, opcode: Opcode, payload: bytes) -> None:
        if not self._compressed:
            self._transport.write(frame(opcode, payload))
            return
        (self._protocol.send_text if opcode is Opcode.TEXT else self._protocol.send_binary)(payload)
        self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.finish()

    def _drained(self) -> None:
        self._room.set()
        self._read_on()
        if self._subscription is not None:
            self.switch()

    def switch(self) -> None:
        """The dispatcher: messages of joined channels wait, or they end.  In the hub."""
        sub = self._subscription
        if sub is None or self.closed:
            return
        if sub.overflowed and self._transport.pending:
            self._too_slow([])
            return
        for _ in range(CHUNKS):
            if self._transport.pending:
                self._transport.want_drained()
                return  # they wait where they are bounded, until it is drained
            parts: list[bytes] = []
            size = 0
            while sub.pending and size < CHUNK_BYTES:
                message: Any = sub.take()
                if message.missed:
                    if self._slow == "close":
                        self._too_slow(parts)
                        return
                    parts.append(self._own(Opcode.TEXT, gap_text(message.channel, message.missed)))
                parts.append(self._frame(message))
                size += len(parts[-1])
            if not parts:
                break
            self._transport.write(b"".join(parts))
        else:
            gevent.get_hub().loop.run_callback(self.switch)
            return
        if sub.overflowed:
            self._too_slow([])
        elif sub.closed and sub.reason is not None:
            self._go_away(sub.reason)

    def _frame(self, message: Message) -> bytes:
        binary = self._binary.get(message.channel)
        if binary is None:  # joined by a prefix
            binary = any(chosen and message.channel.startswith(key) for key, chosen in self._binary_prefixes.items())
        if self._compressed:
            return self._own(Opcode.BINARY if binary else text_opcode(message.data), message.data)
        return (binary_frames if binary else text_frames).get(message)

    def _own(self, opcode: Opcode, payload: bytes) -> bytes:
        if not self._compressed:
            return frame(opcode, payload)
        (self._protocol.send_text if opcode is Opcode.TEXT else self._protocol.send_binary)(payload)
        return b"".join(self._protocol.data_to_send())

    def _too_slow(self, parts: list[bytes]) -> None:
        self._transport.write(b"".join(parts))
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow: messages were missed")

    # ---- the native stream's owner; in the hub ----

    def stream_event(self, stream: native.Stream, what: str) -> None:
        """See channels.worker.streams."""
        if what == "room":
            self._transport.drained()
        elif what == "gap":
            if self._slow == "close":
                self._too_slow([])
        elif stream is self._stream:  # the client writes no more, or all has ended: what it had sent is still read
            self._transport.detach()
            self._drained()

    def stream_drain(self, stream: native.Stream) -> None:
        """See channels.worker.streams."""
        # The request's core is told as well, and why.

    def _quit(self) -> None:
        """No frame of a channel may come behind the one that closes."""
        if self._stream is not None:
            streams.current().quit(self._stream, self._slow != "close")  # whom 1013 tells it

    # ---- the end; in the hub ----

    def _core_ended(self, reason: type[StreamEnded]) -> None:
        """The worker drains, or the server has seen that the client has gone."""
        if self._subscription is not None:
            if self._transport.pending:
                self._go_away(reason)
            else:
                self.switch()  # what waits is forwarded first
        else:
            self._go_away(reason)

    def _go_away(self, reason: type[StreamEnded]) -> None:
        if issubclass(reason, Restarting):
            self.close(CloseCode.SERVICE_RESTART, "this worker is being replaced")
        elif issubclass(reason, Draining):
            self.close(CloseCode.GOING_AWAY, "the server stops")
        else:
            self._transport.abort()

    def _closing(self) -> None:
        """Nothing can be sent any more; the other side's answer and its end are still to come."""
        self._room.set()
        self._transport.resume()
        self._wake()
        if self._closer is None and not self._transport.ended:
            self._closer = gevent.get_hub().loop.timer(CLOSE_TIMEOUT)
            self._closer.start(self._transport.abort)

    def _end(self) -> None:
        if not self._protocol.reader.eof:
            self._protocol.receive_eof()
        self._done.set()
        self._room.set()
        self._wake()
