"""Small public calls that are neither channels nor alerts: publish, who am I, who else is there."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from channels.core import native
from channels.worker import client as fabric

JSON_SEPARATORS = (",", ":")


@dataclasses.dataclass(frozen=True)
class WorkerInfo:
    """A worker as the slot table shows it."""

    id: int  # its slot
    pid: int
    generation: int  # how many workers the slot has held, odd while it is held
    state: str  # "starting", "ready" or "draining"
    connections: int
    requests: int  # running now
    streams: int


def publish(name: str, data: Any, *, event: str | None = None, timeout: float | None = -1.0) -> int:
    """channel_send for text, bytes and JSON values.

    Args:
        data: bytes go as they are, str as UTF-8, anything else as JSON.
        event: A name for EventSource listeners, 1 to 254 bytes; subscribers see it as `message.event`.

    Returns:
        How many workers had subscribers.
    """
    body = encode(data)
    if event is None:
        return native.channel_send(name, body, timeout=timeout)
    if any(character in event for character in "\r\n\0"):
        raise ValueError(f"an event's name has no line breaks, not {event!r}")
    return fabric.current("publish").sender.send_event(name, body, event.encode(), timeout)


def encode(data: Any) -> bytes:
    """bytes-like as it is, str as UTF-8, anything else as compact JSON."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        return data.encode()
    return json.dumps(data, separators=JSON_SEPARATORS, ensure_ascii=False).encode()


def worker_id() -> int:
    """This worker's slot, from 1.  Raises NotAttached."""
    return fabric.current("worker_id").endpoint.slot


def workers() -> list[WorkerInfo]:
    """Every worker of this master, this one included, by slot."""
    segment = fabric.current("workers").segment
    index = native.worker_counter_index
    found = []
    for slot in range(1, segment.slots):
        generation, pid, attached, ready, _ = segment.slot(slot)
        if not generation & 1:
            continue
        here = attached == generation
        found.append(
            WorkerInfo(
                id=slot,
                pid=pid,
                generation=generation,
                state="ready" if ready == generation else "starting",
                connections=segment.worker_counter(slot, index["connections"]) if here else 0,
                requests=segment.worker_counter(slot, index["requests_running"]) if here else 0,
                streams=segment.worker_counter(slot, index["streams"]) if here else 0,
            )
        )
    return found
