"""WebSocket frames as a server sends them: whole and unmasked (RFC 6455, 5.2)."""

from __future__ import annotations

import json
import struct

from websockets.frames import Opcode

from channels.web.frames import FrameCache

_SHORT, _LONG = 126, 1 << 16


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole unmasked frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < _SHORT:
        return bytes((0x80 | opcode, size)) + payload
    if size < _LONG:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def text_opcode(data: bytes) -> Opcode:
    """Of a message that was to be text: what is no UTF-8 cannot be."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return Opcode.BINARY
    return Opcode.TEXT


def gap_text(channel: str, missed: int) -> bytes:
    """Tells the client that it missed so many messages of a channel."""
    return json.dumps({"event": "gap", "channel": channel, "missed": missed}, separators=(",", ":")).encode()


text_frames = FrameCache(lambda message: frame(text_opcode(message.data), message.data))
binary_frames = FrameCache(lambda message: frame(Opcode.BINARY, message.data))
