"""Waiting for messages and descriptors, and being killed meanwhile."""

from __future__ import annotations

import os
import select
import signal
import time

import gevent
import pytest

import channels
from channels.errors import Draining, RouterUnavailable, SubscriptionClosed
from channels.worker import subscription as module
from tests.cluster import Cluster, wait_until
from tests.worker import kept
from tests.worker.test_subscription import classical_round, iterate, receive_one


def test_get_waits_until_a_message_comes_or_the_time_is_up(cluster):
    worker = cluster.workers[1]
    worker.run(kept.open_subscription, "s", "room")
    assert worker.run(kept.call, "s", "get_nowait") is None
    assert worker.run(timed_get, "s", 0.2) >= 0.2
    worker.start(kept.bodies, "s", 1)
    cluster.workers[2].run(kept.send, "room", b"x")
    assert worker.result() == [b"x"]


def timed_get(key, seconds):
    began = time.monotonic()
    assert kept.subscriptions[key].get(timeout=seconds) is None
    return time.monotonic() - began


@pytest.mark.parametrize("wait", ["get", "wait_fd_read", "pipe"])
def test_a_timed_wait_after_long_computing_lasts_as_long_as_it_says(plain, wait):
    """The loop's clock stands still while a greenlet computes."""
    assert plain.workers[1].run(compute_then_wait, wait) >= 0.2


def compute_then_wait(wait):
    gevent.sleep(0)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    with channels.subscribe("room") as own:
        channels.channel_join("room")
        read, write = os.pipe()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            pass
        began = time.monotonic()
        if wait == "get":
            assert own.get(timeout=0.2) is None
        else:
            assert not channels.wait_fd_read(channels.channel_fd() if wait == "wait_fd_read" else read, timeout=0.2)
        os.close(read)
        os.close(write)
        return time.monotonic() - began


def test_the_classical_loop_waits_on_a_real_descriptor(cluster):
    cluster.workers[1].start(classical_receive, "room", 3)
    wait_until(lambda: cluster.workers[2].run(kept.send, "room", b"go") == [1])
    cluster.workers[2].run(kept.send, "room", b"a", b"b")
    assert cluster.workers[1].result() == [b"go", b"a", b"b"]


def classical_receive(name, count):
    channels.channel_join(name)
    return [receive_one() for _ in range(count)]


def test_channel_fd_is_readable_exactly_while_messages_wait(plain):
    assert plain.workers[1].run(watch_fd) == [False, True, True, False, False]


def watch_fd():
    seen = []
    channels.channel_join("room")
    fd = channels.channel_fd()

    def look():
        kept.flush()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        seen.append(bool(poll.poll(0)))

    look()
    channels.channel_send("room", b"1")
    channels.channel_send("room", b"2")
    look()
    channels.channel_recv()
    look()
    channels.channel_recv()
    look()
    channels.channel_send("room", b"3")
    kept.flush()
    channels.channel_leave("room")
    look()
    return seen


def test_channel_fd_stays_readable_for_ever_once_the_core_is_to_end(plain):
    assert plain.workers[1].run(watch_fd_of_an_ended_core) == [True, b"waits", True]


def watch_fd_of_an_ended_core():
    core, token = module.bind_request()
    try:
        channels.channel_join("room")
        fd = channels.channel_fd()
        channels.channel_send("room", b"waits")
        kept.flush()
        core.end(Draining)

        def is_readable():
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(0))

        return [is_readable(), channels.channel_recv(), is_readable()]
    finally:
        module.unbind_request(core, token)


def test_the_descriptor_of_a_closed_subscription_is_closed_with_it(plain):
    assert plain.workers[1].run(count_fds_of_closed) == 0


def count_fds_of_closed():
    kept.flush()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with channels.subscribe("room") as mine:
            pass
        assert mine.fileno() >= 0
        del mine
    kept.flush()  # the dispatcher knew the last one
    return len(os.listdir("/proc/self/fd")) - before


def test_a_wait_that_could_not_begin_leaves_the_watch_for_the_client_as_it_was(plain):
    assert plain.workers[1].run(wait_on_nothing) == ["start", "stop"]


def wait_on_nothing():
    class Watcher:
        def start(self, core):
            seen.append("start")

        def stop(self):
            seen.append("stop")

    seen: list[str] = []
    core, token = module.bind_request(Watcher())
    try:
        core.main()  # has no descriptor yet
        for fd in (-1, 1 << 20):
            with pytest.raises((ValueError, OSError)):
                channels.wait_fd_read(fd, timeout=0.01)
        seen.clear()
        read, write = os.pipe()
        channels.wait_fd_read(read, timeout=0.01)
        os.close(read)
        os.close(write)
        return list(seen)
    finally:
        module.unbind_request(core, token)


def test_wait_fd_works_for_any_descriptor(plain):
    assert plain.workers[1].run(wait_for_pipe) == [False, True, True]


def wait_for_pipe():
    read, write = os.pipe()
    seen = [channels.wait_fd_read(read, timeout=0.05)]
    gevent.spawn_later(0.05, os.write, write, b"x")
    seen.append(channels.wait_fd_read(read, timeout=20))
    seen.append(channels.wait_fd_write(write, timeout=20))
    os.close(read)
    os.close(write)
    return seen


def test_closing_wakes_who_waits(cluster):
    cluster.workers[1].run(kept.open_subscription, "s", "room")
    cluster.workers[1].start(iterate, "s")
    wait_until(lambda: cluster.workers[1].run(is_waited_for, "s"))
    cluster.workers[1].start(kept.call, "s", "close")
    assert [] in (cluster.workers[1].result(), cluster.workers[1].result())
    with pytest.raises(SubscriptionClosed):
        cluster.workers[1].run(kept.call, "s", "get", 1)


def is_waited_for(key):
    return kept.subscriptions[key].waiter is not None


def test_a_second_waiter_is_told_to_bring_a_subscription_of_its_own(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room")
    plain.workers[1].start(kept.bodies, "s", 1)
    wait_until(lambda: plain.workers[1].run(is_waited_for, "s"))
    with pytest.raises(RuntimeError, match="another greenlet waits"):
        plain.workers[1].run(kept.call, "s", "get", 1)
    plain.workers[2].run(kept.send, "room", b"x")
    assert plain.workers[1].result() == [b"x"]


def test_waiting_in_a_callback_of_the_hub_is_refused(plain):
    with pytest.raises(RuntimeError, match="callback of the hub"):
        plain.workers[1].run(wait_in_hub)


def wait_in_hub():
    outcome = gevent.event.AsyncResult()

    def call():
        try:
            channels.wait_fd_read(0)
        except Exception as error:
            outcome.set_exception(error)

    gevent.get_hub().loop.run_callback(call)
    outcome.get(timeout=20)


def test_joining_without_a_router_ends_with_an_error_and_nothing_is_joined():
    with Cluster(1, join_timeout=0.3) as cluster:
        cluster.router.signal(signal.SIGSTOP)
        try:
            with pytest.raises(RouterUnavailable, match="no answer from the router"):
                cluster.workers[1].run(channels.channel_join, "room")
        finally:
            cluster.router.signal(signal.SIGCONT)
        cluster.workers[1].run(classical_round, "other", b"x")
        assert cluster.members("room") == []


# ---- greenlets that are killed while they wait lose nothing (T13) ----

KILLS = int(os.environ.get("CHANNELS_TEST_KILLS", "1000"))


@pytest.mark.parametrize("by", ["kill", "timeout"])
def test_a_greenlet_killed_while_it_waits_loses_no_message(cluster, by):
    count = KILLS // 4
    cluster.workers[1].run(kept.open_subscription, "s", "room", maxlen=1 << 20)
    cluster.workers[1].start(receive_with_kills, "s", by, count, seconds_seed())
    cluster.workers[2].start(send_with_pauses, "room", 8 * count)
    cluster.workers[2].result(120)
    got, kills = cluster.workers[1].result(120)
    assert got == [b"%d" % number for number in range(8 * count)]
    assert kills >= count


def seconds_seed():
    return int(os.environ.get("CHANNELS_TEST_SEED", time.time_ns() & 0xFFFFFF))


def send_with_pauses(name, count):
    for number in range(count):
        channels.channel_send(name, b"%d" % number)
        if number % 7 == 0:
            gevent.sleep(0)


def receive_with_kills(key, by, kills, seed):
    import random

    chance = random.Random(seed)
    mine = kept.subscriptions[key]
    got = []
    done = 0

    def receive():
        while True:
            message = mine.get(timeout=None)
            assert message.missed == 0, f"seed {seed}"
            got.append(message.data)  # no switch between taking and keeping

    while done < kills or len(got) < 8 * kills:
        if by == "kill":
            reader = gevent.spawn(receive)
            gevent.sleep(chance.choice([0, 0, 0.0002]))
            reader.kill()
        else:
            try:
                with gevent.Timeout(chance.choice([0.00001, 0.0003])):
                    receive()
            except gevent.Timeout:
                pass
        done += 1
    return got, done
