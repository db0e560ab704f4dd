from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels.settings import make
from channels.web.uwsgi import install, state
from tests.server import ROOT, Server
from tests.web.uwsgi.conftest import APPLICATION, Asked

PAGE = Path(ROOT, "docs", "from-uwsgi.md").read_text()
NAME = re.compile(r"`([A-Za-z_]\w*)`")
ASSIGNED = {"post_fork_hook"}  # by the application: there is none before


def listed(title: str) -> set[str]:
    """Names in the items of a section of the page."""
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    items = [item.split("; ", 1)[0] for item in re.split(r"\n(?=- |\n)", section) if item.startswith("- ")]
    return set(NAME.findall("\n".join(items)))


def stubs() -> set[str]:
    """Public names of the stub package types-uWSGI."""
    try:
        files = importlib.metadata.files("types-uWSGI") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("types-uWSGI is not installed")
    (path,) = [file for file in files if file.as_posix() == "uwsgi-stubs/__init__.pyi"]
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """As it is with the default settings."""
    monkeypatch.setattr(state, "_state", None)
    monkeypatch.delitem(sys.modules, "uwsgi", raising=False)
    yield install.provide(make([{}]))
    monkeypatch.delitem(sys.modules, "uwsgi")


def test_the_page_lists_exactly_what_is_there(module: types.ModuleType) -> None:
    there = {name for name in vars(module) if not name.startswith("__")}
    assert listed("What is there") == there


def test_the_page_lists_everything_of_uwsgi_s_that_is_not(module: types.ModuleType) -> None:
    there = {name for name in vars(module) if not name.startswith("__")}
    assert listed("What is left out") == stubs() - there - ASSIGNED


def test_what_is_left_out_raises_attributeerror_and_says_where_to_look(server: Asked) -> None:
    for name in sorted(listed("What is left out")):
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
