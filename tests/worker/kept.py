"""Run in the workers of a test's cluster: subscriptions that outlive the call that made them, and the common acts."""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import AsyncResult

import channels

subscriptions: dict[str, Any] = {}
_holders: dict[str, Any] = {}


def open_subscription(key: str, *names: str, **options: Any) -> None:
    """In a greenlet of its own, whose core it belongs to."""
    made: Any = AsyncResult()

    def hold() -> None:
        try:
            subscriptions[key] = channels.subscribe(*names, **options)
        except Exception as error:
            made.set_exception(error)
            return
        made.set(None)
        gevent.get_hub().switch()  # until it is killed

    _holders[key] = gevent.spawn(hold)
    made.get()


def end_holder(key: str) -> None:
    """The greenlet whose core the subscription belongs to is killed."""
    _holders.pop(key).kill()


def call(key: str, method: str, *args: Any) -> Any:
    """One of its methods, or an attribute."""
    value = getattr(subscriptions[key], method)
    return value(*args) if callable(value) else value


def take(key: str, count: int) -> list[tuple[str, bytes, int]]:
    """The next messages: (channel, body, missed)."""
    found = []
    while len(found) < count:
        message = subscriptions[key].get(timeout=20)
        assert message is not None, f"only {len(found)} of {count} came"
        found.append((message.channel, message.data, message.missed))
    return found


def bodies(key: str, count: int) -> list[bytes]:
    return [body for _, body, _ in take(key, count)]


def waiting(key: str) -> list[bytes]:
    """What waits after a moment in which everything under way arrived: a message to a channel of its own went round."""
    flush()
    return [message.data for message in subscriptions[key].drain()]


def flush() -> None:
    """Everything that the router had got before is here when this returns."""
    with channels.subscribe("flush") as own:
        channels.channel_send("flush", b"x")
        while own.get(timeout=20) is None:
            raise AssertionError("nothing goes round")


def send(name: str, *data: bytes) -> list[int]:
    return [channels.channel_send(name, body) for body in data]


def send_many(name: str, count: int, label: bytes = b"") -> None:
    for number in range(count):
        channels.channel_send(name, label + b"%d" % number)
