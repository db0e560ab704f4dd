"""Flask-SSE's interface: what its users call, and what their pages get."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from channels import testing
from channels.flask_sse import Message, sse
from tests.flask_app import app
from tests.test_flask import read
from tests.web.parser import Parser


@pytest.fixture(autouse=True)
def local() -> Iterator[None]:
    with testing.local():
        yield


@pytest.mark.parametrize("data", ["text", "", "two\nlines", {"message": "Hello!"}, [1, None], 7])
def test_data_is_text_or_json_as_flask_sse_has_it(data: Any) -> None:
    stream = app.test_client().get("/stream")
    assert sse.publish(data) == 1
    (event,) = read(stream, 1)
    assert event.data == (data if isinstance(data, str) else Message(data).body().decode())
    stream.close()


def test_type_id_and_retry_arrive() -> None:
    client = app.test_client()
    stream = client.get("/stream")
    given = {"data": "x", "type": "greeting", "id": "42", "retry": 1234}
    assert client.post("/greet", json=given).data == b"1"
    parser = Parser()
    events: list[Any] = []
    chunks = iter(stream.response)
    while not events:
        events += parser.feed(next(chunks))
    assert (events[0].type, events[0].data, events[0].id, parser.retry) == ("greeting", "x", "42", 1234)
    stream.close()


def test_an_id_alone_leaves_the_event_a_message() -> None:
    stream = app.test_client().get("/stream")
    sse.publish("x", id="7")
    (event,) = read(stream, 1)
    assert (event.type, event.id) == ("message", "7")
    stream.close()


def test_the_channel_is_chosen_by_the_query() -> None:
    client = app.test_client()
    stream, other = client.get("/stream?channel=users.7"), client.get("/stream")
    assert sse.publish("for seven", channel="users.7") == 1
    assert sse.publish("for all") == 1
    assert read(stream, 1)[0].data == "for seven"
    assert read(other, 1)[0].data == "for all"
    stream.close()
    other.close()


def test_a_star_in_the_query_is_a_channel_s_name() -> None:
    stream = app.test_client().get("/stream?channel=*")
    assert sse.publish("for seven", channel="users.7") == 0
    assert sse.publish("for star", channel="*") == 1
    assert read(stream, 1)[0].data == "for star"
    stream.close()


def test_messages_gives_what_is_sent() -> None:
    got: list[Message] = []
    listener = gevent.spawn(lambda: got.extend(message for message in [next(sse.messages("c"))]))
    while not sse.publish("hello", type="kind", channel="c"):
        gevent.sleep(0.001)
    listener.join(timeout=30)
    assert (got[0].data, got[0].type) == ("hello", "kind")


@pytest.mark.parametrize("field", ["type", "id"])
def test_a_line_break_in_a_field_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="line breaks"):
        sse.publish("x", **{field: "a\nb"})  # type: ignore[arg-type]


def test_a_message_prints_as_an_event() -> None:
    message = Message({"a": 1}, type="kind", id=3, retry=2000)
    assert str(message) == 'id: 3\nevent: kind\nretry: 2000\ndata: {"a": 1}\n\n'
    assert message.to_dict() == {"data": {"a": 1}, "type": "kind", "id": 3, "retry": 2000}
    assert message == Message({"a": 1}, "kind", 3, 2000) != Message("x")
