"""Server-sent events: channels as a `text/event-stream` response, for any WSGI framework.

The format is that of the WHATWG HTML living standard, section 9.2.  Runs in: worker, in a request.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from channels.core import native
from channels.errors import Draining
from channels.web.frames import FrameCache
from channels.web.pulse import pulse
from channels.worker import client as fabric
from channels.worker import naming, subscription
from channels.worker.api import encode
from channels.worker.streams import SSE_HEARTBEAT, StreamStart
from channels.worker.subscription import Message, Subscription

CONTENT_TYPE = "text/event-stream; charset=utf-8"
CHUNK_BYTES = 64 * 1024  # frames that wait for the same client leave together, up to about so many bytes
_LINE_END = re.compile(rb"\r\n|\r|\n")
DIGITS = re.compile("[0-9]{1,20}")
_BREAKS = re.compile("[\r\n\0]")

Filter = Callable[[Message], bool]
Transform = Callable[[Message], Any]


class Event:
    """What `transform` may return to choose more than the data."""

    __slots__ = ("data", "event", "id", "retry")

    def __init__(self, data: Any, event: str | None = None, id: str | None = None, retry: float | None = None) -> None:
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry  # seconds


def fields(data: bytes, event: str | None = None, id: str | None = None, retry: float | None = None) -> bytes:
    """One event as bytes.

    Args:
        data: UTF-8; what is not becomes U+FFFD.  Every CRLF, CR or LF begins another `data` line.
        event: The name that listeners wait for; without one it is "message".
        id: What the browser sends back as Last-Event-ID.
        retry: Seconds until it connects again.

    Raises:
        ValueError: A line break or NUL in `event` or `id`.
    """
    parts = []
    if id is not None:
        parts.append(f"id: {_one_line('id', id)}\n".encode())
    if event is not None:
        parts.append(f"event: {_one_line('event', event)}\n".encode())
    if retry is not None:
        parts.append(retry_field(retry))
    parts.append(_data_lines(data))
    return b"".join(parts)


def retry_field(seconds: float) -> bytes:
    """The field that says when to connect again."""
    return b"retry: %d\n" % round(seconds * 1000)


def event_fields(event: str | None, id: str | None, retry: float | None) -> str | None:
    """A name for `publish(..., event=)`'s place in the record that carries further fields on lines of their own."""
    lines = [] if event is None else [_one_line("event", event)]
    if id is not None or retry is not None:
        lines = lines or ["message"]
        if id is not None:
            lines.append(f"id: {_one_line('id', id)}")
        if retry is not None:
            lines.append(f"retry: {round(retry * 1000)}")
    return "\n".join(lines) if lines else None


def _one_line(what: str, text: str) -> str:
    if _BREAKS.search(text):
        raise ValueError(f"an event's {what} has neither line breaks nor NUL, not {text!r}")
    return text


def _data_lines(data: bytes) -> bytes:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode("utf-8", "replace").encode()
    if b"\n" not in data and b"\r" not in data:
        return b"data: " + data + b"\n\n"
    return b"data: " + b"\ndata: ".join(_LINE_END.split(data)) + b"\n\n"


def gap_frame(channel: str | None, missed: int | None) -> bytes:
    """An event "gap" that tells of a loss: the channel, and how many messages were missed; null: nobody knows."""
    text = json.dumps({"channel": channel, "missed": missed}, separators=(",", ":"))
    return b"event: gap\ndata: " + text.encode() + b"\n\n"


_frames = FrameCache(functools.partial(native.frame, native.SSE))


class EventStream:
    """The response's iterable: joined when it is made, until the client goes, the worker drains or it is closed.

    One whose client asks for nothing of its own begins with a StreamStart, from which a server that can goes on without
    the iterable.
    """

    def __init__(
        self,
        channels: tuple[str, ...],
        *,
        prefixes: Iterable[str] = (),
        retry: float | None = None,
        heartbeat: float | None = None,
        filter: Filter | None = None,
        transform: Transform | None = None,
        last_event_id: str | None = None,
        slow: str | None = None,
        maxlen: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        settings = fabric.current("a stream").settings
        self.channels = channels
        self.retry = settings.stream_retry if retry is None else retry
        self.heartbeat = settings.stream_heartbeat if heartbeat is None else heartbeat
        self.spread = settings.drain_spread
        self.filter = filter
        self.transform = transform
        self.slow = settings.stream_overflow if slow is None else slow
        if self.slow not in ("gap", "close"):
            raise ValueError(f"slow must be 'gap' or 'close', not {self.slow!r}")
        self.subscription: Subscription = subscription.subscribe(
            *channels,
            prefixes=prefixes,
            maxlen=maxlen,
            max_bytes=settings.stream_buffer if max_bytes is None else max_bytes,
            overflow="close" if self.slow == "close" else "drop_oldest",
        )
        # No empty line behind it: some clients would take that for an event.
        self.opening: bytes = retry_field(self.retry) + self._reconnected(last_event_id)
        self.beat_tick = self.beat_due = 0
        self._beat = self._beating = False
        self._opened = False
        self._ended = False
        plain = (filter, transform, heartbeat, slow, maxlen, max_bytes) == (None,) * 6
        if plain:  # a server of ours may write it natively from here on
            self.opening = StreamStart.make(self.opening, self.subscription)

    def _reconnected(self, last_event_id: str | None) -> bytes:
        """What was missed since the event with this id."""
        if not last_event_id:
            return b""
        if len(self.channels) != 1 or self.subscription.prefixes:
            return gap_frame(None, None)
        found = position(self.subscription, self.channels[0])
        epoch, _, number = last_event_id.partition("-")
        if found is None or found[0] != epoch or not DIGITS.fullmatch(number):
            return gap_frame(self.channels[0], None)
        missed = found[1] - int(number)
        return gap_frame(self.channels[0], missed) if missed > 0 else b""

    def beat(self) -> None:
        self._beat = True
        self.subscription.nudge()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._opened:
            self._opened = True
            return self.opening
        if not self._beating and self.heartbeat and not self._ended:
            self._beating = True
            pulse().add(self, self.heartbeat)
        sub = self.subscription
        while True:
            chunk = self._chunk()
            if chunk:
                self.beat_tick = pulse().tick
                self._beat = False
                return chunk
            if sub.closed and not sub.pending:
                return self._last()
            if self._beat:
                self._beat = False
                return SSE_HEARTBEAT
            sub.wait(None)

    def _chunk(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        take = self.subscription.take
        while size < CHUNK_BYTES:
            message = take()
            if message is None:
                break
            if message.missed:
                gap = gap_frame(message.channel, message.missed)
                parts.append(gap)
                size += len(gap)
            frame = _frames.get(message) if self.transform is None and self.filter is None else self._own(message)
            if frame is not None:
                parts.append(frame)
                size += len(frame)
        return b"".join(parts)

    def _own(self, message: Message) -> bytes | None:
        """The frame of a client with a filter or a transform."""
        if self.filter is not None and not self.filter(message):
            return None
        if self.transform is None:
            return _frames.get(message)
        value = self.transform(message)
        if value is None:
            return None
        if isinstance(value, Event):
            return fields(encode(value.data), value.event, message.id if value.id is None else value.id, value.retry)
        return fields(encode(value), message.event, message.id)

    def _last(self) -> bytes:
        if self._ended:
            raise StopIteration
        self._ended = True
        pulse().remove(self)
        sub = self.subscription
        if sub.overflowed:
            return gap_frame(None, None)
        if sub.reason is not None and issubclass(sub.reason, Draining):
            # Everybody connects again: not at the same time.
            return retry_field(self.retry + random.uniform(0, self.spread))
        raise StopIteration

    def close(self) -> None:
        """Leave everything.  WSGI servers call it however the response ends."""
        pulse().remove(self)
        self.subscription.close()


def position(sub: Subscription, channel: str) -> tuple[str, int] | None:
    """(epoch, number) of the last message before `sub` joined the channel."""
    for local in sub.memberships:
        if local.name == channel:
            found: tuple[str, int] = local.position
            return found
    return None


def response_headers(cors: str | Iterable[str] | None = None, origin: str | None = None) -> list[tuple[str, str]]:
    """What an event stream's response says beside its status.

    Args:
        cors: Origins that may read it: "*", one, or several; None: the own one only.
        origin: The request's.
    """
    headers = [
        ("Content-Type", CONTENT_TYPE),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ]
    if cors == "*":
        headers.append(("Access-Control-Allow-Origin", "*"))
    elif cors is not None:
        headers.append(("Vary", "Origin"))
        allowed = [cors] if isinstance(cors, str) else list(cors)
        if origin is not None and origin in allowed:
            headers += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]
    return headers


def stream(
    *channels: str,
    prefixes: Iterable[str] = (),
    retry: float | None = None,
    heartbeat: float | None = None,
    filter: Filter | None = None,
    transform: Transform | None = None,
    last_event_id: str | None = None,
    slow: str | None = None,
    maxlen: int | None = None,
    max_bytes: int | None = None,
    cors: str | Iterable[str] | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    environ: Mapping[str, Any] | None = None,
) -> tuple[str, list[tuple[str, str]], Iterable[bytes]]:
    """Channels as a response: (status, headers, iterable).  Joined when it returns; waits for that cooperatively.

    Args:
        channels: Names, taken literally: a `*` in one is a character like any other.
        prefixes: Every channel whose name begins with one of these, those that come later included.
        retry: Seconds until a client that lost the connection tries again; default `settings.stream_retry`.
        heartbeat: Seconds of silence after which a comment is sent, 0: never; default `settings.stream_heartbeat`.
        filter: Which messages this client gets.
        transform: What this client gets for a message: data as for publish(), an Event, or None for nothing.
        last_event_id: The header of a client that was here before; by default read from `environ`.  It is told with a
            gap event what it missed meanwhile.
        slow: "gap": a client for which more than the bounds would wait loses the oldest and is told how many; "close":
            its stream ends.  Default `settings.stream_overflow`.
        maxlen, max_bytes: Those bounds: messages (`settings.queue_length`), bytes (`settings.stream_buffer`).
        cors: Origins that may read it, as for response_headers().
        headers: More headers.
        environ: The request's, for HEAD, Origin and Last-Event-ID.

    Raises:
        ChannelTableFull, RouterUnavailable, BadChannelName, ValueError, NotAttached.
    """
    prefixes = naming.literal_prefixes(prefixes)
    if not channels and not prefixes:
        raise ValueError("a stream needs at least one channel or prefix")
    asked = environ or {}
    answer = response_headers(cors, asked.get("HTTP_ORIGIN"))
    answer += headers.items() if isinstance(headers, Mapping) else headers
    if asked.get("REQUEST_METHOD") == "HEAD":
        return "200 OK", answer, []
    made = EventStream(
        channels,
        prefixes=prefixes,
        retry=retry,
        heartbeat=heartbeat,
        filter=filter,
        transform=transform,
        last_event_id=asked.get("HTTP_LAST_EVENT_ID") if last_event_id is None else last_event_id,
        slow=slow,
        maxlen=maxlen,
        max_bytes=max_bytes,
    )
    return "200 OK", answer, made
