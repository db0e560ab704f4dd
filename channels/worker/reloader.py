"""`--reload`: tells when a source file of the application has changed.  For development.

Runs in: worker, in a thread of the hub's pool; the watching itself is native code without the GIL.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
from collections.abc import Iterable
from typing import Callable

import gevent
import watchfiles

log = logging.getLogger("channels")

STEP_MS = 200  # changes that follow each other so soon are one
TURN_MS = 500  # a quiet time ends so often, to be begun again


def places() -> list[str]:
    """Where the application's sources are.

    The working directory, and whatever was imported from elsewhere but this package and the interpreter's own places.
    """
    foreign = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    found = {os.getcwd()}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if (
            name.partition(".")[0] != "channels"
            and isinstance(path, str)
            and not os.path.abspath(path).startswith(foreign)
        ):
            found.add(os.path.dirname(os.path.abspath(path)))
    return outermost(place for place in found if os.path.isdir(place))


def outermost(found: Iterable[str]) -> list[str]:
    """Those that are not inside of another one."""
    kept: list[str] = []
    for place in sorted(set(found)):
        if not kept or not place.startswith(kept[-1].rstrip(os.sep) + os.sep):
            kept.append(place)
    return kept


def start(on_change: Callable[[str], None]) -> None:
    """Call `on_change(path)` in the hub whenever files change; several changes at once are one."""
    gevent.spawn(_watch, places(), on_change)


def _watch(watched: list[str], on_change: Callable[[str], None]) -> None:
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    changes = watchfiles.watch(
        *watched,
        watch_filter=watchfiles.PythonFilter(),
        step=STEP_MS,
        rust_timeout=TURN_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    pool = gevent.get_hub().threadpool
    told = False
    while (found := pool.apply(next, (changes, None))) is not None:
        if not told:
            told = True
            log.info("reload: watching %s", ", ".join(watched))
        if found:
            on_change(min(path for _, path in found))
