"""A ring without room: who waits, in which order, and what is certain when the wait was in vain."""

from __future__ import annotations

import signal

import gevent
import pytest

import channels
from channels.errors import RingFull
from channels.worker import client as fabric
from channels.worker.room import Room
from tests.cluster import wait_until
from tests.worker import kept

MIB = 1 << 20


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
    return len(fabric.current().room._up)


def test_who_sends_at_last_lets_the_next_be_served_even_if_it_is_only_a_question():
    """A question to the router relies on the wake-up that a sender's end takes back."""

    class Endpoint:
        def __getattr__(self, name):
            return lambda *_: True

    room = Room(Endpoint(), gevent.get_hub())
    served = []
    room.before = lambda: served.append(True)
    assert room.with_up(100, None, lambda: True)
    gevent.sleep(0)
    assert served


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
