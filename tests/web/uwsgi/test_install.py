from __future__ import annotations

import sys

import pytest

from channels.settings import make
from channels.web.uwsgi import install, state
from tests.server import Server
from tests.web.uwsgi.conftest import APPLICATION, Asked

# Of the stub package types-uWSGI what is left out; docs/from-uwsgi.md lists the same.
LEFT_OUT = [
    "accepting", "alarm", "embedded_data", "i_am_the_lord", "listen_queue", "metric_get", "offload", "parsefile",
    "route", "send_to_spooler", "spool", "snmp_set_counter32", "sharedarea_object", "start_response", "async_connect",
]  # fmt: skip


def test_what_is_left_out_raises_attributeerror_and_says_where_to_look(server: Asked) -> None:
    for name in LEFT_OUT:
        assert "from-uwsgi.md" in server.ask(f"uwsgi.{name}")
    assert server.ask("hasattr(uwsgi, 'spool')") is False


def test_the_hook_of_the_application_runs_once_in_each_worker(server: Asked) -> None:
    for number in (1, 2, 3):
        assert server.ask_worker(number, "[hook for hook in hooks if type(hook) is str]") == [f"fork {number}"]


def test_the_module_is_there_before_the_fork_too() -> None:
    with Server(APPLICATION, "--preload-app", workers=2) as server:
        assert server.get("/", b"uwsgi.worker_id() in (1, 2) and uwsgi.signal_registered(7)") == b"True"
        assert server.get("/", b"uwsgi.masterpid()") == b"%d" % server.pid


def test_it_can_be_turned_off() -> None:
    with Server(APPLICATION, "--no-uwsgi", workers=1, wait=False) as server:
        server.wait_log("No module named 'uwsgi'")
        assert server.process.wait(20) == 4


def test_what_is_not_configured_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_state", None)
    monkeypatch.delitem(sys.modules, "uwsgi", raising=False)
    module = install.provide(make([{"uwsgi_queue": 0, "uwsgi_sharedarea": [], "uwsgi_cache": []}]))
    assert sys.modules["uwsgi"] is module and module.worker_id() == 0
    for name in ("queue_push", "sharedarea_read", "cache_get"):
        assert not hasattr(module, name)
    with pytest.raises(OSError, match="in a worker only"):
        module.lock()
    monkeypatch.delitem(sys.modules, "uwsgi")
