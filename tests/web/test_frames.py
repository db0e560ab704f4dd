"""The cache of frames: built once per message, bounded in number and bytes."""

from __future__ import annotations

import gevent

import channels
from channels.web import frames
from channels.web.frames import FrameCache


def messages(count: int, body: bytes = b"x") -> list[channels.Message]:
    sub = channels.subscribe("a", maxlen=count, max_bytes=1 << 30)
    for _ in range(count):
        channels.channel_send("a", body)
    while sub.pending < count:
        gevent.sleep(0.001)
    taken = sub.drain()
    sub.close()
    return taken


def test_a_frame_is_built_once_per_message(fabric: object) -> None:
    built: list[channels.Message] = []

    def build(message: channels.Message) -> bytes:
        built.append(message)
        return b"<" + message.data + b">"

    cache = FrameCache(build)
    one, two = messages(2)
    assert [cache.get(message) for message in (one, two, one, two)] == [b"<x>"] * 4
    assert built == [one, two]


def test_it_keeps_no_more_than_it_may(fabric: object) -> None:
    cache = FrameCache(lambda message: bytes(message.data))
    for message in messages(frames.CACHED + 50):
        cache.get(message)
    assert len(cache._frames) == frames.CACHED
    for message in messages(10, b"y" * (1 << 20)):
        cache.get(message)
    assert sum(len(frame) for _, frame in cache._frames.values()) <= frames.CACHED_BYTES
