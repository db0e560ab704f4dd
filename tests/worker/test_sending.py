"""Sending from threads and signal handlers, and what is larger than a ring takes at once."""

from __future__ import annotations

import hashlib
import os
import signal
import traceback

import gevent
import gevent.event
import pytest
from gevent import monkey
from gevent.threadpool import ThreadPool

import channels
from channels import alerts
from channels.errors import MessageTooBig, RingFull
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker import kept
from tests.worker.test_alerts import answer_with

KIB, MIB = 1 << 10, 1 << 20


SIZES = [0, 1, 100, 60_000, 65_488, 65_489, 65_536, 70_000, MIB, MIB + 1, 8 * MIB]


@pytest.mark.parametrize("kind", ["thread", "gevent pool"])
def test_threads_can_send_and_learn_how_many_listen(cluster, kind):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    assert cluster.workers[2].run(send_from_threads, kind, 4, 50) == [1] * 200
    got = cluster.workers[1].run(kept.bodies, "s", 200)
    for thread in range(4):
        mine = [body for body in got if body.startswith(b"%d:" % thread)]
        assert mine == [b"%d:%d" % (thread, number) for number in range(50)]


def send_from_threads(kind, threads, count):
    found = []

    def work(thread):
        for number in range(count):
            found.append(channels.channel_send("room", b"%d:%d" % (thread, number)))

    run_in_threads(kind, [lambda thread=thread: work(thread) for thread in range(threads)])
    return found


def run_in_threads(kind, functions):
    if kind == "gevent pool":
        pool = ThreadPool(len(functions))
        for each in [pool.spawn(function) for function in functions]:
            each.get()
        return
    start = monkey.get_original("_thread", "start_new_thread")
    left = [len(functions)]

    def run(function):
        try:
            function()
        except BaseException:
            traceback.print_exc()
        left[0] -= 1

    for function in functions:
        start(run, (function,))
    while left[0]:
        gevent.sleep(0.001)


@pytest.mark.parametrize("kind", ["thread", "gevent pool"])
def test_errors_reach_the_thread_that_sent(plain, kind):
    assert plain.workers[1].run(bad_sends_from_thread, kind) == ["BadChannelName", "TypeError", "MessageTooBig"]


def bad_sends_from_thread(kind):
    found = []

    def work():
        for name, data in (("", b"x"), ("room", "text"), ("room", bytes(65 * MIB))):
            try:
                channels.channel_send(name, data)
            except Exception as error:
                found.append(type(error).__name__)

    run_in_threads(kind, [work])
    return found


def test_a_signal_handler_can_send(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room", maxlen=100_000)
    plain.workers[2].start(send_under_signals, 300)
    sent, handled = plain.workers[2].result(60)
    assert handled > 0
    got = plain.workers[1].run(kept.bodies, "s", sent + handled)
    assert [body for body in got if body != b"signal"] == [b"%d" % number for number in range(sent)]
    assert plain.quarantined() == []


def send_under_signals(count):
    handled = [0]

    def handler(number, frame):
        handled[0] += channels.channel_send("room", b"signal")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    sent = 0
    while handled[0] < count // 10 or sent < count:
        channels.channel_send("room", b"%d" % sent)
        sent += 1
        if sent % 50 == 0:
            gevent.sleep(0.001)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return sent, handled[0]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def pattern(size):
    return (b"%08x" % size * (size // 8 + 1))[:size]


def send_pattern(size):
    return channels.channel_send("room", pattern(size))


def take_digest(key):
    message = kept.subscriptions[key].get(timeout=30)
    return len(message.data), digest(message.data), message.missed


def test_messages_of_any_size_arrive_whole_and_in_order(cluster):
    for worker in cluster.workers.values():
        worker.run(kept.open_subscription, "s", "room")
    for size in SIZES:
        assert cluster.workers[1].run(send_pattern, size) == 2
    for worker in cluster.workers.values():
        for size in SIZES:
            assert worker.run(take_digest, "s") == (size, digest(pattern(size)), 0)


def test_the_largest_message_is_64_mib_and_one_byte_more_is_refused(plain):
    for worker in plain.workers.values():
        worker.run(kept.open_subscription, "s", "room", max_bytes=128 * MIB)
    assert plain.workers[1].run(send_pattern, 64 * MIB) == 2
    with pytest.raises(MessageTooBig, match="message_max"):
        plain.workers[1].run(send_pattern, 64 * MIB + 1)
    plain.workers[1].run(send_pattern, 3)
    for worker in plain.workers.values():
        assert worker.run(take_digest, "s") == (64 * MIB, digest(pattern(64 * MIB)), 0)
        assert worker.run(take_digest, "s") == (3, digest(pattern(3)), 0)


def test_large_and_small_messages_of_several_senders_keep_one_order_for_all(plain):
    plain.add()
    for slot in (1, 2):
        plain.workers[slot].run(kept.open_subscription, "s", "room", maxlen=10_000, max_bytes=1 << 30)
    for worker in plain.workers.values():
        worker.start(send_mixed, worker.slot, 40)
    for worker in plain.workers.values():
        worker.result(60)
    first, second = (plain.workers[slot].run(take_heads, "s", 120) for slot in (1, 2))
    assert first == second
    for slot in plain.workers:
        assert [number for sender, number in first if sender == slot] == list(range(40))


def send_mixed(slot, count):
    for number in range(count):
        channels.channel_send("room", b"%d:%d:" % (slot, number) + bytes(300_000 if number % 4 == slot % 4 else 10))
        gevent.sleep(0)


def take_heads(key, count):
    heads = [kept.subscriptions[key].get(timeout=30) for _ in range(count)]
    assert not any(message.missed for message in heads)
    return [tuple(map(int, message.data.split(b":")[:2])) for message in heads]


def test_a_receiver_that_takes_nothing_of_a_large_message_misses_it_and_is_told():
    with Cluster(3, stall_timeout=0.1) as cluster:
        for slot in (2, 3):
            cluster.workers[slot].run(kept.open_subscription, "s", "room")
        cluster.workers[2].signal(signal.SIGSTOP)
        try:
            cluster.workers[1].run(send_pattern, MIB)
            cluster.workers[1].run(kept.send, "room", b"next")
        finally:
            cluster.workers[2].signal(signal.SIGCONT)
        assert cluster.workers[3].run(take_digest, "s") == (MIB, digest(pattern(MIB)), 0)
        assert cluster.workers[3].run(kept.take, "s", 1) == [("room", b"next", 0)]
        assert cluster.workers[2].run(kept.take, "s", 1) == [("room", b"next", 1)]


def test_a_large_message_that_waits_for_the_ring_of_somebody_who_dies_reaches_the_others():
    with Cluster(3, stall_timeout=60, send_timeout=60) as cluster:
        for slot in (2, 3):
            cluster.workers[slot].run(kept.open_subscription, "s", "room")
        cluster.workers[2].signal(signal.SIGSTOP)
        cluster.workers[1].start(send_pattern, MIB)
        wait_until(lambda: cluster.workers[1].run(waiting_for_room, 2) == 1)
        cluster.kill(2)
        assert cluster.workers[1].result() == 2
        cluster.workers[1].run(kept.send, "room", b"next")
        assert cluster.workers[3].run(take_digest, "s") == (MIB, digest(pattern(MIB)), 0)
        assert cluster.workers[3].run(kept.take, "s", 1) == [("room", b"next", 0)]


def test_a_large_message_sent_before_a_worker_joined_is_not_among_what_it_missed(plain):
    plain.add()
    plain.workers[2].run(kept.open_subscription, "s", "room")
    plain.workers[2].signal(signal.SIGSTOP)
    try:
        plain.workers[1].start(send_pattern, MIB)
        wait_until(lambda: plain.workers[1].run(waiting_for_room, 2) == 1)
        plain.workers[3].run(kept.open_subscription, "s", "room")
        plain.workers[3].run(kept.send, "room", b"not read yet")
    finally:
        plain.workers[2].signal(signal.SIGCONT)
    assert plain.workers[1].result() == 1
    plain.workers[1].run(kept.send, "room", b"next")
    assert plain.workers[3].run(kept.take, "s", 2) == [("room", b"not read yet", 0), ("room", b"next", 0)]


def hold_back_orders():
    """From here on what this worker sends in fragments gets its place when `release_orders` says so."""
    room = fabric.current().room
    kept.orders, with_up = gevent.event.Event(), room.with_up
    kept.held_back = 0

    def later(*args):
        kept.held_back += 1
        kept.orders.wait()
        return with_up(*args)

    room.with_up = later


def held_back():
    return kept.held_back


def release_orders():
    kept.orders.set()


def test_a_large_message_for_a_worker_that_died_is_not_missed_by_the_next_in_its_slot(plain):
    plain.add()
    for slot in (2, 3):
        plain.workers[slot].run(kept.open_subscription, "s", "room")
    plain.workers[1].run(hold_back_orders)
    plain.workers[1].start(send_pattern, MIB // 8)
    wait_until(lambda: plain.workers[1].run(held_back) == 1)
    plain.kill(2)
    plain.add(2)
    plain.workers[2].run(kept.open_subscription, "s", "room")
    plain.workers[1].run(release_orders)
    assert plain.workers[1].result() == 2
    plain.workers[1].run(kept.send, "room", b"next")
    assert plain.workers[2].run(kept.take, "s", 1) == [("room", b"next", 0)]


def expire_when(flag):
    """Look for what is too old with a whole body in the ring that nobody has taken out yet."""
    sleep = monkey.get_original("time", "sleep")
    while not os.path.exists(flag):
        sleep(0.001)
    fabric.current().endpoint.expire(10**10, 10**10)


def test_a_body_that_comes_while_the_old_ones_are_dropped_is_kept(tmp_path):
    with Cluster(2, alert_ring_size=MIB) as cluster:
        sender, receiver = cluster.workers.values()
        receiver.run(kept.open_subscription, "s", "room")
        sender.run(hold_back_orders)
        receiver.start(expire_when, tmp_path / "all of it is in the ring")
        sender.start(send_pattern, MIB // 8)
        wait_until(lambda: sender.run(held_back) == 1)
        (tmp_path / "all of it is in the ring").touch()
        receiver.result()
        sender.run(release_orders)
        assert receiver.run(take_digest, "s") == (MIB // 8, digest(pattern(MIB // 8)), 0)


def stand_still(seconds):
    """Eight large messages at once; none of them may go on while the whole process computes."""
    sent = [gevent.spawn(channels.channel_send, "room", pattern(MIB + i)) for i in range(8)]
    gevent.sleep(0.05)
    monkey.get_original("time", "sleep")(seconds)
    gevent.joinall(sent)
    return [each.value for each in sent]


def test_a_receiver_is_not_given_up_because_its_sender_stood_still():
    with Cluster(2, stall_timeout=0.2) as cluster:
        cluster.workers[2].run(kept.open_subscription, "s", "room")
        assert cluster.workers[1].run(stand_still, 0.5) == [1] * 8
        assert sum(cluster.workers[2].run(take_digest, "s")[2] for _ in range(8)) == 0


def send_without_a_place(name, size):
    """The body is out, and the router has no room for the record that gives it its place."""
    room = fabric.current().room
    with_up, room.with_up = room.with_up, lambda *_: False
    try:
        with pytest.raises(RingFull):
            channels.channel_send(name, bytes(size))
    finally:
        room.with_up = with_up


def test_a_whole_body_of_a_send_that_failed_makes_room_for_the_next():
    with Cluster(3, assembly_max=MIB) as cluster:
        cluster.workers[1].run(kept.open_subscription, "s", "room")
        cluster.workers[2].run(send_without_a_place, "room", MIB)
        cluster.workers[3].run(kept.send, "room", bytes(MIB))
        assert cluster.workers[1].run(kept.take, "s", 1) == [("room", bytes(MIB), 0)]


def test_a_large_message_whose_row_changes_hands_meanwhile_goes_to_who_listens_now(plain):
    plain.workers[2].run(kept.open_subscription, "s", "room")
    plain.workers[1].run(hold_back_orders)
    plain.workers[1].start(send_pattern, MIB // 8)
    wait_until(lambda: plain.workers[1].run(held_back) == 1)
    plain.workers[2].run(kept.call, "s", "close")
    wait_until(lambda: plain.members("room") == [])
    plain.workers[2].run(kept.open_subscription, "again", "room")
    plain.workers[1].run(release_orders)
    assert plain.workers[1].result() == 1
    assert plain.workers[2].run(take_digest, "again") == (MIB // 8, digest(pattern(MIB // 8)), 0)


def waiting_for_room(slot):
    return len(fabric.current().room._peers.get(slot, ()))


def test_of_a_sender_killed_in_the_middle_of_a_large_message_nothing_is_received(plain):
    plain.add()
    plain.workers[2].run(kept.open_subscription, "s", "room")
    plain.workers[2].signal(signal.SIGSTOP)
    plain.workers[1].start(send_pattern, 8 * MIB)
    wait_until(lambda: plain.workers[1].run(waiting_for_room, 2) == 1)
    plain.workers[3].run(kept.send, "room", b"before")
    plain.workers[1].signal(signal.SIGKILL)
    plain.workers[2].signal(signal.SIGCONT)
    plain.bury(1)
    plain.workers[3].run(kept.send, "room", b"after")
    assert plain.workers[2].run(kept.take, "s", 2) == [("room", b"before", 0), ("room", b"after", 0)]


def test_a_sender_killed_in_the_middle_of_a_large_message_leaves_no_part_of_it_with_its_receiver():
    with Cluster(3, assembly_max=MIB, alert_ring_size=64 * KIB) as cluster:
        one, two, three = cluster.workers.values()
        one.run(kept.open_subscription, "s", "room")
        one.signal(signal.SIGSTOP)
        try:
            two.run(begin_sending, MIB)
            wait_until(lambda: two.run(waiting_for_room, 1) == 1)
            two.run(end_sending)
        finally:
            one.signal(signal.SIGCONT)
        wait_until(lambda: two.run(untold) == 0)
        one.run(answer_with, "behind it", b"")
        two.run(alerts.call, one.pid, "behind it", b"", timeout=20)
        three.run(kept.send, "room", bytes(MIB))  # there is room for one such body
        assert one.run(kept.take, "s", 1) == [("room", bytes(MIB), 0)]


def untold():
    return len(fabric.current().sender._aborts)


def begin_sending(size):
    kept.sender = gevent.spawn(channels.channel_send, "room", bytes(size))


def end_sending():
    kept.sender.kill()


def die_when_the_body_is_out(name, size):
    """Its receivers have all of it, and nothing ever gives it its place."""
    fabric.current().room.with_up = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    channels.channel_send(name, bytes(size))


def test_a_whole_body_goes_with_its_sender_when_nothing_gave_it_a_place():
    with Cluster(3, assembly_max=MIB) as cluster:
        cluster.workers[1].run(kept.open_subscription, "s", "room")
        cluster.workers[2].start(die_when_the_body_is_out, "room", MIB)
        cluster.bury(2)
        cluster.workers[3].run(kept.send, "room", bytes(MIB))
        assert cluster.workers[1].run(kept.take, "s", 1) == [("room", bytes(MIB), 0)]


def test_a_body_that_takes_more_than_a_worker_may_be_receiving_is_missed_there_and_told():
    with Cluster(3, assembly_max=MIB) as cluster:
        cluster.workers[1].run(kept.open_subscription, "s", "room")
        cluster.workers[2].run(kept.send, "room", bytes(4 * MIB), b"after", bytes(MIB // 2))
        assert cluster.workers[1].run(kept.take, "s", 2) == [("room", b"after", 1), ("room", bytes(MIB // 2), 0)]
