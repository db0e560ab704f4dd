"""Flask-SSE's interface without Redis: an application that used it changes one import.

    from channels.flask_sse import sse

    app.register_blueprint(sse, url_prefix="/stream")
    sse.publish({"message": "Hello!"}, type="greeting")

Runs in: worker; in tests under channels.testing.local().
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, request

from channels.web import sse as events
from channels.worker import client as fabric
from channels.worker import subscription

PREFIX = "sse:"  # of the channels' names, so that an application's own channels stay its own
DEFAULT_CHANNEL = "sse"


class Message:
    """An event as Flask-SSE has it: data is text, or a JSON value."""

    def __init__(
        self, data: Any, type: str | None = None, id: str | float | None = None, retry: int | None = None
    ) -> None:
        self.data = data
        self.type = type
        self.id = id
        self.retry = retry  # milliseconds

    def to_dict(self) -> dict[str, Any]:
        """What was given."""
        named = {"data": self.data, "type": self.type, "id": self.id, "retry": self.retry}
        return {key: value for key, value in named.items() if value or key == "data"}

    def body(self) -> bytes:
        """The data on the wire: text as it is, anything else as JSON."""
        return (self.data if isinstance(self.data, str) else json.dumps(self.data)).encode()

    def __str__(self) -> str:
        retry = None if self.retry is None else self.retry / 1000
        return events.fields(self.body(), self.type, None if self.id is None else str(self.id), retry).decode()

    def __repr__(self) -> str:
        return f"Message({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


class ServerSentEventsBlueprint(Blueprint):
    """The blueprint: GET on it streams the channel that `?channel=` names."""

    def publish(
        self,
        data: Any,
        type: str | None = None,
        id: str | float | None = None,
        retry: int | None = None,
        channel: str = DEFAULT_CHANNEL,
    ) -> int:
        """Send an event to everyone who streams the channel; the number of workers that have some.

        Args:
            data: Text, or anything that JSON can say.
            type: The event's name.
            id: Instead of the one that every message has.
            retry: Milliseconds after which a lost connection is tried again.
        """
        message = Message(data, type, id, retry)
        name = events.event_fields(type, None if id is None else str(id), None if retry is None else retry / 1000)
        client = fabric.current("sse.publish")
        return client.sender.send_event(PREFIX + channel, message.body(), None if name is None else name.encode(), -1.0)

    def messages(self, channel: str = DEFAULT_CHANNEL) -> Iterator[Message]:
        """What is sent to the channel, from now on."""
        with subscription.subscribe(PREFIX + channel, prefixes=()) as sub:
            for message in sub:
                yield Message(message.data.decode(errors="replace"), message.event, message.id)

    def stream(self) -> Response:
        """The view."""
        channel = request.args.get("channel") or DEFAULT_CHANNEL
        status, headers, body = events.stream(PREFIX + channel, environ=request.environ)
        return Response(body, status=status, headers=headers, direct_passthrough=True)


sse = ServerSentEventsBlueprint("sse", __name__)
sse.add_url_rule(rule="", endpoint="stream", view_func=sse.stream)

__all__ = ["Message", "ServerSentEventsBlueprint", "sse"]
