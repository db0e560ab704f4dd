"""Sending from wherever, large or small, when there is room and when there is none."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import traceback

import gevent
import pytest
from gevent import monkey
from gevent.threadpool import ThreadPool

import channels
from channels import alerts
from channels.errors import ForkedProcess, MessageTooBig, NotAttached, RingFull
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker import kept

MIB = 1 << 20


@pytest.fixture(params=[False, True], ids=["plain", "monkey-patched"])
def cluster(request):
    with Cluster(2, monkey=request.param) as made:
        yield made


@pytest.fixture
def plain():
    with Cluster(2) as made:
        yield made


# ---- where it may be called ----


@pytest.mark.parametrize(
    "call",
    [
        lambda: channels.channel_send("room", b"x"),
        lambda: channels.channel_join("room"),
        lambda: channels.channel_leave("room"),
        channels.channel_recv,
        channels.channel_fd,
        lambda: channels.subscribe("room"),
        lambda: channels.publish("room", "x"),
        lambda: channels.publish("room", "x", event="e"),
        channels.worker_id,
        channels.workers,
        lambda: alerts.send(1, "hello", b""),
        lambda: alerts.broadcast("hello", b""),
        lambda: alerts.receive("hello", print),
        lambda: alerts.call(1, "hello", b""),
        lambda: alerts.call_all("hello", b""),
        lambda: alerts.reply("hello", b""),
    ],
)
def test_a_process_that_never_attached_is_told_to_use_a_worker(call):
    with pytest.raises(NotAttached, match="inside a worker only"):
        call()


def test_every_call_in_a_forked_child_is_refused_and_the_parent_is_undisturbed(cluster):
    worker = cluster.workers[1]
    worker.run(kept.open_subscription, "s", "room")
    assert worker.run(fork_and_try) == ["ForkedProcess"] * 8
    cluster.workers[2].run(kept.send_many, "room", 1000)
    assert worker.run(kept.bodies, "s", 1000) == [b"%d" % number for number in range(1000)]
    assert cluster.quarantined() == []


def fork_and_try():
    read, write = os.pipe()
    sub = kept.subscriptions["s"]
    calls = [
        lambda: channels.channel_send("room", b"x"),
        lambda: channels.channel_join("other"),
        channels.channel_recv,
        lambda: channels.subscribe("other"),
        lambda: channels.publish("room", b"x", event="e"),
        lambda: alerts.broadcast("hello", b""),
        channels.worker_id,
        sub.get_nowait,
    ]
    pid = os.fork()
    if pid == 0:
        try:
            for call in calls:
                try:
                    call()
                    outcome = "done"
                except ForkedProcess:
                    outcome = "ForkedProcess"
                except BaseException as error:
                    outcome = f"{type(error).__name__}: {error}"
                os.write(write, outcome.encode() + b"\n")
        finally:
            os._exit(0)
    os.close(write)
    gevent.sleep(0)  # gevent's close() is done by the loop
    os.waitpid(pid, 0)
    with os.fdopen(read) as lines:
        return lines.read().split("\n")[:-1]


def test_a_multiprocessing_child_harms_nobody(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room")
    assert plain.workers[1].run(run_multiprocessing) == 42
    plain.workers[2].run(kept.send, "room", b"after")
    assert plain.workers[1].run(kept.bodies, "s", 1) == [b"after"]


def run_multiprocessing():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=theirs.send, args=(42,))
    child.start()
    value = ours.recv()
    child.join()
    return value


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


def test_joining_from_a_thread_is_refused_in_words(plain):
    with pytest.raises(RuntimeError, match="thread"):
        plain.workers[1].run(join_in_pool)


def join_in_pool():
    return ThreadPool(1).apply(channels.channel_join, ("room",))


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


# ---- no room ----


def fill(body):
    """Until nothing more goes into the ring; how many went."""
    count = 0
    try:
        while True:
            channels.channel_send("room", body, timeout=0)
            count += 1
    except RingFull as error:
        assert "nothing was sent" in str(error)
        return count


def test_a_send_without_room_is_definitely_not_sent(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room", maxlen=1 << 20)
    cluster.router.signal(signal.SIGSTOP)
    try:
        filled = cluster.workers[2].run(fill, b"x" * 100)
        assert cluster.workers[2].run(fill, b"y") in range(3)
        with pytest.raises(RingFull, match="nothing was sent"):
            cluster.workers[2].run(send_big, 0.05)
        assert cluster.workers[2].run(send_under_gevent_timeout) == "Timeout"
        assert cluster.workers[2].run(killed_in_send)
    finally:
        cluster.router.signal(signal.SIGCONT)
    cluster.workers[2].run(kept.send, "room", b"end")
    got = []
    while not got or got[-1] != b"end":
        got += cluster.workers[1].run(kept.bodies, "s", 1)
    assert got.count(b"x" * 100) == filled
    assert not [body for body in got if body.startswith(b"big")]


def send_big(timeout):
    channels.channel_send("room", b"big" * 1000, timeout=timeout)


def send_under_gevent_timeout():
    try:
        with gevent.Timeout(0.05):
            channels.channel_send("room", b"big" * 1000, timeout=None)
    except gevent.Timeout:
        return "Timeout"


def killed_in_send():
    sender = gevent.spawn(channels.channel_send, "room", b"big" * 1000, timeout=None)
    gevent.sleep(0.02)
    sender.kill()
    return sender.dead


def test_blocked_senders_go_on_in_their_order_when_there_is_room_again(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room", maxlen=1 << 20)
    cluster.router.signal(signal.SIGSTOP)
    try:
        filled = cluster.workers[2].run(fill, b"x" * 100)
        cluster.workers[2].start(send_in_turn, 20)
        wait_until(lambda: cluster.workers[2].run(waiting_senders) == 20)
    finally:
        cluster.router.signal(signal.SIGCONT)
    assert cluster.workers[2].result() == [1] * 20
    got = cluster.workers[1].run(kept.bodies, "s", filled + 20)
    assert got[filled:] == [b"z%d" % number + b"." * 2000 for number in range(20)]


def send_in_turn(count):
    senders = [
        gevent.spawn(channels.channel_send, "room", b"z%d" % number + b"." * 2000, timeout=None)
        for number in range(count)
    ]
    gevent.joinall(senders)
    return [sender.value for sender in senders]


def waiting_senders():
    return len(fabric.current()._room_up)


# ---- large ----

SIZES = [0, 1, 100, 60_000, 65_488, 65_489, 65_536, 70_000, MIB, MIB + 1, 8 * MIB]


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


def test_small_messages_of_other_greenlets_are_not_held_up_behind_a_large_one(plain):
    """The receiver is stopped in the middle of a large body; to others a small one goes."""
    plain.add()
    plain.workers[2].run(kept.open_subscription, "s", "large")
    plain.workers[3].run(kept.open_subscription, "s", "small")
    plain.workers[2].signal(signal.SIGSTOP)
    try:
        plain.workers[1].start(channels.channel_send, "large", bytes(MIB))
        plain.workers[1].start(kept.send, "small", b"overtakes")
        assert plain.workers[3].run(kept.bodies, "s", 1) == [b"overtakes"]
    finally:
        plain.workers[2].signal(signal.SIGCONT)
    assert {repr(plain.workers[1].result()), repr(plain.workers[1].result())} == {"1", "[1]"}


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


def waiting_for_room(slot):
    return len(fabric.current()._room_peers.get(slot, ()))


def test_of_a_sender_killed_in_the_middle_of_a_large_message_nothing_is_received(plain):
    plain.add()
    plain.workers[2].run(kept.open_subscription, "s", "room")
    plain.workers[2].signal(signal.SIGSTOP)
    plain.workers[1].start(send_pattern, 8 * MIB)
    plain.workers[3].run(kept.send, "room", b"before")
    plain.workers[1].signal(signal.SIGKILL)
    plain.workers[2].signal(signal.SIGCONT)
    plain.bury(1)
    plain.workers[3].run(kept.send, "room", b"after")
    assert plain.workers[2].run(kept.take, "s", 2) == [("room", b"before", 0), ("room", b"after", 0)]


# ---- the fabric around it ----


def test_workers_that_attach_at_the_same_time_all_know_each_other():
    with Cluster(max_workers=8) as cluster:
        begun = [cluster.begin() for _ in range(6)]
        for worker in begun:
            assert worker.result() == "ready"
        for worker in begun:
            everyone = {other.slot for other in begun} - {worker.slot}
            wait_until(lambda worker=worker, everyone=everyone: set(worker.run(peers)) == everyone)


def peers():
    return fabric.current().endpoint.peers


def test_a_killed_router_is_replaced_and_nothing_that_was_sent_is_lost(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room", "pre*", maxlen=1 << 20)
    cluster.workers[2].start(send_with_pauses, 3000)
    for _ in range(5):
        cluster.kill_router()
    cluster.workers[2].result(60)
    assert cluster.workers[1].run(kept.bodies, "s", 3000) == [b"%d" % number for number in range(3000)]
    cluster.workers[2].run(kept.open_subscription, "t", "new")
    cluster.workers[1].run(kept.send, "new", b"x")
    assert cluster.workers[2].run(kept.bodies, "t", 1) == [b"x"]
    cluster.workers[2].run(kept.send, "prefix", b"y")
    assert cluster.workers[1].run(kept.bodies, "s", 1) == [b"y"]


def send_with_pauses(count):
    for number in range(count):
        channels.channel_send("room", b"%d" % number)
        if number % 10 == 0:
            gevent.sleep(0.001)


def test_a_join_that_a_dead_router_had_not_answered_is_answered_by_the_next(plain):
    plain.router.signal(signal.SIGSTOP)
    plain.workers[1].start(kept.open_subscription, "s", "room")
    wait_until(lambda: plain.workers[1].run(questions) == 1)
    plain.kill_router()
    assert plain.workers[1].result() is None
    plain.workers[2].run(kept.send, "room", b"x")
    assert plain.workers[1].run(kept.bodies, "s", 1) == [b"x"]


def questions():
    return len(fabric.current()._pending)


def test_no_thread_is_started_for_any_of_it(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room")
    assert plain.workers[1].run(threading.active_count) == 1
