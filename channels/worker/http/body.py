"""The body of a request: `wsgi.input`, read from the connection as the application asks for it.

Chunks are taken apart here (RFC 9112, section 7.1), strictly; trailers are checked and forgotten.  Runs in: worker, in
the request's greenlet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from channels.errors import ClientGone
from channels.worker.http.head import CHUNKED, BadRequest

CHUNK_LINE_MAX = 1024  # a chunk's size and its extensions
TRAILER_MAX = 8192  # all trailers together
DISCARD_MAX = 64 * 1024  # of an unread body that is waited for, so that the connection can be kept
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
# What frames a message has no place behind it (RFC 9110, section 6.5.1): somebody before us may believe it.
_TRAILER = re.compile(
    rb"(?!(?i:content-length|transfer-encoding):)[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\Z"
)


class Source(Protocol):
    """What a body is read from: a connection."""

    buffer: bytes

    def more(self) -> bool:
        """Wait until `buffer` has grown; False at the end.  Raises TimeoutError."""

    def say_continue(self) -> bool:
        """Tell the client that it may send the body; False: too late, the answer has begun."""


class Body:
    """A file of bytes that ends where the body ends.

    Reading raises ClientGone when the client goes in the middle, BadRequest when its chunks are broken or too many.
    Whatever else is thrown into who reads (TimeoutError, gevent.Timeout) takes nothing away: reading again goes on.
    """

    def __init__(self, source: Source, length: int, limit: int, expects: bool) -> None:
        self._source = source
        self._chunked = length == CHUNKED
        self._left = 0 if self._chunked else length  # of the body, or of the chunk
        self._limit = limit
        self._total = 0
        self._due = False  # the line end behind a chunk
        self._last = False  # the last chunk was seen: trailers come
        self._room = TRAILER_MAX
        self._held = b""  # taken off the connection, not yet given out
        self.expects = expects  # the client waits for "100 Continue"
        self.ended = length == 0  # nothing more comes
        self._broken = False  # nobody knows where it ends

    # ---- framing ----

    def _more(self) -> None:
        if self.expects:
            self.expects = not self._source.say_continue()
        if not self._source.more():
            self._break()
            raise ClientGone()

    def _line(self, most: int) -> bytes:
        source = self._source
        while True:
            end = source.buffer.find(b"\r\n", 0, most + 2)
            if end >= 0:
                line, source.buffer = source.buffer[:end], source.buffer[end + 2 :]
                return line
            if len(source.buffer) >= most + 2:
                raise self._bad("chunk line too long")
            self._more()

    def _break(self) -> None:
        self.ended = self._broken = True

    def _bad(self, reason: str, status: int = 400) -> BadRequest:
        self._break()
        return BadRequest(status, reason)

    def _next_chunk(self) -> None:
        """To the next chunk's data, or the body's end.  What is read is noted at once: any line may be waited for."""
        if self._due:
            if self._line(0):
                raise self._bad("chunk end")
            self._due = False
        if not self._last:
            found = _SIZE.match(self._line(CHUNK_LINE_MAX))
            if found is None:
                raise self._bad("chunk size")
            self._left = int(found[1], 16)
            self._total += self._left
            if self._limit and self._total > self._limit:
                raise self._bad("body too large", 413)
            self._due = self._left > 0
            self._last = not self._due
        if self._last:
            self._trailers()
            self.ended = True

    def _trailers(self) -> None:
        while True:
            line = self._line(self._room)
            if not line:
                return
            self._room -= len(line) + 2
            if self._room < 0 or not _TRAILER.match(line):
                raise self._bad("trailer")

    def _pull(self, most: int) -> bytes:
        """1 to `most` bytes; none at the end."""
        if self._held:
            data, self._held = self._held[:most], self._held[most:]
            return data
        if self._chunked and not self.ended and not self._left:
            self._next_chunk()
        if self.ended:
            return b""
        source = self._source
        if not source.buffer:
            self._more()
        buffer = source.buffer
        size = min(most, self._left, len(buffer))
        data, source.buffer = (buffer, b"") if size == len(buffer) else (buffer[:size], buffer[size:])
        self._left -= size
        if not self._left and not self._chunked:
            self.ended = True
        return data

    def _put_back(self, parts: list[bytes]) -> None:
        """Who reads was interrupted.  Of a body that broke off nothing is given out twice: it would look whole."""
        if not self._broken:
            self._held = b"".join(parts) + self._held

    # ---- the file ----

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, fewer only at the end; all that is left without a size."""
        most = 1 << 62 if size is None or size < 0 else size
        parts: list[bytes] = []
        try:
            while most > 0:
                data = self._pull(most)
                if not data:
                    break
                parts.append(data)
                most -= len(data)
        except BaseException:
            self._put_back(parts)
            raise
        return b"".join(parts)

    def read1(self, size: int | None = -1) -> bytes:
        """What has come, at most `size` bytes; waits only while nothing has; none at the end."""
        return self._pull(size if size is not None and size >= 0 else 1 << 16) if size != 0 else b""

    def readline(self, size: int | None = -1) -> bytes:
        """To the next line feed, that included; at most `size` bytes."""
        most = 1 << 62 if size is None or size < 0 else size
        parts: list[bytes] = []
        try:
            while most > 0:
                data = self._pull(min(most, 8192))
                if not data:
                    break
                end = data.find(b"\n") + 1
                if end:
                    self._held = data[end:] + self._held
                    parts.append(data[:end])
                    break
                parts.append(data)
                most -= len(data)
        except BaseException:
            self._put_back(parts)
            raise
        return b"".join(parts)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """All lines, or those that begin in the first `hint` bytes."""
        lines: list[bytes] = []
        got = 0
        try:
            for line in self:
                lines.append(line)
                got += len(line)
                if hint is not None and 0 < hint <= got:
                    break
        except BaseException:
            self._put_back(lines)
            raise
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    @property
    def whole(self) -> bool:
        """It was read to its end: what follows on the connection is another request."""
        return self.ended and not self._broken

    def discard(self) -> bool:
        """After the answer: read what is left of it if that is little; whether the connection can go on."""
        if self.expects:
            return self.whole  # nobody knows whether the client sends it now
        self._held = b""
        got = 0
        try:
            while not self.ended and got <= DISCARD_MAX:
                if self._left > DISCARD_MAX:
                    return False
                got += len(self._pull(DISCARD_MAX))
        except (BadRequest, ClientGone, TimeoutError):
            pass
        return self.whole
