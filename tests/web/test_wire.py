"""Frames as bytes, read back by the `websockets` library."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from channels.web import wire


def parsed(data: bytes) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    generator = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(generator)
    return done.value.value


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_says_its_kind_and_length_whatever_that_is(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    frame = parsed(wire.frame(Opcode.BINARY, payload))
    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.BINARY, payload, True)


@pytest.mark.parametrize(
    ("data", "opcode"),
    [(b"", Opcode.TEXT), (b"ascii", Opcode.TEXT), ("ä".encode(), Opcode.TEXT), (b"\xff", Opcode.BINARY)],
)
def test_only_utf8_is_text(data: bytes, opcode: Opcode) -> None:
    assert wire.text_opcode(data) is opcode
