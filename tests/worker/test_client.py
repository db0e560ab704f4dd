"""Where the fabric may be used, and a worker among others: attaching, and routers that die."""

from __future__ import annotations

import multiprocessing
import os
import select
import threading

import gevent
import pytest
from gevent import monkey

import channels
from channels import alerts
from channels.errors import ForkedProcess, NotAttached
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker import kept
from tests.worker.test_alerts import answer_with

MIB = 1 << 20


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


def test_what_waits_when_a_child_is_forked_stays_the_parent_s_and_so_does_its_descriptor(cluster):
    worker = cluster.workers[1]
    worker.run(kept.open_subscription, "s", "room")
    cluster.workers[2].run(kept.send, "room", b"one", b"two")
    assert worker.run(fork_and_read) == (["ForkedProcess"] * 5, True, [b"one", b"two"], False)


def fork_and_read():
    sub = kept.subscriptions["s"]
    fd = sub.fileno()
    while len(sub) < 2:
        gevent.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        refused = 0
        for call in (sub.get_nowait, sub.drain, lambda: next(iter(sub)), lambda: sub.get(timeout=1), sub.close):
            try:
                call()
            except ForkedProcess:
                refused += 1
        monkey.get_original("time", "sleep")(0.05)  # gevent may wait for ever for a child that ends at once
        os._exit(refused)
    _, status = os.waitpid(pid, 0)
    outcomes = ["ForkedProcess"] * os.waitstatus_to_exitcode(status)
    before = bool(select.select([fd], [], [], 0)[0])
    return outcomes, before, [message.data for message in sub.drain()], bool(select.select([fd], [], [], 0)[0])


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
            monkey.get_original("time", "sleep")(0.05)  # gevent may wait for ever for a child that ends at once
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


def test_no_thread_is_started_for_any_of_it(plain):
    plain.workers[1].run(kept.open_subscription, "s", "room")
    assert plain.workers[1].run(threading.active_count) == 1


def test_what_came_and_could_not_be_acted_on_for_lack_of_memory_is_acted_on_later(plain):
    one, two = plain.workers.values()
    two.run(answer_with, "q", b"answer")
    assert one.run(call_without_memory, two.pid) == b"answer"  # and not CallTimeout


def call_without_memory(pid):
    mine = fabric.current()
    alerts.call(pid, "q", b"", timeout=20)
    act = mine.on_event["reply"]

    def refuse(*_):
        mine.on_event["reply"] = act
        raise MemoryError

    mine.on_event["reply"] = refuse
    return alerts.call(pid, "q", b"", timeout=20)


def test_what_came_behind_it_waits_for_its_turn(plain):
    one, _ = plain.workers.values()
    assert one.run(act_without_memory) == ["first", "second"]


def act_without_memory():
    mine = fabric.current()
    acted: list[str] = []
    refused: list[str] = []

    def act(what):
        if what == "first" and not refused:
            refused.append(what)
            raise MemoryError
        acted.append(what)

    mine.on_event.update(first=lambda: act("first"), second=lambda: act("second"))
    mine.endpoint.events += [("first",), ("second",)]
    mine.endpoint.schedule()
    while len(acted) < 2:
        gevent.sleep(0.01)
    return acted
