"""A message's bytes on the wire, made once for all streams of this worker that are to get it."""

from __future__ import annotations

import collections
from typing import Callable

from channels.worker.subscription import Message

CACHED = 256  # messages
CACHED_BYTES = 4 << 20


class FrameCache:
    """The frames of the latest messages, by the message's identity."""

    def __init__(self, build: Callable[[Message], bytes]) -> None:
        self._build = build
        self._frames: collections.OrderedDict[int, tuple[Message, bytes]] = collections.OrderedDict()
        self._bytes = 0

    def get(self, message: Message) -> bytes:
        """The frame; the same object for the same message."""
        key = id(message)  # unique while the message stands in here
        found = self._frames.get(key)
        if found is not None:
            return found[1]
        frame = self._build(message)
        self._frames[key] = (message, frame)
        self._bytes += len(frame)
        while len(self._frames) > CACHED or (self._bytes > CACHED_BYTES and len(self._frames) > 1):
            _, (_, old) = self._frames.popitem(last=False)
            self._bytes -= len(old)
        return frame
