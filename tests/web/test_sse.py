"""Event streams: the format read back by the standard's own rules, and the iterable in a fabric of one process."""

from __future__ import annotations

import json

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

import channels
from channels.errors import Draining, NotAttached, Restarting
from channels.web import sse
from channels.web.pulse import pulse
from channels.worker import subscription
from channels.worker.streams import SSE_HEARTBEAT, StreamStart
from tests.web.parser import Parsed, Parser


def parse(*chunks: bytes) -> list[Parsed]:
    parser = Parser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


# ---- the format ----


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"hello", "hello"),
        (b"", ""),
        (b" leading blank", " leading blank"),
        (b"a\nb", "a\nb"),
        (b"a\r\nb", "a\nb"),
        (b"a\rb", "a\nb"),
        (b"a\r\n\r\nb\n", "a\n\nb\n"),
        (b"data: x", "data: x"),
        (b": no comment", ": no comment"),
        ("äöü \U0001f40c".encode(), "äöü \U0001f40c"),
        (b"\xff\xfe!", "\ufffd\ufffd!"),
        (b"nul\0inside", "nul\0inside"),
    ],
)
def test_data_arrives_as_it_was_but_for_line_ends_and_broken_utf8(data: bytes, seen: str) -> None:
    assert parse(sse.fields(data)) == [Parsed("message", seen, "")]


@given(st.binary())
def test_no_data_whatever_ends_an_event_early_or_begins_another(data: bytes) -> None:
    (event,) = parse(sse.fields(data, "kind", "7"))
    text = data.decode("utf-8", "replace")
    assert event == Parsed("kind", text.replace("\r\n", "\n").replace("\r", "\n"), "7")


def test_retry_is_told_in_milliseconds() -> None:
    parser = Parser()
    assert [event.data for event in parser.feed(sse.fields(b"x", retry=1.5))] == ["x"]
    assert parser.retry == 1500


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b"])
def test_a_name_or_id_with_a_line_break_or_nul_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line breaks"):
        sse.fields(b"x", event=text)
    with pytest.raises(ValueError, match="line breaks"):
        sse.fields(b"x", id=text)


# ---- headers ----


def test_the_headers_keep_proxies_from_holding_events_back() -> None:
    headers = dict(sse.response_headers())
    assert headers["Content-Type"].startswith("text/event-stream")
    assert headers["X-Accel-Buffering"] == "no"
    assert "no-cache" in headers["Cache-Control"]
    assert "Access-Control-Allow-Origin" not in headers


def test_an_allowed_origin_may_read_with_credentials_and_another_may_not() -> None:
    allowed = ["https://a.example", "https://b.example"]
    headers = dict(sse.response_headers(allowed, "https://b.example"))
    assert headers["Access-Control-Allow-Origin"] == "https://b.example"
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in dict(sse.response_headers(allowed, "https://c.example"))
    assert dict(sse.response_headers("*", "https://c.example"))["Access-Control-Allow-Origin"] == "*"


# ---- the stream ----


def opened(*names: str, **options: object) -> sse.EventStream:
    made = sse.EventStream(names, **options)  # type: ignore[arg-type]
    assert next(made).startswith(b"retry: ")
    return made


def test_outside_of_a_worker_a_stream_is_refused_with_advice() -> None:
    with pytest.raises(NotAttached, match="channels MODULE:APP"):
        sse.stream("a")


def test_a_stream_without_channels_is_refused(fabric: object) -> None:
    with pytest.raises(ValueError, match="at least one"):
        sse.stream()


def test_a_head_request_joins_nothing(fabric: object) -> None:
    status, headers, body = sse.stream("a", environ={"REQUEST_METHOD": "HEAD"})
    assert (status, list(body)) == ("200 OK", [])
    assert dict(headers)["Content-Type"] == sse.CONTENT_TYPE
    assert channels.channel_send("a", b"x") == 0


def test_it_is_joined_when_it_is_made_and_begins_with_the_retry_time(fabric: object) -> None:
    made = sse.EventStream(("a",), retry=3)
    assert channels.channel_send("a", b"early") == 1
    parser = Parser()
    assert list(parser.feed(next(made))) == []
    assert parser.retry == 3000
    assert [event.data for event in parser.feed(next(made))] == ["early"]
    made.close()


def test_a_stream_with_nothing_of_its_own_may_go_on_natively(fabric: object) -> None:
    for options, plain in (({}, True), ({"retry": 1}, True), ({"heartbeat": 1}, False), ({"filter": bool}, False)):
        made = sse.EventStream(("a",), **options)  # type: ignore[arg-type]
        assert isinstance(next(made), StreamStart) is plain
        made.close()


def test_several_channels_and_a_prefix_share_one_stream_with_names_and_ids(fabric: object) -> None:
    made = opened("a", prefixes=("b:",))
    channels.publish("a", "one", event="greeting")
    channels.publish("b:1", {"n": 2})
    channels.publish("c", "not ours")
    events: list[Parsed] = []
    parser = Parser()
    while len(events) < 2:
        events += parser.feed(next(made))
    assert [(event.type, event.data) for event in events] == [("greeting", "one"), ("message", '{"n":2}')]
    assert all("-" in event.id for event in events)
    made.close()


def test_a_star_in_a_name_is_a_star(fabric: object) -> None:
    made = opened("room:*")
    for name in ("room:secret", "room:", "room:*", "room:**"):
        channels.publish(name, name)
    (event,) = parse(next(made))
    assert event.data == "room:*"
    assert made.subscription.prefixes == []
    made.close()


def test_prefixes_alone_are_enough_and_are_given_as_a_list(fabric: object) -> None:
    _, _, made = sse.stream(prefixes=["b:"])
    assert channels.publish("b:1", "x") == 1
    made.close()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"prefixes=\('b:',\)"):
        sse.stream(prefixes="b:")


@pytest.mark.parametrize("number", ["²", "9" * 5000, "-1", "", "1_0"])
def test_a_last_event_id_that_is_no_number_of_ours_is_a_gap_of_unknown_length(fabric: object, number: str) -> None:
    first = sse.EventStream(("a",))
    found = sse.position(first.subscription, "a")
    assert found is not None
    made = sse.EventStream(("a",), last_event_id=f"{found[0]}-{number}")
    (gap,) = parse(next(made))
    assert (gap.type, gap.data) == ("gap", '{"channel":"a","missed":null}')
    first.close()
    made.close()


def test_messages_that_wait_leave_in_one_chunk(fabric: object) -> None:
    made = opened("a")
    for number in range(20):
        channels.channel_send("a", b"%d" % number)
    while made.subscription.pending < 20:
        gevent.sleep(0.001)
    assert [event.data for event in parse(next(made))] == [str(number) for number in range(20)]
    made.close()


def test_two_streams_share_one_frame_of_a_message(fabric: object) -> None:
    first, second = sse.EventStream(("a",)), sse.EventStream(("a",))
    channels.channel_send("a", b"x")
    gevent.sleep(0.05)
    one, two = first.subscription.take(), second.subscription.take()
    assert one is not None and one is two
    assert sse._frames.get(one) is sse._frames.get(two)
    first.close()
    second.close()


def test_filter_and_transform_are_each_clients_own(fabric: object) -> None:
    def change(message: channels.Message) -> object:
        if message.data == b"4":
            return None
        return (
            sse.Event(message.data * 2, event="twice", id="mine")
            if message.data == b"6"
            else {"n": message.data.decode()}
        )

    made = opened("a", filter=lambda message: int(message.data) % 2 == 0, transform=change)
    for number in range(7):
        channels.channel_send("a", b"%d" % number)
    parser, events = Parser(), []
    while len(events) < 3:
        events += parser.feed(next(made))
    assert [(event.type, event.data) for event in events] == [
        ("message", '{"n":"0"}'),
        ("message", '{"n":"2"}'),
        ("twice", "66"),
    ]
    assert events[2].id == "mine"
    made.close()


def test_a_client_that_was_too_slow_is_told_how_many_it_missed(fabric: object) -> None:
    made = opened("a", maxlen=5)
    for number in range(12):
        channels.channel_send("a", b"%d" % number)
    gevent.sleep(0)
    while made.subscription.dropped < 7:
        gevent.sleep(0.001)
    events = parse(next(made))
    assert (events[0].type, json.loads(events[0].data)) == ("gap", {"channel": "a", "missed": 7})
    assert [event.data for event in events[1:]] == ["7", "8", "9", "10", "11"]
    made.close()


def test_or_its_stream_ends_after_what_it_could_keep(fabric: object) -> None:
    made = opened("a", maxlen=5, slow="close")
    for number in range(12):
        channels.channel_send("a", b"%d" % number)
    while not made.subscription.closed:
        gevent.sleep(0.001)
    events = parse(*made)
    assert [event.data for event in events[:-1]] == ["0", "1", "2", "3", "4"]
    assert events[-1].type == "gap"


def test_who_comes_back_is_told_what_was_missed_meanwhile(fabric: object) -> None:
    keeper = channels.subscribe("a")
    first = opened("a")
    channels.channel_send("a", b"seen")
    last_id = parse(next(first))[0].id
    first.close()
    for _ in range(3):
        channels.channel_send("a", b"missed")
    assert [keeper.get(timeout=5) for _ in range(4)]
    again = sse.EventStream(("a",), last_event_id=last_id)
    (gap,) = parse(next(again))
    assert (gap.type, json.loads(gap.data)) == ("gap", {"channel": "a", "missed": 3})
    again.close()
    up_to_date = sse.EventStream(("a",), last_event_id=f"{last_id.partition('-')[0]}-4")
    assert parse(next(up_to_date)) == []
    up_to_date.close()


@pytest.mark.parametrize("text", ["never-given", "0-1", "x", "1-", "\u0661-\u0662"])
def test_an_id_of_another_time_means_that_nobody_knows_what_was_missed(fabric: object, text: str) -> None:
    made = sse.EventStream(("a",), last_event_id=text)
    (gap,) = parse(next(made))
    assert json.loads(gap.data) == {"channel": "a", "missed": None}
    made.close()


def test_a_silent_stream_gets_a_comment_and_a_busy_one_does_not(fabric: object) -> None:
    silent, busy = opened("silent", heartbeat=1), opened("busy", heartbeat=2)
    got: list[bytes] = []
    reader = gevent.spawn(lambda: got.extend(busy))
    talker = gevent.spawn(lambda: [(channels.channel_send("busy", b"x"), gevent.sleep(0.1)) for _ in range(25)])
    assert next(silent) == SSE_HEARTBEAT
    talker.join(timeout=30)
    assert got and SSE_HEARTBEAT not in got
    busy.subscription.close()
    reader.join(timeout=30)
    silent.close()
    busy.close()
    assert pulse()._timer is None, "without streams there is no timer"


@pytest.mark.parametrize("reason", [Draining, Restarting])
def test_when_the_worker_drains_it_says_what_waits_and_a_spread_retry_and_ends(fabric: object, reason: type) -> None:
    retries = set()
    for _ in range(5):
        core, token = subscription.bind_request()
        made = opened("a", retry=1)
        channels.channel_send("a", b"last words")
        while not made.subscription.pending:
            gevent.sleep(0.001)
        core.end(reason)
        parser = Parser()
        assert [event.data for chunk in made for event in parser.feed(chunk)] == ["last words"]
        assert parser.retry is not None and 1000 <= parser.retry <= 3000
        retries.add(parser.retry)
        made.close()
        subscription.unbind_request(core, token)
    assert len(retries) > 1


def test_a_closed_stream_has_left_everything(fabric: object) -> None:
    made = opened("a")
    made.close()
    made.close()
    assert list(made) == []
    while channels.channel_send("a", b"x"):
        gevent.sleep(0.001)
