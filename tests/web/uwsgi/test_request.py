from __future__ import annotations

import os
import socket

from channels.web.uwsgi.request import is_connected
from tests.web.uwsgi.conftest import Asked


def test_each_request_has_a_number_that_grows(server: Asked) -> None:
    numbers = {}
    for _ in range(12):
        worker, number = server.ask("uwsgi.worker_id(), uwsgi.request_id()")
        assert number > numbers.get(worker, 0)
        numbers[worker] = number


def test_a_greenlet_of_a_view_names_its_request(server: Asked) -> None:
    named = (
        "(lambda context: gevent.spawn(lambda: uwsgi.ready_fd(request_context=context)).get())(uwsgi.request_context())"
    )
    assert server.ask(named) == -1
    assert server.ask("gevent.spawn(uwsgi.request_id).get()").startswith("OSError")


def test_outside_of_a_request_there_is_none(server: Asked) -> None:
    assert server.ask("uwsgi.rpc('worker1', 'evaluate', b'uwsgi.request_id()')") is None
    server.wait_log("works inside a request only")


def test_variables_for_the_log_are_kept_with_the_request(server: Asked) -> None:
    assert server.ask("uwsgi.set_logvar('user', 'anna'), uwsgi.get_logvar(b'user')") == (None, b"anna")
    assert server.ask("uwsgi.get_logvar('user')") is None
    assert server.ask("uwsgi.add_var('X', 'y'), environ['X']") == (True, "y")


def test_the_length_of_the_body_is_told(server: Asked) -> None:
    assert server.ask("uwsgi.cl()") == len("uwsgi.cl()")


def test_the_connection_of_a_plain_request_stays_with_the_server(server: Asked) -> None:
    assert server.ask("uwsgi.request_context() is uwsgi.request_context()") is True
    assert server.ask("uwsgi.websocket_recv(request_context=7)").startswith("TypeError")


def test_a_socket_whose_other_end_has_gone_is_not_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        assert is_connected(ours.fileno())
        theirs.send(b"x")
        assert is_connected(ours.fileno())
        ours.recv(1)
        theirs.close()
        assert not is_connected(ours.fileno())
    spare = os.dup(0)
    os.close(spare)
    assert not is_connected(spare) and not is_connected(-1)
