"""Asking the router: from the right thread, and again when it has died."""

from __future__ import annotations

import dataclasses
import os
import signal

import gevent
import pytest
from gevent.threadpool import ThreadPool

import channels
from channels.master import routing
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker import kept

MIB = 1 << 20


def test_joining_from_a_thread_is_refused_in_words(plain):
    with pytest.raises(RuntimeError, match="thread"):
        plain.workers[1].run(join_in_pool)


def join_in_pool():
    return ThreadPool(1).apply(channels.channel_join, ("room",))


def test_a_join_that_a_dead_router_had_not_answered_is_answered_by_the_next(plain):
    plain.router.signal(signal.SIGSTOP)
    plain.workers[1].start(kept.open_subscription, "s", "room")
    wait_until(lambda: plain.workers[1].run(questions) == 1)
    plain.kill_router()
    assert plain.workers[1].result() is None
    plain.workers[2].run(kept.send, "room", b"x")
    assert plain.workers[1].run(kept.bodies, "s", 1) == [b"x"]


def questions():
    return len(fabric.current().membership._pending)


# ---- several who join at once ----


@pytest.mark.parametrize("name", ["room", "roo*"])
@pytest.mark.parametrize("how", ["timeout", "kill"])
def test_a_join_given_up_takes_nothing_from_who_joins_with_the_same_subscription(plain, name, how):
    worker = plain.workers[1]
    worker.run(kept.open_subscription, "s")
    plain.router.signal(signal.SIGSTOP)
    try:
        worker.run(begin_joins, "s", name, ["given up", "stays"])
        worker.run(give_up, "given up", how)
    finally:
        plain.router.signal(signal.SIGCONT)
    assert worker.run(outcome, "stays") is None
    plain.workers[2].run(kept.send, "room", b"x")
    assert worker.run(kept.bodies, "s", 1) == [b"x"]


@pytest.mark.parametrize("name", ["room", "roo*"])
def test_a_join_that_is_too_late_takes_nothing_from_who_joined_after_it(name):
    with Cluster(2, join_timeout=0.5) as cluster:
        worker = cluster.workers[1]
        worker.run(kept.open_subscription, "s")
        cluster.router.signal(signal.SIGSTOP)
        try:
            worker.run(begin_joins, "s", name, ["given up", "late"])
            worker.run(give_up, "given up", "kill")
            worker.run(allow, 30)
            worker.run(begin_joins, "s", name, ["after"])
            assert worker.run(outcome, "late") == "RouterUnavailable"
        finally:
            cluster.router.signal(signal.SIGCONT)
        assert worker.run(outcome, "after") is None
        cluster.workers[2].run(kept.send, "room", b"x")
        assert worker.run(kept.bodies, "s", 1) == [b"x"]


@pytest.mark.parametrize("name", ["room", "roo*"])
def test_who_joins_while_the_subscription_is_closed_is_told_so(plain, name):
    worker = plain.workers[1]
    worker.run(kept.open_subscription, "s")
    plain.router.signal(signal.SIGSTOP)
    try:
        worker.run(begin_joins, "s", name, ["joins"])
        worker.run(kept.call, "s", "close")
        assert worker.run(outcome, "joins", seconds=10) == "SubscriptionClosed"
    finally:
        plain.router.signal(signal.SIGCONT)
    wait_until(lambda: plain.members("room") == [])


joiners = {}


def allow(seconds):
    fabric.current().membership._settings = dataclasses.replace(fabric.current().settings, join_timeout=seconds)


def begin_joins(key, name, labels):
    for label in labels:
        joiners[label] = gevent.spawn(kept.subscriptions[key].join, name)
        gevent.sleep(0)


def give_up(label, how):
    joiners[label].kill(gevent.Timeout if how == "timeout" else gevent.GreenletExit)


def outcome(label):
    joiners[label].join()
    error = joiners[label].exception
    return None if error is None else type(error).__name__


def test_numbers_that_begin_anew_are_not_counted_against_those_that_wait(plain):
    """As when a row that only prefixes kept was given away, and its channel has another one now."""
    got = [(b"%d" % number, 0) for number in range(5)]
    assert plain.workers[1].run(receive_in_another_row, "drain") == [*got, (b"new", 0)]
    assert plain.workers[1].run(receive_in_another_row, "leave") == []


def receive_in_another_row(end):
    mine, client = channels.subscribe("room"), fabric.current()
    with mine, channels.subscribe("other"):
        for number in range(5):
            channels.channel_send("room", b"%d" % number)
        kept.flush()
        row, generation, _ = client.endpoint.listeners("other")
        client.endpoint.place(client.membership.channels["room"], row, generation, 2, 0)
        channels.channel_send("other", b"new")
        kept.flush()
        if end == "leave":
            mine.leave("room")
        return [(message.data, message.missed) for message in mine.drain()]


@pytest.mark.parametrize("names", [50, 100], ids=["noted one by one", "too many to note"])
@pytest.mark.parametrize("killed", [False, True], ids=["", "and the router is killed"])
def test_losses_of_channels_that_a_prefix_has_not_met_yet_are_told(names, killed):
    with Cluster(2, spill_soft=65536, spill_hard=65536) as cluster:
        cluster.workers[1].run(kept.open_subscription, "s", "job:*", maxlen=10_000)
        cluster.workers[1].signal(signal.SIGSTOP)
        try:
            cluster.workers[2].run(send_to_each, names, 300 // names, 10_000)
            if killed:
                cluster.kill_router()
        finally:
            cluster.workers[1].signal(signal.SIGCONT)
        wait_until(lambda: cluster.workers[1].run(taken_and_lost, "s") == 300, 10)
        cluster.workers[2].run(send_to_each, names, 1, 1)
        wait_until(lambda: cluster.workers[1].run(taken_and_lost, "s") == 300 + names, 10)
        taken = cluster.workers[1].run(taken_and_missed, "s")
        assert sum(1 + missed for _, missed in taken) == 300 + names
        assert max(missed for _, missed in taken) > 0


def send_to_each(names, count, size):
    for _ in range(count):
        for number in range(names):
            channels.channel_send(f"job:{number}", bytes(size))


def taken_and_lost(key):
    return kept.subscriptions[key].pending + kept.subscriptions[key].dropped


def taken_and_missed(key):
    return [(message.channel, message.missed) for message in kept.subscriptions[key].drain()]


# ---- ever new names under one prefix ----


def send_patiently(number):
    """To a name that nobody has used; the table's rows are given away once they have been idle."""
    while True:
        try:
            return channels.channel_send(f"user:{number}", b"%d" % number)
        except channels.ChannelTableFull:
            gevent.sleep(0.05)


def known(key):
    """Channels that this worker, and that a subscription of it, keeps something for."""
    return len(fabric.current().membership.channels), len(kept.subscriptions[key].memberships)


def test_what_was_sent_before_a_prefix_is_joined_again_is_neither_received_nor_missed(plain, tmp_path):
    receiver, sender = plain.workers.values()
    gates = [str(tmp_path / name) for name in ("leave", "join")]
    for gate in gates:
        os.mkfifo(gate)
    sender.run(kept.open_subscription, "holds the row", "p:a")
    receiver.run(kept.open_subscription, "old", "p:*")
    receiver.run(kept.open_subscription, "new")
    receiver.start(leave_and_join_again, *gates)
    wait_until(lambda: sorted(plain.members("p:a")) == sorted([receiver.slot, sender.slot]))
    sender.run(send_and_flush, "p:a", b"unread when it was left")
    pass_through(gates[0], os.O_WRONLY)
    wait_until(lambda: plain.members("p:a") == [sender.slot])
    sender.run(send_and_flush, "p:a", b"between")
    pass_through(gates[1], os.O_WRONLY)
    assert receiver.result(20) is None
    sender.run(kept.send, "p:a", b"after")
    assert receiver.run(kept.take, "new", 1) == [("p:a", b"after", 0)]


def leave_and_join_again(*gates):
    """The hub stands still at each gate."""
    pass_through(gates[0], os.O_RDONLY)
    kept.subscriptions["old"].leave("p:*")
    pass_through(gates[1], os.O_RDONLY)
    kept.subscriptions["new"].join("p:*")


def pass_through(gate, how):
    """Both sides at once."""
    os.close(os.open(gate, how))


def send_and_flush(name, data):
    channels.channel_send(name, data)
    kept.flush()


@pytest.mark.parametrize("waits", [True, False])
def test_what_was_lost_of_a_name_before_it_lost_its_row_is_told_with_the_next_of_that_name(monkeypatch, waits):
    monkeypatch.setattr(routing, "ROW_IDLE_NS", 1_000_000)
    with Cluster(2, channels_max=16) as cluster:
        sender, receiver = cluster.workers.values()
        lose_two_and_the_row(sender, receiver, waits)
        if waits:
            assert receiver.run(kept.take, "s", 1) == [("user:a", b"1", 0)]
        else:
            assert receiver.run(kept.take, "s", 1) == [("user:0", b"0", 0)]
        sender.run(kept.send, "user:a", b"4")
        assert receiver.run(kept.take, "s", 1) == [("user:a", b"4", 2)]


def test_and_is_forgotten_by_who_leaves_the_prefix_meanwhile(monkeypatch):
    monkeypatch.setattr(routing, "ROW_IDLE_NS", 1_000_000)
    with Cluster(2, channels_max=16) as cluster:
        sender, receiver = cluster.workers.values()
        lose_two_and_the_row(sender, receiver, False)
        receiver.run(kept.call, "s", "leave", "user:*")
        receiver.run(kept.call, "s", "join", "user:*")
        sender.run(kept.send, "user:a", b"4")
        assert receiver.run(kept.take, "s", 1) == [("user:a", b"4", 0)]


def test_what_waited_when_a_name_lost_its_row_and_is_dropped_then_is_told_with_the_next_of_that_name(monkeypatch):
    monkeypatch.setattr(routing, "ROW_IDLE_NS", 1_000_000)
    with Cluster(2, channels_max=16) as cluster:
        sender, receiver = cluster.workers.values()
        receiver.run(kept.open_subscription, "s", "user:*", maxlen=60)
        sender.run(kept.send, "user:a", b"1", b"2")
        for number in range(40):
            assert sender.run(send_patiently, number) == 1
        receiver.run(kept.flush)
        assert max(receiver.run(known, "s")) <= 16
        sender.run(kept.send, "user:a", b"3")
        sender.run(kept.send, "user:39", *[b"x"] * 59)
        receiver.run(kept.flush)
        taken = receiver.run(kept.take, "s", 60)
        assert taken[0] == ("user:a", b"3", 2)
        assert [missed for _, _, missed in taken[1:]] == [1] + [0] * 58  # the first of user:39 was dropped, too


def test_what_is_dropped_after_its_name_lost_its_row_is_told_when_the_name_comes_again(monkeypatch):
    monkeypatch.setattr(routing, "ROW_IDLE_NS", 1_000_000)
    with Cluster(2, channels_max=16) as cluster:
        sender, receiver = cluster.workers.values()
        receiver.run(kept.open_subscription, "s", "user:*", maxlen=60)
        sender.run(kept.send, "user:a", b"1", b"2")
        for number in range(40):
            assert sender.run(send_patiently, number) == 1
        sender.run(kept.send, "user:39", *[b"x"] * 60)
        sender.run(kept.send, "user:a", b"3")
        receiver.run(kept.flush)
        assert receiver.run(kept.take, "s", 60)[-1] == ("user:a", b"3", 2)


def lose_two_and_the_row(sender, receiver, waits):
    """Of three messages of user:a the queue kept one; so many names came since that its row is another's."""
    receiver.run(kept.open_subscription, "s", "user:*", maxlen=1, overflow="drop_newest")
    sender.run(kept.send, "user:a", b"1", b"2", b"3")
    receiver.run(kept.flush)
    if not waits:
        assert receiver.run(kept.take, "s", 1) == [("user:a", b"1", 0)]
    for number in range(40):
        assert sender.run(send_patiently, number) == 1
    receiver.run(kept.flush)


@pytest.mark.parametrize("reads", [True, False])
def test_names_that_have_lost_their_rows_are_forgotten_and_what_waits_of_them_is_not(monkeypatch, reads):
    monkeypatch.setattr(routing, "ROW_IDLE_NS", 1_000_000)
    with Cluster(2, channels_max=16) as cluster:
        sender, receiver = cluster.workers.values()
        receiver.run(kept.open_subscription, "s", "user:*", "other:*")
        for number in range(60):
            assert sender.run(send_patiently, number) == 1
            if reads:
                assert receiver.run(kept.take, "s", 1) == [(f"user:{number}", b"%d" % number, 0)]
        assert max(receiver.run(known, "s")) <= 16
        if not reads:
            assert receiver.run(kept.bodies, "s", 30) == [b"%d" % number for number in range(30)]
        receiver.run(kept.call, "s", "leave", "user:*")
        assert receiver.run(kept.waiting, "s") == []
        assert max(receiver.run(known, "s")) == 0
