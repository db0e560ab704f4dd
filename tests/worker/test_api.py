"""publish, worker_id and workers, in real workers."""

from __future__ import annotations

import json

import pytest

import channels
from tests.cluster import Cluster, wait_until
from tests.worker import kept


@pytest.fixture
def cluster():
    with Cluster(2) as made:
        yield made


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        ("täxt", "täxt".encode()),
        ({"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'.encode()),
        (5, b"5"),
        (None, b"null"),
        ("", b""),
    ],
    ids=ascii,
)
def test_publish_sends_bytes_as_they_are_text_as_utf_8_and_the_rest_as_json(cluster, data, body):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    assert cluster.workers[2].run(channels.publish, "room", data) == 1
    assert cluster.workers[1].run(kept.bodies, "s", 1) == [body]


def test_what_json_cannot_say_is_a_type_error_and_nothing_is_sent(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    with pytest.raises(TypeError):
        cluster.workers[2].run(channels.publish, "room", {1, 2})
    assert cluster.workers[1].run(kept.waiting, "s") == []


@pytest.mark.parametrize("size", [5, 300_000])
def test_an_event_travels_with_the_message(cluster, size):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    assert cluster.workers[2].run(channels.publish, "room", "x" * size, event="größe") == 1
    assert cluster.workers[1].run(take_event, "s") == ("größe", size)
    cluster.workers[2].run(channels.publish, "room", "x")
    assert cluster.workers[1].run(take_event, "s") == (None, 1)


def take_event(key):
    message = kept.subscriptions[key].get(timeout=20)
    return message.event, len(message.data)


@pytest.mark.parametrize("event", ["", "x" * 255, "a\nb", "a\rb", "a\0b"], ids=ascii)
def test_an_events_name_has_1_to_254_bytes_and_no_line_breaks(cluster, event):
    with pytest.raises(ValueError, match="event"):
        cluster.workers[1].run(channels.publish, "room", "x", event=event)


def test_ids_count_within_an_epoch_without_a_hole_and_times_do_not_go_back(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    cluster.workers[2].run(kept.send_many, "room", 50)
    ids, times = cluster.workers[1].run(ids_and_times, "s", 50)
    epochs, numbers = zip(*(each.split("-") for each in ids))
    assert len(set(epochs)) == 1
    first = int(numbers[0])
    assert [int(number) for number in numbers] == list(range(first, first + 50))
    assert times == sorted(times)


def ids_and_times(key, count):
    messages = [kept.subscriptions[key].get(timeout=20) for _ in range(count)]
    return [message.id for message in messages], [message.time for message in messages]


def test_two_subscribers_on_two_workers_see_the_same_ids(cluster):
    for worker in cluster.workers.values():
        worker.run(kept.open_subscription, "s", "room")
    cluster.workers[2].run(kept.send_many, "room", 10)
    one, two = (worker.run(ids_and_times, "s", 10) for worker in cluster.workers.values())
    assert one == two


def test_a_worker_knows_its_number_and_the_others(cluster):
    assert cluster.workers[1].run(channels.worker_id) == 1
    assert cluster.workers[2].run(channels.worker_id) == 2
    infos = cluster.workers[1].run(channels.workers)
    assert [(info.id, info.pid, info.generation, info.state) for info in infos] == [
        (worker.slot, worker.pid, worker.generation, "ready") for worker in cluster.workers.values()
    ]


def test_a_dead_worker_is_not_listed_and_its_successor_is_of_another_generation(cluster):
    before = cluster.workers[2]
    cluster.kill(2)
    assert [info.id for info in cluster.workers[1].run(channels.workers)] == [1]
    after = cluster.add(2)
    (info,) = (info for info in cluster.workers[1].run(channels.workers) if info.id == 2)
    assert (info.pid, info.generation) == (after.pid, before.generation + 2)


def test_every_public_name_can_be_imported_and_has_words():
    for name in channels.__all__:
        assert getattr(channels, name).__doc__, name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = channels.nonsense


def test_a_published_json_value_comes_back_the_same(cluster):
    value = {"text": "日本", "numbers": [1, 2.5, -3], "deep": {"a": {"b": [None, True]}}}
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    cluster.workers[2].run(channels.publish, "room", value)
    (body,) = cluster.workers[1].run(kept.bodies, "s", 1)
    assert json.loads(body) == value
    wait_until(lambda: cluster.members("room") == [1])
