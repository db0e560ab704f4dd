from __future__ import annotations

import pytest

from tests.web.uwsgi.conftest import Asked


def test_a_function_of_any_worker_can_be_called_in_any(server: Asked) -> None:
    for number in (1, 2, 3):
        assert server.ask(f"uwsgi.rpc('worker{number}', b'where', b'x', b'y')") == b"%d:x,y" % number
    assert server.ask("uwsgi.call('where') == b'%d:' % uwsgi.worker_id()") is True, "one's own is called here"


def test_a_function_that_only_another_worker_has_is_called_there(server: Asked) -> None:
    server.ask_worker(3, "uwsgi.register_rpc('rare', lambda: b'from %d' % uwsgi.worker_id())")
    assert (
        server.ask_worker(1, "uwsgi.call('rare'), uwsgi.rpc('', b'rare'), uwsgi.rpc(None, 'rare')") == (b"from 3",) * 3
    )
    assert b"where" in server.ask("uwsgi.rpc_list()")


def test_any_bytes_travel(server: Asked) -> None:
    assert server.ask("uwsgi.rpc('worker2', 'where', bytes(range(256)))") == b"2:" + bytes(range(256))


def test_what_is_absent_or_fails_elsewhere_is_none(server: Asked) -> None:
    assert server.ask("uwsgi.call('unheard'), uwsgi.rpc('worker9', 'where'), uwsgi.call('nothing')") == (None,) * 3
    assert server.ask("uwsgi.rpc('worker1', 'evaluate', b'1/0')") is None


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("uwsgi.call('where', 7)", "ValueError"),
        ("uwsgi.call('where', *[b''] * 256)", "ValueError"),
        ("uwsgi.register_rpc('', print)", "ValueError"),
        ("uwsgi.register_rpc('x', 7)", "ValueError"),
        ("uwsgi.call('text')", "TypeError"),
        ("uwsgi.rpc('elsewhere:3031', b'where')", "OSError"),
    ],
)
def test_bad_values_are_refused(server: Asked, expression: str, error: str) -> None:
    assert server.ask(expression).startswith(error)
