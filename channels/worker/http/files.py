"""`wsgi.file_wrapper`: a file goes to the client by sendfile(2) where it is one, else in blocks.

Runs in: worker.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, Protocol

BLOCK = 64 * 1024
SENDFILE_MAX = 1 << 20  # bytes at once, so that others get their turn


class FileWrapper:
    """PEP 3333, "Optional Platform-Specific File Handling"."""

    def __init__(self, filelike: Any, block: int = BLOCK) -> None:
        self.filelike = filelike
        self.block = block
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.filelike.read(self.block), b"")


class Sink(Protocol):
    """What a file is sent to: a connection."""

    def fileno(self) -> int: ...

    def wait_writable(self) -> None: ...

    def pause(self) -> None:
        """Let others run."""

    def lost(self, error: OSError) -> Exception: ...


def size_left(filelike: Any) -> int | None:
    """Bytes from its position to its end; None for what is no regular file."""
    try:
        fd = filelike.fileno()
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return None
        return max(found.st_size - int(filelike.tell()), 0)
    except (AttributeError, OSError, ValueError, TypeError):
        return None


def send_file(sink: Sink, filelike: Any, most: int) -> int:
    """Send at most so many bytes from its position; how many were there."""
    fd, offset, sent = filelike.fileno(), filelike.tell(), 0
    while sent < most:
        try:
            count = os.sendfile(sink.fileno(), fd, offset + sent, min(most - sent, SENDFILE_MAX))
        except BlockingIOError:
            sink.wait_writable()
            continue
        except OSError as error:
            raise sink.lost(error) from None
        if not count:
            break
        sent += count
        if count == SENDFILE_MAX:
            sink.pause()
    return sent
