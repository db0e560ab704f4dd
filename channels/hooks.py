"""The functions of a settings file that are called at the turns of a server's life.

Names and moments are gunicorn's.  A hook may take (server, worker) or (worker) alone, as its signature says.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any, Callable

from channels.errors import BadSetting

log = logging.getLogger("channels")

# name -> (where it runs, what it is given)
NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "on_starting": ("master, before it forks", ("server",)),
    "when_ready": ("master, when all workers are ready", ("server",)),
    "pre_fork": ("master, before each worker", ("server", "worker")),
    "post_fork": ("worker, after the fork", ("server", "worker")),
    "post_worker_init": ("worker, when the application is imported", ("server", "worker")),
    "worker_exit": ("worker, before it ends", ("server", "worker")),
    "child_exit": ("master, after a worker has died", ("server", "worker")),
    "on_reload": ("master, at SIGHUP", ("server",)),
    "pre_exec": ("master, before the new binary is executed", ("server",)),
    "nworkers_changed": ("master, when the number of workers has changed", ("server", "new", "old")),
    "on_exit": ("master, before it ends", ("server",)),
}


class Hooks:
    """Those that a settings file defines."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._functions = dict(functions or {})
        for name, function in self._functions.items():
            if name not in NAMES:
                raise BadSetting(name, function, f"there is no such hook; those are {', '.join(NAMES)}")
            given = NAMES[name][1]
            if _arity(function, len(given)) is None:
                raise BadSetting(name, function, f"as a hook it takes ({', '.join(given)}), or the last of these")

    def call(self, name: str, **given: Any) -> None:
        """Call it if there is one; what it raises passes."""
        function = self._functions.get(name)
        if function is None:
            return
        values = [given.get(wanted) for wanted in NAMES[name][1]]
        function(*values[len(values) - (_arity(function, len(values)) or 0) :])

    def call_safely(self, name: str, **given: Any) -> None:
        """The same, where nothing can be stopped any more: what it raises is logged."""
        try:
            self.call(name, **given)
        except (Exception, SystemExit):
            log.exception("hook %s failed", name)

    def __contains__(self, name: str) -> bool:
        return name in self._functions


def _arity(function: Callable[..., Any], most: int) -> int | None:
    """How many of the values it takes: the last ones, for a hook that wants the worker alone; None: it cannot be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return most
    for count in range(most, -1, -1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    return None


class ServerFacts:
    """What a hook is told of the server."""

    def __init__(self, pid: int, settings: Any, addresses: list[str]) -> None:
        self.pid = pid
        self.settings = settings
        self.cfg = settings  # gunicorn's name
        self.addresses = addresses
        self.log = log


class WorkerFacts:
    """What a hook is told of a worker."""

    def __init__(self, slot: int, generation: int, pid: int, settings: Any, exit_status: int | None = None) -> None:
        self.id = slot
        self.generation = generation
        self.pid = pid
        self.settings = settings
        self.cfg = settings
        self.exit_status = exit_status
        self.log = log
