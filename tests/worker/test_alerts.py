"""Alerts and calls between real workers."""

from __future__ import annotations

import os
import signal

import gevent
import gevent.event
import pytest

import channels
from channels import alerts
from channels.errors import (
    AlertLoop,
    BadAlertName,
    MessageTooBig,
    RemoteError,
    RingFull,
    WorkerGone,
)
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker import kept

MIB = 1 << 20
heard: list = []


@pytest.fixture(params=[False, True], ids=["plain", "monkey-patched"])
def cluster(request):
    with Cluster(3, monkey=request.param) as made:
        yield made


# ---- run in the workers ----


def listen(*names, **options):
    for name in names:
        alerts.receive(name, lambda data, name=name: heard.append((name, data, alerts.sender)), **options)


def heard_so_far():
    return list(heard)


def hear(count):
    while len(heard) < count:
        gevent.sleep(0.001)
    return list(heard)


def send(pid, name, *data, **options):
    for body in data:
        alerts.send(pid, name, body, **options)


def broadcast(name, data):
    alerts.broadcast(name, data)


def answer_with(name, value):
    alerts.receive(name, lambda data: value)


def counter(name):
    mine = fabric.current()
    return mine.segment.worker_counters(mine.endpoint.slot)[name]


# ---- sending ----


def test_an_alert_reaches_the_handler_of_its_name_with_its_sender(cluster):
    one, two, three = cluster.workers.values()
    two.run(listen, "hello", "other")
    three.run(listen, "hello")
    one.run(send, two.pid, "hello", b"data")
    assert two.run(hear, 1) == [("hello", b"data", one.pid)]
    assert three.run(heard_so_far) == []


def test_a_worker_is_addressed_by_its_number_too(plain):
    one, two = plain.workers.values()
    two.run(listen, "hello")
    one.run(send, None, "hello", b"x", worker=two.slot)
    assert two.run(hear, 1) == [("hello", b"x", one.pid)]


def test_an_alert_to_oneself_arrives(cluster):
    one = cluster.workers[1]
    one.run(listen, "hello")
    one.run(send, one.pid, "hello", b"x")
    assert one.run(hear, 1) == [("hello", b"x", one.pid)]


def test_a_broadcast_reaches_every_worker_the_sender_included(cluster):
    for worker in cluster.workers.values():
        worker.run(listen, "hello")
    newest = cluster.add()
    newest.run(listen, "hello")
    cluster.workers[2].run(broadcast, "hello", b"all")
    for worker in cluster.workers.values():
        assert worker.run(hear, 1) == [("hello", b"all", cluster.workers[2].pid)]


def test_a_broadcast_reaches_a_worker_that_became_ready_just_now(plain):
    """Nobody waits until the news of it has gone round."""
    for _ in range(20):
        newest = plain.add()
        newest.run(listen, "hello")
        plain.workers[1].run(broadcast, "hello", b"x")
        assert newest.run(hear, 1) == [("hello", b"x", plain.workers[1].pid)]
        plain.kill(newest.slot)


def test_order_is_kept_from_one_sender_to_one_receiver(plain):
    one, two = plain.workers.values()
    two.run(listen, "a")
    one.run(send, two.pid, "a", *(b"%d" % number for number in range(5000)))
    assert [data for _, data, _ in two.run(hear, 5000)] == [b"%d" % number for number in range(5000)]


@pytest.mark.parametrize("name", ["x", "x" * 254, "é" * 127, b"bytes"])
def test_names_of_1_to_254_bytes_are_names(plain, name):
    one, two = plain.workers.values()
    two.run(listen, name)
    one.run(send, two.pid, name, b"x")
    assert two.run(hear, 1) == [(name, b"x", one.pid)]


@pytest.mark.parametrize("name", ["", "x" * 255, "é" * 128, "\ud800"], ids=ascii)
def test_other_names_are_refused_and_nothing_is_sent(plain, name):
    one, two = plain.workers.values()
    for call in (send, alerts.call):
        with pytest.raises(BadAlertName, match="1 to 254 bytes"):
            one.run(call, two.pid, name, b"x")
    with pytest.raises(BadAlertName):
        one.run(broadcast, name, b"x")
    with pytest.raises(BadAlertName):
        one.run(alerts.receive, name, print)


@pytest.mark.parametrize("data", ["text", None, 5])
def test_data_that_is_not_bytes_like_is_a_type_error(plain, data):
    one, two = plain.workers.values()
    for pid in (one.pid, two.pid):
        with pytest.raises(TypeError):
            one.run(send, pid, "hello", data)
    with pytest.raises(TypeError):
        one.run(broadcast, "hello", data)


def test_more_than_message_max_is_refused(plain):
    one, two = plain.workers.values()
    for pid in (one.pid, two.pid):
        with pytest.raises(MessageTooBig, match="message_max"):
            one.run(send_zeros, pid, 64 * MIB + 1)


def send_zeros(pid, size):
    alerts.send(pid, "zeros", bytes(size))


@pytest.mark.parametrize("pid", [0, -1, 1, 999_999_999, None, "x", os.getpid()])
def test_a_pid_that_is_no_live_worker_is_worker_gone(plain, pid):
    for call in (send, alerts.call):
        with pytest.raises(WorkerGone, match="lists those that are"):
            plain.workers[1].run(call, pid, "hello", b"x")


def test_a_dead_workers_pid_and_number_are_worker_gone(plain):
    pid = plain.workers[2].pid
    plain.kill(2)
    for address in ({"pid": pid}, {"pid": None, "worker": 2}):
        with pytest.raises(WorkerGone):
            plain.workers[1].run(alerts.send, name="hello", data=b"x", **address)
    successor = plain.add(2)
    successor.run(listen, "hello")
    with pytest.raises(WorkerGone):
        plain.workers[1].run(send, pid, "hello", b"x")
    plain.workers[1].run(send, successor.pid, "hello", b"for the successor")
    assert successor.run(hear, 1) == [("hello", b"for the successor", plain.workers[1].pid)]


def test_who_waits_for_room_in_the_ring_of_somebody_who_dies_is_told_that_it_is_gone(plain):
    one, two = plain.workers.values()
    two.signal(signal.SIGSTOP)
    one.run(send_until_full, two.pid)
    one.start(send, two.pid, "x", b"waits", timeout=60)
    wait_until(lambda: one.run(waiting_for, two.slot) == 1)
    plain.kill(two.slot)
    with pytest.raises(WorkerGone):
        one.result()
    assert one.run(waiting_for, two.slot) == 0


def answer_never():
    alerts.receive("never", lambda data: gevent.sleep(1000), ordered=False)


@pytest.mark.parametrize("again", [False, True])
def test_a_call_ends_though_the_word_of_its_workers_death_was_lost_with_a_router(again):
    with Cluster(3) as cluster:
        one, two, three = cluster.workers.values()
        two.run(answer_never)
        one.run(kept.open_subscription, "s", "room")
        one.start(alerts.call, two.pid, "never", b"", timeout=None)
        one.run(gevent.sleep, 0.01)  # and has sent it
        one.signal(signal.SIGSTOP)
        try:
            while three.run(counted, "spilled") == 0:
                three.run(kept.send_many, "room", 500, b"x" * 1000)
            cluster.kill(two.slot)
            if again:
                cluster.add(two.slot)
            cluster.kill_router()
        finally:
            one.signal(signal.SIGCONT)
        with pytest.raises(WorkerGone):
            one.result(10)


def counted(name):
    return fabric.current().segment.router_counters()[name]


@pytest.mark.parametrize("size", [0, 1, 4000, 5000, 16_384, MIB, 64 * MIB])
def test_alerts_of_any_size_arrive_whole(plain, size):
    one, two = plain.workers.values()
    two.run(listen_sizes)
    one.run(send_zeros, two.pid, size)
    one.run(send_zeros, one.pid, 0)
    assert two.run(hear, 1) == [(size, size)]


def listen_sizes():
    alerts.receive("zeros", lambda data: heard.append((len(data), data.count(0))))


def test_a_full_receiver_is_ring_full_and_goes_on_later():
    with Cluster(2) as cluster:
        one, two = cluster.workers.values()
        two.run(listen, "x")
        two.signal(signal.SIGSTOP)
        try:
            sent = one.run(send_until_full, two.pid)
            with pytest.raises(RingFull):
                one.run(send, two.pid, "x", bytes(MIB), timeout=0.05)
        finally:
            two.signal(signal.SIGCONT)
        one.run(send, two.pid, "x", b"end")
        assert [data for _, data, _ in two.run(hear, sent + 1)] == [b"%d" % n for n in range(sent)] + [b"end"]


def send_until_full(pid):
    sent = 0
    try:
        while True:
            alerts.send(pid, "x", b"%d" % sent, timeout=0)
            sent += 1
    except RingFull:
        return sent


def test_small_alerts_of_other_greenlets_are_not_held_up_behind_a_large_one(plain):
    one, two = plain.workers.values()
    two.run(listen_sizes)
    two.run(listen, "small")
    two.signal(signal.SIGSTOP)
    try:
        one.start(send_zeros, two.pid, 8 * MIB)
        wait_until(lambda: one.run(waiting_for, two.slot) == 1)
        one.start(send, two.pid, "small", b"x")
        wait_until(lambda: one.run(waiting_for, two.slot) == 2)
    finally:
        two.signal(signal.SIGCONT)
    assert [entry[0] for entry in two.run(hear, 2)] == ["small", 8 * MIB]
    assert one.result() is one.result() is None


def waiting_for(slot):
    return len(fabric.current().room._peers.get(slot, ()))


# ---- receiving ----


def test_receive_takes_a_dict_works_as_a_decorator_and_none_removes(plain):
    one, two = plain.workers.values()
    two.run(register_in_every_way)
    for name in "abcd":
        one.run(send, two.pid, name, b"1")
    one.run(send, two.pid, "end", b"1")
    assert [entry for entry in two.run(hear, 4)] == ["a1", "b1", "c1", "end"]
    assert two.run(counter, "alerts_unhandled") == 1


def register_in_every_way():
    alerts.receive({"a": lambda data: heard.append("a1"), "b": lambda data: heard.append("b1"), "d": print})

    @alerts.receive("c")
    def on_c(data):
        heard.append("c1")

    assert on_c.__name__ == "on_c"
    alerts.receive("d", None)
    alerts.receive("end", lambda data: heard.append("end"))


def test_a_handler_that_is_not_callable_is_refused(plain):
    with pytest.raises(TypeError, match="callable"):
        plain.workers[1].run(alerts.receive, "hello", 5)


def test_a_later_handler_replaces_the_former(plain):
    one, two = plain.workers.values()
    two.run(answer_with, "q", b"1")
    assert one.run(alerts.call, two.pid, "q", b"", timeout=20) == b"1"
    two.run(answer_with, "q", b"2")
    assert one.run(alerts.call, two.pid, "q", b"", timeout=20) == b"2"


@pytest.mark.parametrize("successor", [b"second", None])
def test_calls_that_wait_for_a_handler_go_to_its_successor_and_are_refused_when_there_is_none(plain, successor):
    one, two = plain.workers.values()
    two.run(hold_calls)
    for _ in range(2):
        one.start(alerts.call, two.pid, "held", b"", timeout=20)
    wait_until(lambda: two.run(counter, "alerts_received") == 2)
    two.run(release_calls, successor)
    if successor is None:
        with pytest.raises(RemoteError, match="no handler"):
            one.result()
        assert one.result() == b"first"
    else:
        assert [one.result(), one.result()] == [b"first", b"second"]


def hold_calls():
    global held
    held = gevent.event.Event()
    alerts.receive("held", lambda data: held.wait() and b"first")


def release_calls(successor):
    alerts.receive("held", None if successor is None else lambda data: successor)
    gevent.sleep(0.01)
    held.set()


def test_handlers_of_a_name_run_one_after_the_other_unless_told_otherwise(plain):
    one, two = plain.workers.values()
    two.run(register_slow)
    one.run(send, two.pid, "ordered", b"1", b"2")
    assert two.run(hear, 4) == ["begin 1", "end 1", "begin 2", "end 2"]
    one.run(send, two.pid, "free", b"3", b"4")
    assert two.run(hear, 8)[4:] == ["begin 3", "begin 4", "end 3", "end 4"]


def register_slow():
    def slow(data):
        heard.append(f"begin {data.decode()}")
        gevent.sleep(0.01)
        heard.append(f"end {data.decode()}")

    alerts.receive("ordered", slow)
    alerts.receive("free", slow, ordered=False)


def test_a_handler_that_raises_harms_nothing(cluster):
    one, two, _ = cluster.workers.values()
    two.run(register_raising)
    one.run(send, two.pid, "raises", b"1", b"2")
    one.run(send, two.pid, "fine", b"3")
    assert sorted(two.run(hear, 3)) == [b"1", b"2", b"3"]


def register_raising():
    def raises(data):
        heard.append(data)
        raise ZeroDivisionError("as it should")

    alerts.receive("raises", raises)
    alerts.receive("fine", heard.append)


def test_reply_goes_back_to_the_sender(cluster):
    one, two, _ = cluster.workers.values()
    one.run(listen, "hello-response")
    two.run(register_reply)
    one.run(send, two.pid, "hello", b"there")
    assert one.run(hear, 1) == [("hello-response", b"you said there", two.pid)]


def register_reply():
    alerts.receive("hello", lambda data: alerts.reply("hello-response", b"you said " + data))


def test_outside_a_handler_there_is_no_reply_and_no_sender(plain):
    with pytest.raises(RuntimeError, match="inside a handler only"):
        plain.workers[1].run(alerts.reply, "hello", b"")
    assert plain.workers[1].run(read_sender) is None


def read_sender():
    return alerts.sender


def test_what_waits_for_a_slow_handler_is_bounded_and_counted():
    with Cluster(2, alert_queue_length=10) as cluster:
        one, two = cluster.workers.values()
        two.run(register_blocked)
        one.run(send, two.pid, "blocked", *(b"%d" % number for number in range(50)))
        wait_until(lambda: two.run(counter, "alerts_received") + two.run(counter, "alerts_dropped") == 50)
        one.run(send, two.pid, "blocked", b"takes the place of the one that is being handled")
        wait_until(lambda: two.run(counter, "alerts_dropped") == 40)
        assert two.run(counter, "alerts_received") == 11
        with pytest.raises(RemoteError, match="too many wait"):
            one.run(alerts.call, two.pid, "blocked", b"", timeout=20)


def test_what_waits_for_a_slow_handler_is_bounded_in_bytes_too():
    with Cluster(2, alert_queue_bytes=10_000) as cluster:
        one, two = cluster.workers.values()
        two.run(register_blocked)
        one.run(send, two.pid, "blocked", b"in hand")
        wait_until(lambda: two.run(counter, "alerts_received") == 1)
        one.run(send, two.pid, "blocked", *(bytes(1000) for _ in range(50)))
        wait_until(lambda: two.run(counter, "alerts_received") + two.run(counter, "alerts_dropped") == 51)
        assert two.run(counter, "alerts_received") in (11, 12)  # the first is taken by its handler, or waits too


def register_blocked():
    alerts.receive("blocked", lambda data: gevent.sleep(1000))


def test_alerts_that_cause_alerts_for_ever_are_stopped():
    with Cluster(2, alert_hops_max=5) as cluster:
        one, two = cluster.workers.values()
        for worker in (one, two):
            worker.run(register_ping_pong)
        one.run(send, two.pid, "ping", b"")
        wait_until(lambda: one.run(heard_so_far) + two.run(heard_so_far) == ["AlertLoop"])


def register_ping_pong():
    def ping(data):
        try:
            alerts.reply("ping", data)
        except AlertLoop as error:
            heard.append(type(error).__name__)

    alerts.receive("ping", ping)


def test_alerts_and_messages_do_not_disturb_each_other(plain):
    one, two = plain.workers.values()
    two.run(listen, "a")
    two.start(count_messages, 2000)
    wait_until(lambda: one.run(channels.channel_send, "room", b"first") == 1)
    one.run(send_both, two.pid, 2000)
    assert two.result() >= 2000
    assert len(two.run(hear, 2000)) == 2000


def count_messages(count):
    with channels.subscribe("room", maxlen=100_000) as mine:
        for got, message in enumerate(mine, 1):
            assert not message.missed
            if message.data == b"%d" % (count - 1):
                return got


def send_both(pid, count):
    for number in range(count):
        channels.channel_send("room", b"%d" % number)
        alerts.send(pid, "a", b"%d" % number)
