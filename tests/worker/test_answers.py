"""Calls: exactly one outcome for each, whatever happens to either side."""

from __future__ import annotations

import contextlib
import os
import signal

import gevent
import gevent.event
import pytest

from channels import alerts
from channels.core import native
from channels.errors import CallTimeout, RemoteError, RingFull, WorkerGone
from channels.worker import alerts as module
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker.test_alerts import (
    answer_with,
    counter,
    hold_calls,
    listen,
    register_blocked,
    register_raising,
    release_calls,
)

MIB = 1 << 20
timeouts: list[gevent.Timeout] = []


@pytest.fixture(params=[False, True], ids=["plain", "monkey-patched"])
def cluster(request):
    with Cluster(3, monkey=request.param) as made:
        yield made


def test_a_call_returns_what_the_handler_returns(cluster):
    one, two, _ = cluster.workers.values()
    for worker in (one, two):
        worker.run(register_echo)
    for target in (one, two):
        for data in (b"", b"x", bytes(5000), bytes(3 * MIB)):
            assert one.run(alerts.call, target.pid, "echo", data, timeout=20) == data
    two.run(answer_with, "nothing", None)
    assert one.run(alerts.call, two.pid, "nothing", b"", timeout=20) is None


def register_echo():
    alerts.receive("echo", bytearray)


def test_an_answer_larger_than_message_max_is_an_error_and_the_handler_goes_on():
    with Cluster(2, message_max=1000) as cluster:
        one, two = cluster.workers.values()
        two.run(register_repeating)
        with pytest.raises(RemoteError, match="message_max"):  # and not CallTimeout
            one.run(alerts.call, two.pid, "repeat", b"1001", timeout=20)
        assert one.run(alerts.call, two.pid, "repeat", b"1000", timeout=20) == bytes(1000)


def register_repeating(ordered=True):
    alerts.receive("repeat", lambda data: bytearray(int(data)), ordered=ordered)


def test_an_answer_larger_than_the_caller_may_be_receiving_is_an_error_for_it():
    with Cluster(2, assembly_max=MIB) as cluster:
        one, two = cluster.workers.values()
        two.run(register_repeating)
        with pytest.raises(RemoteError, match="assembly_max"):  # and not CallTimeout
            one.run(alerts.call, two.pid, "repeat", b"%d" % (2 * MIB), timeout=20)
        assert one.run(alerts.call, two.pid, "repeat", b"%d" % MIB, timeout=20) == bytes(MIB)


def test_a_call_larger_than_its_worker_may_be_receiving_is_refused():
    with Cluster(2, assembly_max=MIB) as cluster:
        one, two = cluster.workers.values()
        two.run(register_echo)
        with pytest.raises(RemoteError, match="assembly_max"):  # and not CallTimeout
            one.run(alerts.call, two.pid, "echo", bytes(2 * MIB), timeout=20)
        assert one.run(alerts.call, two.pid, "echo", bytes(MIB), timeout=20) == bytes(MIB)


@pytest.mark.parametrize("size, before", [(200_000, 0), (200_000, 100), (10, 100)], ids=["begun", "full", "short"])
def test_an_answer_that_finds_no_room_in_time_is_an_error_for_the_caller_once_it_goes_on(size, before):
    with Cluster(2, send_timeout=0.2) as cluster:
        one, two = cluster.workers.values()
        two.run(register_when_told)
        one.start(alerts.call, two.pid, "told", b"%d" % size)
        wait_until(lambda: two.run(counter, "alerts_received") == 1)
        one.signal(signal.SIGSTOP)
        two.run(answer_in_vain, one.pid, before)
        one.signal(signal.SIGCONT)
        with pytest.raises(RemoteError, match="send_timeout"):  # and neither nothing nor a part
            one.result()


told = gevent.event.Event()


def register_when_told():
    alerts.receive("told", lambda data: told.wait() and bytes(int(data)))


def answer_in_vain(pid, before):
    """Until the answer is given up, in a ring that holds so many alerts already, as many as it takes."""
    try:
        for _ in range(before):
            alerts.send(pid, "unheard", bytes(10_000), timeout=0.01)
        assert not before, "there is room for all"
    except RingFull:
        with contextlib.suppress(RingFull):
            while True:
                alerts.send(pid, "unheard", b"", timeout=0.01)
    given_up = []
    sender = fabric.current().sender
    abort = sender.abort
    sender.abort = lambda parcel: given_up.append(abort(parcel))
    told.set()
    while not given_up:
        gevent.sleep(0.01)


@pytest.mark.parametrize("prepared", [False, True])
def test_a_call_that_nobody_handles_is_refused_at_once(plain, prepared):
    """Also by a worker that never used alerts."""
    one, two = plain.workers.values()
    if prepared:
        two.run(listen, "other")
    with pytest.raises(RemoteError, match="there is no handler"):  # and not CallTimeout
        one.run(alerts.call, two.pid, "hello", b"x", timeout=25)
    with pytest.raises(RemoteError, match="there is no handler"):
        one.run(alerts.call, one.pid, "hello", b"x", timeout=25)


@pytest.mark.parametrize("value", ["text", 5, object])
def test_a_handler_that_returns_something_else_is_a_remote_error(plain, value):
    one, two = plain.workers.values()
    two.run(answer_with, "q", value)
    with pytest.raises(RemoteError, match="returns bytes or None"):
        one.run(alerts.call, two.pid, "q", b"", timeout=20)


def test_what_a_handler_raises_is_a_remote_error_with_its_words(plain):
    one, two = plain.workers.values()
    two.run(register_raising)
    with pytest.raises(RemoteError, match="ZeroDivisionError: as it should") as caught:
        one.run(alerts.call, two.pid, "raises", b"", timeout=20)
    assert caught.value.worker == 2
    assert caught.value.name == "raises"


def test_a_call_times_out_and_the_late_answer_goes_nowhere(plain):
    one, two = plain.workers.values()
    two.run(register_sleepy)
    with pytest.raises(CallTimeout, match="did not answer"):
        one.run(alerts.call, two.pid, "sleepy", b"0.2", timeout=0.05)
    assert one.run(alerts.call, two.pid, "sleepy", b"0", timeout=20) == b"slept 0"


def register_sleepy():
    def sleepy(data):
        gevent.sleep(float(data))
        return b"slept " + data

    alerts.receive("sleepy", sleepy)


def test_a_call_to_a_worker_that_dies_is_worker_gone(cluster):
    one, two, _ = cluster.workers.values()
    two.run(register_blocked)
    one.start(alerts.call, two.pid, "blocked", b"", timeout=25)
    wait_until(lambda: two.run(counter, "alerts_received") == 1)
    cluster.kill(two.slot)
    with pytest.raises(WorkerGone):
        one.result()


def test_an_answer_that_was_given_before_its_worker_died_is_the_outcome(cluster):
    one, two, _ = cluster.workers.values()
    two.run(hold_calls)
    one.start(alerts.call, two.pid, "held", b"", timeout=25)
    wait_until(lambda: two.run(counter, "alerts_received") == 1)
    one.signal(signal.SIGSTOP)
    two.run(answer_now)
    cluster.kill(two.slot)
    one.signal(signal.SIGCONT)
    assert one.result() == b"first"


def answer_now():
    release_calls(None)
    for _ in range(20):  # turns of the hub: the handler returns, and what it returned is written
        gevent.sleep(0)


def test_a_handler_may_call(cluster):
    one, two, three = cluster.workers.values()
    three.run(answer_with, "q", b"from three")
    two.run(register_forward, three.pid)
    assert one.run(alerts.call, two.pid, "forward", b"", timeout=20) == b"from three"


def register_forward(pid):
    alerts.receive("forward", lambda data: alerts.call(pid, "q", data, timeout=20))


def test_two_workers_that_call_each_other_at_once_both_get_their_answers(plain):
    one, two = plain.workers.values()
    for worker in (one, two):
        worker.run(register_echo)
    one.start(call_many, two.pid, 300)
    two.start(call_many, one.pid, 300)
    assert one.result() == two.result() == 300


def call_many(pid, count):
    callers = [gevent.spawn(alerts.call, pid, "echo", b"%d" % n + bytes(n * 20), timeout=25) for n in range(count)]
    gevent.joinall(callers)
    return sum(caller.value == b"%d" % n + bytes(n * 20) for n, caller in enumerate(callers))


def test_call_all_has_one_outcome_for_each_worker(cluster):
    one, two, three = cluster.workers.values()
    one.run(answer_with, "q", b"one")
    two.run(register_raising_q)
    answers = one.run(alerts.call_all, "q", b"", timeout=20)
    assert answers[1] == b"one"
    assert isinstance(answers[2], RemoteError)
    assert "as it should" in str(answers[2])
    assert isinstance(answers[3], RemoteError)
    assert "no handler" in str(answers[3])
    three.run(register_sleepy)
    assert isinstance(one.run(alerts.call_all, "sleepy", b"1000", timeout=0.1)[3], CallTimeout)


def register_raising_q():
    def raises(data):
        raise ZeroDivisionError("as it should")

    alerts.receive("q", raises)


def test_a_caller_that_is_killed_or_timed_out_leaves_nothing_behind(plain):
    one, two = plain.workers.values()
    two.run(register_sleepy)
    assert one.run(kill_callers, two.pid) == 0
    assert one.run(alerts.call, two.pid, "sleepy", b"0", timeout=20) == b"slept 0"


def kill_callers(pid):
    for _ in range(50):
        caller = gevent.spawn(alerts.call, pid, "sleepy", b"0.001", timeout=25)
        gevent.sleep(0)
        caller.kill()
    return len(module.box("a test")._calls)


# ---- what may escape a handler ----


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "how, words",
    [
        ("timeout", "Timeout"),
        ("unspeakable", "Unspeakable"),
        ("released", "ValueError"),
        ("killed", "GreenletExit"),
    ],
)
def test_whatever_escapes_a_handler_its_call_is_answered_and_the_next_is_handled(plain, ordered, how, words):
    one, two = plain.workers.values()
    two.run(register_escaping, ordered)
    with pytest.raises(RemoteError, match=words):  # and not CallTimeout
        one.run(alerts.call, two.pid, "escapes", how.encode(), timeout=20)
    if how == "killed":  # which is how a greenlet is told to end: a name has to be taken up again
        if ordered:
            with pytest.raises(RemoteError, match="no handler"):
                one.run(alerts.call, two.pid, "escapes", b"", timeout=20)
        two.run(register_escaping, ordered)
    assert one.run(alerts.call, two.pid, "escapes", b"", timeout=20) == b"fine"


class UnspeakableError(Exception):
    def __str__(self):
        raise ZeroDivisionError("no words")


def register_escaping(ordered):
    def escaping(data):
        if data == b"timeout":
            raise gevent.Timeout(1)
        if data == b"unspeakable":
            raise UnspeakableError
        if data == b"released":
            view = memoryview(bytearray(b"gone"))
            view.release()
            return view
        if data == b"killed":
            raise gevent.GreenletExit
        return b"fine"

    alerts.receive("escapes", escaping, ordered=ordered)


def test_a_timeout_that_a_handler_left_running_does_not_end_its_name(plain):
    one, two = plain.workers.values()
    two.run(register_leaving_a_timeout)
    assert one.run(alerts.call, two.pid, "leaves", b"", timeout=20) == b"fine"
    wait_until(lambda: two.run(timeout_is_over))
    assert one.run(alerts.call, two.pid, "leaves", b"", timeout=20) == b"fine"


def register_leaving_a_timeout():
    def leaving(data):
        if not timeouts:
            timeouts.append(gevent.Timeout.start_new(0.01))
        return b"fine"

    alerts.receive("leaves", leaving)


def timeout_is_over():
    return timeouts and not timeouts[0].pending


def test_the_words_of_an_error_are_cut_to_what_a_message_may_be():
    with Cluster(2, message_max=10) as cluster:
        one, two = cluster.workers.values()
        two.run(register_raising)
        for target in (one, two):
            target.run(register_raising)
            with pytest.raises(RemoteError, match=r"ZeroDivisi$"):
                one.run(alerts.call, target.pid, "raises", b"", timeout=20)


# ---- no memory, another thread, a caller that is interrupted ----


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("name", ["Parcel", "spawn", "_settle"])
def test_a_call_whose_answer_finds_no_memory_fails(plain, name, ordered):
    one, two = plain.workers.values()
    two.run(register_repeating, ordered)
    two.run(refuse_once, name)
    with pytest.raises(RemoteError, match="memory"):  # and not CallTimeout
        one.run(alerts.call, two.pid, "repeat", b"200000", timeout=20)
    assert one.run(alerts.call, two.pid, "repeat", b"200000", timeout=20) == bytes(200_000)


def refuse_once(name):
    owner = {"Parcel": native, "spawn": gevent, "_settle": module._Receiver}[name]
    real = getattr(owner, name)

    def refuse(*_):
        setattr(owner, name, real)
        raise MemoryError("refused")

    setattr(owner, name, refuse)


@pytest.mark.parametrize("call", [alerts.call, alerts.call_all])
def test_a_call_in_a_thread_of_a_pool_says_that_it_cannot_wait_there(plain, call):
    one, _ = plain.workers.values()
    one.run(register_echo)
    with pytest.raises(
        RuntimeError, match="in the thread that serves requests"
    ):  # and neither CallTimeout nor for ever
        one.run(call_in_a_thread, call)


def call_in_a_thread(call):
    target = () if call is alerts.call_all else (os.getpid(),)
    return gevent.get_hub().threadpool.apply(call, (*target, "echo", b""), {"timeout": 1})


def test_a_caller_of_all_that_is_timed_out_while_it_begins_leaves_nothing_behind(plain):
    one, two = plain.workers.values()
    one.run(register_echo)
    two.signal(signal.SIGSTOP)
    assert one.run(call_all_in_vain) == 0


def call_all_in_vain():
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        alerts.call_all("echo", bytes(MIB), timeout=20)  # there is no room for it at the other
    return len(module.box("a test")._calls)
