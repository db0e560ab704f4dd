"""Joining, leaving, waiting and receiving, between real processes."""

from __future__ import annotations

import array

import gevent
import pytest

import channels
from channels.errors import (
    BadChannelName,
    ChannelTableFull,
    SubscriptionClosed,
)
from channels.worker import subscription as module
from tests.cluster import Cluster, wait_until
from tests.worker import kept

# ---- joining and sending ----


def test_what_is_sent_after_a_join_returned_is_received(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    assert cluster.workers[2].run(kept.send, "room", b"a", b"b") == [1, 1]
    assert cluster.workers[1].run(kept.bodies, "s", 2) == [b"a", b"b"]


def test_a_core_receives_its_own_messages(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    cluster.workers[1].run(kept.send, "room", b"mine")
    assert cluster.workers[1].run(kept.bodies, "s", 1) == [b"mine"]


def test_send_returns_how_many_workers_have_subscribers(cluster):
    assert cluster.workers[1].run(kept.send, "room", b"x") == [0]
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    cluster.workers[1].run(kept.open_subscription, "t", "room")
    assert cluster.workers[1].run(kept.send, "room", b"x") == [1]
    cluster.workers[2].run(kept.open_subscription, "s", "room")
    assert cluster.workers[1].run(kept.send, "room", b"x") == [2]


def test_two_subscriptions_of_one_worker_both_get_every_message(plain):
    worker = plain.workers[1]
    worker.run(kept.open_subscription, "s", "room")
    worker.run(kept.open_subscription, "t", "room")
    plain.workers[2].run(kept.send, "room", b"a", b"b")
    assert worker.run(kept.bodies, "s", 2) == worker.run(kept.bodies, "t", 2) == [b"a", b"b"]


@pytest.mark.parametrize("name", ["x", "x" * 255, "räume:é", "日" * 85, "with space", "*", "a*b"])
def test_names_of_1_to_255_bytes_without_control_characters_are_channels(plain, name):
    assert plain.workers[1].run(classical_round, name, b"body") == [b"body"]


def classical_round(name, *data):
    channels.channel_join(name)
    for body in data:
        channels.channel_send(name, body)
    return [receive_one() for _ in data]


def receive_one():
    fd = channels.channel_fd()
    while True:
        body = channels.channel_recv()
        if body is not None:
            return body
        assert channels.wait_fd_read(fd, timeout=20)


def test_a_name_as_bytes_is_the_same_channel(plain):
    assert plain.workers[1].run(join_and_send, "räume", "räume".encode()) == b"x"


def join_and_send(joined, sent):
    channels.channel_join(joined)
    channels.channel_send(sent, b"x")
    return receive_one()


BAD_NAMES = ["", "x" * 256, "é" * 128, "a\nb", "a\x00", "\x7f", b"\xff\xfe", b"", "\ud800"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_bad_name_is_refused_by_every_call_in_words_that_say_what_to_do(plain, name):
    for call in (channels.channel_join, channels.channel_leave, send_x):
        with pytest.raises(BadChannelName, match="use 1 to 255 bytes"):
            plain.workers[1].run(call, name)
    with pytest.raises((BadChannelName, ValueError)):
        plain.workers[1].run(channels.subscribe, name)
    assert plain.workers[1].run(classical_round, "room", b"still fine") == [b"still fine"]


def send_x(name):
    return channels.channel_send(name, b"x")


@pytest.mark.parametrize("name", [None, 7, ["room"], bytearray(b"room")], ids=ascii)
def test_a_name_of_another_type_is_a_type_error(plain, name):
    for call in (channels.channel_join, channels.channel_leave, send_x, channels.subscribe):
        with pytest.raises(TypeError):
            plain.workers[1].run(call, name)


@pytest.mark.parametrize("data", ["text", None, 7, ["x"]], ids=ascii)
@pytest.mark.parametrize("joined", [False, True])
def test_data_that_is_not_bytes_like_is_a_type_error_and_nothing_is_sent(plain, data, joined):
    if joined:
        plain.workers[2].run(kept.open_subscription, "s", "room")
    with pytest.raises(TypeError, match="encode" if data == "text" else None):
        plain.workers[1].run(channels.channel_send, "room", data)
    if joined:
        assert plain.workers[2].run(kept.waiting, "s") == []


def test_any_bytes_like_object_can_be_sent(plain):
    assert plain.workers[1].run(send_bytes_likes) == [b"", b"ab", b"cd", b"\x01\x02", b"bd"]


def send_bytes_likes():
    channels.channel_join("room")
    data = [b"", bytearray(b"ab"), memoryview(b"cd"), array.array("B", [1, 2])]
    for body in data:
        channels.channel_send("room", body)
    channels.channel_send("room", bytes(memoryview(b"abcd")[1::2]))
    return [receive_one() for _ in range(5)]


def test_there_is_one_order_for_all_subscribers_and_each_sender_keeps_its_own(cluster):
    cluster.add()
    for slot in (1, 2):
        cluster.workers[slot].run(kept.open_subscription, "s", "room")
    for worker in cluster.workers.values():
        worker.start(kept.send_many, "room", 300, b"%d:" % worker.slot)
    for worker in cluster.workers.values():
        worker.result()
    first = cluster.workers[1].run(kept.bodies, "s", 900)
    assert cluster.workers[2].run(kept.bodies, "s", 900) == first
    for slot in cluster.workers:
        mine = [body for body in first if body.startswith(b"%d:" % slot)]
        assert mine == [b"%d:%d" % (slot, number) for number in range(300)]


def test_what_one_sender_sends_on_several_channels_arrives_in_the_order_sent(plain):
    plain.workers[1].run(kept.open_subscription, "s", "a", "b", "c")
    plain.workers[2].run(send_round_robin, 300)
    got = plain.workers[1].run(kept.bodies, "s", 300)
    assert got == [b"%d" % number for number in range(300)]


def send_round_robin(count):
    for number in range(count):
        channels.channel_send("abc"[number % 3], b"%d" % number)


# ---- leaving ----


def test_nothing_is_received_after_leave_returned_not_even_what_waited(cluster):
    worker = cluster.workers[1]
    worker.run(kept.open_subscription, "s", "room", "other")
    cluster.workers[2].run(kept.send, "room", b"1", b"2")
    cluster.workers[2].run(kept.send, "other", b"3")
    wait_until(lambda: worker.run(kept.call, "s", "pending") == 3)
    worker.run(kept.call, "s", "leave", "room")
    cluster.workers[2].run(kept.send, "room", b"4")
    cluster.workers[2].run(kept.send, "other", b"5")
    assert worker.run(kept.bodies, "s", 2) == [b"3", b"5"]
    assert worker.run(kept.waiting, "s") == []
    wait_until(lambda: cluster.workers[2].run(kept.send, "room", b"x") == [0])


def test_who_joins_again_gets_what_is_sent_from_then_on_and_misses_nothing(plain):
    worker = plain.workers[1]
    worker.run(kept.open_subscription, "s", "room")
    plain.workers[2].run(kept.open_subscription, "t", "room")
    worker.run(kept.call, "s", "leave", "room")
    plain.workers[2].run(kept.send, "room", b"between")
    worker.run(kept.call, "s", "join", "room")
    plain.workers[2].run(kept.send, "room", b"after")
    assert worker.run(kept.take, "s", 1) == [("room", b"after", 0)]


def test_leaving_what_was_never_joined_does_nothing(plain):
    plain.workers[1].run(channels.channel_leave, "room")
    plain.workers[1].run(kept.open_subscription, "s", "room")
    plain.workers[1].run(kept.call, "s", "leave", "other", "nothing*")
    plain.workers[2].run(kept.send, "room", b"x")
    assert plain.workers[1].run(kept.bodies, "s", 1) == [b"x"]


def test_a_greenlet_that_ends_however_leaves_what_it_had_joined(cluster):
    worker = cluster.workers[1]
    worker.run(join_and_return)
    wait_until(lambda: cluster.members("room") == [])
    with pytest.raises(ZeroDivisionError):
        worker.run(join_and_raise)
    wait_until(lambda: cluster.members("room") == [])
    worker.run(kept.open_subscription, "s", "room")
    assert cluster.members("room") == [1]
    worker.run(kept.end_holder, "s")
    wait_until(lambda: cluster.members("room") == [])


def join_and_return():
    channels.channel_join("room")


def join_and_raise():
    channels.channel_join("room")
    raise ZeroDivisionError


def test_a_request_core_leaves_everything_when_it_is_unbound(plain):
    assert plain.workers[1].run(request_core_round) == (["a", "b*"], True, True)
    wait_until(lambda: plain.members("a") == [])


def request_core_round():
    core, token = module.bind_request()
    try:
        one = channels.subscribe("a", "b*")
        joined = one.channels
        channels.channel_join("c")
        own = core.main()
    finally:
        module.unbind_request(core, token)
    return joined, one.closed, own.closed


def test_a_dead_workers_subscriptions_end_and_its_successor_inherits_nothing(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room", "pre*")
    plain.workers[2].run(kept.open_subscription, "s", "room")
    plain.workers[2].run(kept.send, "room", b"for both")
    plain.kill(1)
    assert plain.members("room") == [2]
    successor = plain.add(1)
    assert plain.workers[2].run(kept.send, "room", b"for 2") == [1]
    assert plain.workers[2].run(kept.bodies, "s", 2) == [b"for both", b"for 2"]
    successor.run(kept.open_subscription, "s", "other")
    plain.workers[2].run(kept.send, "other", b"new")
    assert successor.run(kept.take, "s", 1) == [("other", b"new", 0)]


# ---- prefixes ----


def test_a_prefix_is_every_channel_that_begins_so_those_that_come_later_included(cluster):
    cluster.workers[2].run(kept.open_subscription, "early", "news:early")
    cluster.workers[1].run(kept.open_subscription, "s", "news:*")
    for name in ("news:early", "news:late", "newspaper", "news:"):
        cluster.workers[2].run(kept.send, name, name.encode())
    assert cluster.workers[1].run(kept.bodies, "s", 3) == [b"news:early", b"news:late", b"news:"]
    assert cluster.workers[1].run(kept.waiting, "s") == []


@pytest.mark.parametrize("order", [("room:1", "room:*"), ("room:*", "room:1")])
def test_prefix_and_name_in_one_subscription_give_each_message_once(cluster, order):
    cluster.workers[1].run(kept.open_subscription, "s", *order)
    cluster.workers[2].run(kept.send, "room:1", b"a", b"b")
    assert cluster.workers[1].run(kept.take, "s", 2) == [("room:1", b"a", 0), ("room:1", b"b", 0)]
    assert cluster.workers[1].run(kept.waiting, "s") == []


@pytest.mark.parametrize("order", [("room:1", "room:*"), ("room:*", "room:1")])
def test_prefix_and_name_in_two_subscriptions_of_a_worker_give_each_of_them_everything(cluster, order):
    worker = cluster.workers[1]
    worker.run(kept.open_subscription, "s", order[0])
    worker.run(kept.open_subscription, "t", order[1])
    cluster.workers[2].run(kept.send, "room:1", b"a", b"b")
    for key in "st":
        assert worker.run(kept.take, key, 2) == [("room:1", b"a", 0), ("room:1", b"b", 0)]
    worker.run(kept.call, "s", "close")
    cluster.workers[2].run(kept.send, "room:1", b"c")
    assert worker.run(kept.take, "t", 1) == [("room:1", b"c", 0)]
    worker.run(kept.call, "t", "close")
    wait_until(lambda: cluster.workers[2].run(kept.send, "room:1", b"x") == [0])


def test_name_and_prefix_joined_at_the_same_moment_give_each_message_once(plain):
    assert plain.workers[1].run(join_both_at_once) == [[b"x"]] * 40


def join_both_at_once():
    found = []
    for number in range(20):
        subscriptions = [channels.subscribe(maxlen=10), channels.subscribe(maxlen=10)]
        joins = [
            gevent.spawn(subscriptions[0].join, f"r{number}:a"),
            gevent.spawn(subscriptions[1].join, f"r{number}:*"),
        ]
        gevent.joinall(joins if number % 2 else joins[::-1])
        channels.channel_send(f"r{number}:a", b"x")
        kept.flush()
        found.extend([message.data for message in each.drain()] for each in subscriptions)
    return found


def test_leaving_the_name_keeps_the_prefix_and_the_other_way_round(plain):
    worker = plain.workers[1]
    for left in ("room:1", "room:*"):
        worker.run(kept.open_subscription, left, "room:1", "room:*")
        worker.run(kept.call, left, "leave", left)
        plain.workers[2].run(kept.send, "room:1", b"x")
        assert worker.run(kept.take, left, 1) == [("room:1", b"x", 0)]
        worker.run(kept.call, left, "close")


def test_with_prefixes_given_a_star_is_a_name_s_own(plain):
    worker = plain.workers[1]
    worker.run(kept.open_subscription, "s", "room:*", prefixes=())
    worker.run(kept.open_subscription, "t", "room:*", prefixes=("room:1", b"x"))
    plain.workers[2].run(kept.send, "room:secret", b"not theirs")
    plain.workers[2].run(kept.send, "room:1", b"prefix")
    plain.workers[2].run(kept.send, "room:*", b"literal")
    assert worker.run(kept.waiting, "s") == [b"literal"]
    assert worker.run(kept.waiting, "t") == [b"prefix", b"literal"]
    assert worker.run(kept.call, "t", "names") == ["room:*"]
    assert worker.run(kept.call, "t", "prefixes") == ["room:1", "x"]
    worker.run(leave_literally, "t", "room:*")
    assert worker.run(kept.call, "t", "channels") == ["room:1*", "x*"]


def leave_literally(key, name):
    kept.subscriptions[key].leave(name, prefixes=())


def test_a_string_for_a_list_of_prefixes_is_refused(plain):
    with pytest.raises(TypeError, match=r"prefixes=\('news:',\)"):
        plain.workers[1].run(kept.open_subscription, "s", prefixes="news:")


def test_overlapping_prefixes_give_each_message_once(plain):
    plain.workers[1].run(kept.open_subscription, "s", "a*", "ab*", "*")
    plain.workers[2].run(kept.send, "abc", b"x")
    assert plain.workers[1].run(kept.bodies, "s", 1) == [b"x"]
    plain.workers[1].run(kept.call, "s", "leave", "a*", "*")
    plain.workers[2].run(kept.send, "abc", b"y")
    plain.workers[2].run(kept.send, "acc", b"z")
    assert plain.workers[1].run(kept.waiting, "s") == [b"y"]


def test_a_subscription_says_what_it_has_joined(plain):
    plain.workers[1].run(kept.open_subscription, "s", "b", "a", "p:*")
    plain.workers[2].run(kept.send, "p:x", b"")
    assert plain.workers[1].run(kept.call, "s", "channels") == ["a", "b", "p:*"]


# ---- bounds ----


def test_drop_oldest_keeps_the_newest_and_counts_exactly(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room", maxlen=10)
    plain.workers[2].run(kept.send_many, "room", 100)
    wait_until(lambda: plain.workers[1].run(kept.call, "s", "dropped") == 90)
    got = plain.workers[1].run(kept.take, "s", 10)
    assert got == [("room", b"%d" % number, 90 if number == 90 else 0) for number in range(90, 100)]


def test_drop_newest_keeps_the_oldest_and_tells_what_is_missed_with_the_next(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room", maxlen=10, overflow="drop_newest")
    plain.workers[2].run(kept.send_many, "room", 100)
    wait_until(lambda: plain.workers[1].run(kept.call, "s", "dropped") == 90)
    assert plain.workers[1].run(kept.take, "s", 10) == [("room", b"%d" % number, 0) for number in range(10)]
    plain.workers[2].run(kept.send, "room", b"next")
    assert plain.workers[1].run(kept.take, "s", 1) == [("room", b"next", 90)]


def test_close_ends_the_subscription_after_what_waits(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room", maxlen=10, overflow="close")
    plain.workers[2].run(kept.send_many, "room", 100)
    wait_until(lambda: plain.workers[1].run(kept.call, "s", "closed"))
    assert plain.workers[1].run(iterate, "s") == [b"%d" % number for number in range(10)]
    with pytest.raises(SubscriptionClosed):
        plain.workers[1].run(kept.call, "s", "join", "room")


def iterate(key):
    return [message.data for message in kept.subscriptions[key]]


def test_bytes_are_a_bound_too_and_one_message_always_fits(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room", max_bytes=1000)
    plain.workers[2].run(kept.send, "room", b"x" * 600, b"y" * 600)
    assert [body[:1] for body in plain.workers[1].run(kept.waiting, "s")] == [b"y"]
    plain.workers[2].run(kept.send, "room", b"z" * 5000)
    assert plain.workers[1].run(kept.take, "s", 1) == [("room", b"z" * 5000, 0)]


@pytest.mark.parametrize("bound", [{"queue_length": 10}, {"queue_bytes": 20}])
def test_a_subscription_that_names_no_bounds_has_those_of_the_settings(bound):
    with Cluster(2, **bound) as cluster:
        cluster.workers[1].run(kept.open_subscription, "s", "room")
        cluster.workers[2].run(kept.send, "room", *(b"%02d" % number for number in range(50)))
        wait_until(lambda: cluster.workers[1].run(kept.call, "s", "dropped") == 40)
        assert cluster.workers[1].run(kept.take, "s", 1) == [("room", b"40", 40)]


def test_each_channels_losses_are_its_own(plain):
    plain.workers[1].run(kept.open_subscription, "s", "a", "b", maxlen=2)
    plain.workers[2].run(kept.send, "a", b"a1", b"a2", b"a3")
    plain.workers[2].run(kept.send, "b", b"b1")
    wait_until(lambda: plain.workers[1].run(kept.call, "s", "dropped") == 2)
    assert plain.workers[1].run(kept.take, "s", 2) == [("a", b"a3", 2), ("b", b"b1", 0)]


@pytest.mark.parametrize("options", [{"maxlen": 0}, {"max_bytes": 0}, {"maxlen": -1}, {"overflow": "drop"}])
def test_bounds_that_cannot_be_are_value_errors(plain, options):
    with pytest.raises(ValueError):
        plain.workers[1].run(kept.open_subscription, "s", "room", **options)


def test_a_full_table_is_an_error_of_that_caller_only():
    with Cluster(2, channels_max=16) as cluster:
        cluster.workers[2].run(kept.open_subscription, "s", "mine")
        with pytest.raises(ChannelTableFull, match="channels_max"):
            cluster.workers[1].run(join_many, 40)
        cluster.workers[2].run(kept.send, "mine", b"still here")
        assert cluster.workers[2].run(kept.bodies, "s", 1) == [b"still here"]


def join_many(count):
    for number in range(count):
        channels.channel_join(f"room:{number}")
