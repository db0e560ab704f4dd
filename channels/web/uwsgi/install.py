"""Where the module comes into a process: `provide()` before the application is imported, then a worker's life."""

from __future__ import annotations

import logging
import os
import sys
import types
from typing import Any, Callable

import gevent

from channels.assignment import Assignment
from channels.settings import Settings
from channels.web.uwsgi import (
    calls,
    clock,
    facts,
    files,
    locks,
    mules,
    request,
    shared,
    signals,
    state,
    waiting,
    websocket,
)

log = logging.getLogger("channels")

NAME = "uwsgi"
PARTS = (calls, clock, facts, files, locks, mules, request, shared, signals, waiting, websocket)


class Module(types.ModuleType):
    """What `import uwsgi` gives."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this server's uwsgi module has no {name!r}; see docs/from-uwsgi.md for what is left out")


def provide(settings: Settings) -> types.ModuleType:
    """Make `import uwsgi` work in this process; may be repeated."""
    mine = state.install(settings)
    module = sys.modules.get(NAME)
    if not isinstance(module, Module):
        module = sys.modules[NAME] = Module(NAME, "What applications written for uWSGI find in this server.")
        for part in PARTS:
            for name, call in part.CALLS.items():
                setattr(module, name, call)
    for name, value in facts.attributes(mine.settings).items():
        setattr(module, name, value)
    if not mine.settings.uwsgi_queue:
        _without(module, "queue_")
    if not mine.settings.uwsgi_cache:
        _without(module, "cache_")
    if not mine.settings.uwsgi_sharedarea:
        _without(module, "sharedarea_")
    return module


def _without(module: types.ModuleType, prefix: str) -> None:
    """As in a uWSGI that is not configured for it."""
    for name in [name for name in vars(module) if name.startswith(prefix)]:
        delattr(module, name)


class _Extension:
    """A worker's part of it (worker/application.py, Extension)."""

    def __init__(self) -> None:
        self._module: types.ModuleType | None = None
        self._greenlets: list[Any] = []

    def attached(self, given: Assignment) -> None:
        mine = state.install(given.settings)
        mine.attach(given)
        self._module = provide(given.settings)
        signals.attach()
        calls.attach()

    def loaded(self, application: Callable[..., Any]) -> Callable[..., Any]:
        return request.Application(application, waiting.resume)

    def serving(self) -> None:
        self._run_hook("post_fork_hook")
        self._greenlets = [clock.attach(), *mules.attach(lambda: self._call("post_fork_hook"), self._taker)]

    def draining(self) -> None:
        clock.release()
        mules.release()
        gevent.killall(self._greenlets, block=False)

    def ended(self) -> None:
        self._run_hook("atexit")

    def _taker(self) -> Callable[[bytes], Any] | None:
        return getattr(self._module, "mule_msg_hook", None)

    def _call(self, name: str) -> None:
        hook = getattr(self._module, name, None)
        if hook is not None:
            hook()

    def _run_hook(self, name: str) -> None:
        """What the application has assigned to the module."""
        try:
            self._call(name)
        except Exception:
            log.exception("uwsgi: %s of worker %d (pid %d) failed", name, state.state().number, os.getpid())


def extension() -> _Extension:
    """For worker/main.py."""
    return _Extension()
