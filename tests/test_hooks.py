"""hooks.py: gunicorn's names, and as many arguments as a function takes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from channels.errors import BadSetting
from channels.hooks import NAMES, Hooks, ServerFacts, WorkerFacts

SERVER, WORKER = object(), object()


def call(function: Any, name: str = "post_fork", **more: Any) -> None:
    Hooks({name: function}).call(name, server=SERVER, worker=WORKER, **more)


def test_a_hook_takes_server_and_worker_or_the_worker_alone_or_nothing() -> None:
    seen: list[tuple[Any, ...]] = []
    call(lambda server, worker: seen.append((server, worker)))
    call(lambda worker: seen.append((worker,)))
    call(lambda: seen.append(()))
    call(lambda *given: seen.append(given))
    call(lambda server, worker, more=3: seen.append((server, worker, more)))
    assert seen == [(SERVER, WORKER), (WORKER,), (), (SERVER, WORKER), (SERVER, WORKER, 3)]


def test_a_method_and_a_callable_object_are_hooks_too() -> None:
    class Box:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def note(self, server: Any, worker: Any) -> None:
            self.seen.append(worker)

        def __call__(self, worker: Any) -> None:
            self.seen.append(worker)

    box = Box()
    call(box.note)
    call(box)
    assert box.seen == [WORKER, WORKER]


def test_the_change_of_numbers_comes_with_both() -> None:
    seen: list[Any] = []
    call(lambda server, new, old: seen.append((server, new, old)), "nworkers_changed", new=3, old=2)
    assert seen == [(SERVER, 3, 2)]


def test_a_name_that_is_no_hook_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadSetting, match="there is no such hook; those are on_starting, when_ready"):
        Hooks({"post_spoon": print})


def test_a_hook_that_wants_more_than_it_gets_is_refused_when_the_file_is_read() -> None:
    with pytest.raises(BadSetting, match=r"takes \(server\)"):
        Hooks({"when_ready": lambda server, worker: None})
    with pytest.raises(BadSetting, match=r"takes \(server, worker\)"):
        Hooks({"post_fork": lambda server, worker, more: None})
    with pytest.raises(BadSetting, match=r"takes \(server, worker\)"):
        Hooks({"post_fork": lambda server, worker, *, more: None})


def test_what_is_not_there_is_not_called() -> None:
    Hooks().call("on_exit", server=SERVER)
    assert "on_exit" not in Hooks() and "on_exit" in Hooks({"on_exit": print})


def test_what_a_hook_raises_passes_or_is_logged_as_its_place_demands(caplog: pytest.LogCaptureFixture) -> None:
    hooks = Hooks({"on_exit": lambda server: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        hooks.call("on_exit", server=SERVER)
    with caplog.at_level(logging.ERROR, "channels"):
        hooks.call_safely("on_exit", server=SERVER)
    assert "hook on_exit failed" in caplog.text and "ZeroDivisionError" in caplog.text


def test_sys_exit_in_a_hook_where_nothing_can_be_stopped_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    def leave(server: Any) -> None:
        raise SystemExit(1)

    with caplog.at_level(logging.ERROR, "channels"):
        Hooks({"on_exit": leave}).call_safely("on_exit", server=SERVER)
    assert "hook on_exit failed" in caplog.text


def test_every_hook_says_where_it_runs() -> None:
    assert all(where and given for where, given in NAMES.values())


def test_facts_have_gunicorns_names_beside_ours() -> None:
    settings = object()
    assert ServerFacts(7, settings, ["http://x"]).cfg is settings
    worker = WorkerFacts(1, 3, 42, settings, exit_status=-9)
    assert (worker.id, worker.generation, worker.pid, worker.exit_status, worker.cfg) == (1, 3, 42, -9, settings)
    assert worker.log is logging.getLogger("channels")
