from __future__ import annotations

import os
import signal

import pytest

from tests.web.uwsgi.conftest import Asked


@pytest.fixture(autouse=True)
def empty(server: Asked) -> None:
    server.ask("uwsgi.cache_clear(), uwsgi.cache_clear('other'), [uwsgi.queue_pull() for _ in range(256)]")


def test_what_one_worker_stores_all_find(server: Asked) -> None:
    assert server.ask_worker(1, "uwsgi.cache_set('key', 'välue')") is True
    assert server.ask_all("uwsgi.cache_get(b'key')") == ["välue".encode()] * 3
    assert server.ask_worker(2, "uwsgi.cache_del('key')") is True
    assert server.ask_all("uwsgi.cache_get('key')") == [None] * 3


def test_absent_is_none_and_true_is_true(server: Asked) -> None:
    assert server.ask("uwsgi.cache_get('x'), uwsgi.cache_exists('x'), uwsgi.cache_del('x')") == (None, None, None)
    steps = (
        "uwsgi.cache_set('x', b'1'), uwsgi.cache_set('x', b'2'), uwsgi.cache_update('x', b'3'), uwsgi.cache_exists('x')"
    )
    assert server.ask(steps) == (True, None, True, True)
    assert server.ask("uwsgi.cache_set('big', b'x' * 2000), uwsgi.cache_keys()") == (None, [b"x"])


def test_what_has_expired_is_gone(server: Asked) -> None:
    assert server.ask("uwsgi.cache_set('soon', 'x', 1), uwsgi.cache_get('soon')") == (True, b"x")
    server.wait(lambda: server.ask("uwsgi.cache_get('soon')") is None)


def test_caches_have_names_of_their_own(server: Asked) -> None:
    server.ask("uwsgi.cache_set('k', 'first'), uwsgi.cache_set('k', 'second', 0, 'other')")
    assert server.ask("[uwsgi.cache_get('k', name) for name in ('', 'default', 'other')]") == [b"first"] * 2 + [
        b"second"
    ]
    assert server.ask("uwsgi.cache_get('k', 'none')").startswith("ValueError")
    assert server.ask("uwsgi.cache_get('k', 'default@elsewhere:3031')").startswith("ValueError")


def test_numbers_are_counted_by_all_at_once(server: Asked) -> None:
    server.ask_all("gevent.joinall([gevent.spawn(uwsgi.cache_inc, 'hits', 2) for _ in range(100)]) and None")
    assert server.ask("uwsgi.cache_num('hits')") == 600
    steps = "uwsgi.cache_dec('hits', 100), uwsgi.cache_mul('hits'), uwsgi.cache_div('hits', 5), uwsgi.cache_num('hits')"
    assert server.ask(steps) == (True, True, True, 200)
    assert server.ask("uwsgi.cache_set('t', 'text'), uwsgi.cache_inc('t'), uwsgi.cache_num('t')") == (True, None, 0)


def test_the_queue_is_one_for_all(server: Asked) -> None:
    for number in (1, 2, 3):
        assert server.ask_worker(number, f"uwsgi.queue_push('{number}')") is True
    assert server.ask("uwsgi.queue_last(), uwsgi.queue_last(2)") == (b"3", [b"3", b"2"])
    assert server.ask_worker(3, "uwsgi.queue_pull()") == b"1"
    assert server.ask_worker(1, "uwsgi.queue_pop(), uwsgi.queue_pop(), uwsgi.queue_pop()") == (b"3", b"2", None)
    assert server.ask("uwsgi.queue_push(b''), uwsgi.queue_push(b'x' * 9000), uwsgi.queue_set(999, b'x')") == (None,) * 3
    assert server.ask("uwsgi.queue_set(200, 'here'), uwsgi.queue_get(200)") == (True, b"here")
    assert server.ask("uwsgi.queue_slot() == uwsgi.queue_pull_slot()") is True


def test_an_area_is_one_for_all(server: Asked) -> None:
    server.ask_all("[uwsgi.sharedarea_inc64(0, 8) for _ in range(50)] and None")
    assert server.ask("uwsgi.sharedarea_read64(0, 8), uwsgi.sharedarea_readlong(0, 8)") == (150, 150)
    server.ask_worker(1, "uwsgi.sharedarea_write(0, 100, 'hello')")
    assert server.ask_worker(2, "uwsgi.sharedarea_read(0, 100, 5), len(uwsgi.sharedarea_read(0, 100))") == (
        b"hello",
        65436,
    )
    server.ask_worker(1, "uwsgi.sharedarea_memoryview(0)[100:101].__setitem__(0, 72)")
    assert server.ask_worker(3, "uwsgi.sharedarea_readbyte(0, 100)") == 72


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_numbers_in_an_area_have_sizes(server: Asked, bits: int) -> None:
    assert server.ask(f"uwsgi.sharedarea_write{bits}(0, 40, -5), uwsgi.sharedarea_read{bits}(0, 40)") == (None, -5)
    if bits >= 32:
        assert server.ask(f"uwsgi.sharedarea_dec{bits}(0, 40, 2), uwsgi.sharedarea_read{bits}(0, 40)") == (None, -7)


@pytest.mark.parametrize(
    "expression",
    [
        "sharedarea_read(1, 0, 1)",
        "sharedarea_read(0, 65535, 2)",
        "sharedarea_write(0, -1, b'x')",
        "sharedarea_rlock(9)",
    ],
)
def test_what_is_outside_of_an_area_is_a_bad_value(server: Asked, expression: str) -> None:
    assert server.ask(f"uwsgi.{expression}").startswith("ValueError")


def test_who_writes_an_area_keeps_the_others_out(server: Asked) -> None:
    server.ask_worker(1, "hooks.append(gevent.spawn(lambda: [uwsgi.sharedarea_wlock(0), gevent.sleep(60)]))")
    server.wait(lambda: server.ask_worker(1, "len(hooks) and bool(gevent.sleep(0.01)) or hooks[-1].started"))
    blocked = "gevent.with_timeout(0.2, uwsgi.sharedarea_read, 0, 0, 1, timeout_value='kept out')"
    server.wait(lambda: server.ask_worker(2, blocked) == "kept out")
    server.ask_worker(1, "hooks.pop().kill()")
    assert server.ask_worker(2, blocked) != "kept out"


def test_what_is_stored_outlives_every_worker(server: Asked) -> None:
    server.ask("uwsgi.cache_set('lasting', 'x'), uwsgi.queue_push('kept')")
    before = set(server.workers.values())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    server.wait_ready(3, without=before)
    assert server.ask("uwsgi.cache_get('lasting'), uwsgi.queue_pull()") == (b"x", b"kept")
