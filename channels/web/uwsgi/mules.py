"""Mules: greenlets that take messages and signals, each in one of the workers, in another when that one dies.

uWSGI's mules are processes.  What they are used for here: work beside the requests, once per server.  Their messages
stand in queues that the workers have in common, so that none is lost with the worker that runs the mule.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import time
from collections.abc import Iterator
from typing import Any, Callable

import gevent
from gevent.event import Event

from channels.core.commons.queue import Queue
from channels.errors import ChannelsError
from channels.web.uwsgi.state import Peer, State, as_bytes, as_text, state
from channels.worker import alerts

log = logging.getLogger("channels")

ALERT = b"uwsgi.mule"  # a message waits
LOCK_BASE = 600  # mule k's place is held by the process that holds lock LOCK_BASE + k
LOOK = 1.0  # seconds between two looks for a mule without a worker
CHECK = 0.25  # seconds after which a mule looks at its queues although nobody has said anything

_id: contextvars.ContextVar[int] = contextvars.ContextVar("uwsgi_mule", default=0)
_mine: dict[int, Any] = {}
_arrived = Event()


@contextlib.contextmanager
def being(mule: int) -> Iterator[None]:
    """What runs in here is that mule's."""
    token = _id.set(mule)
    try:
        yield
    finally:
        _id.reset(token)


def farms(mine: State) -> dict[str, list[int]]:
    """{name: mules}, from the settings."""
    found = {}
    for text in mine.settings.uwsgi_farms:
        name, *members = text.split(":")
        found[name] = [int(member) for member in members]
    return found


# ---- in a worker ----


def attach(brain: Callable[[], None], hook: Callable[[], Any]) -> list[Any]:
    """Look after the mules.

    Args:
        brain: Run in each mule at first: what the application does at a fork.
        hook: The application's mule_msg_hook, or None.
    """
    if not state().settings.uwsgi_mules:
        return []
    alerts.receive(ALERT, lambda data: _arrived.set())
    return [gevent.spawn(_keep, brain, hook)]


def _keep(brain: Callable[[], None], hook: Callable[[], Any]) -> None:
    """Take mules that nobody runs, one at a time, so that the workers share them."""
    mine = state()
    commons = mine.common("mules")
    gevent.sleep(0.1 * mine.number)
    while True:
        for mule in range(1, mine.settings.uwsgi_mules + 1):
            if mule not in _mine and commons.try_lock(LOCK_BASE + mule):
                _mine[mule] = gevent.spawn(_live, mule, brain, hook)
                break
        gevent.sleep(LOOK)


def _live(mule: int, brain: Callable[[], None], hook: Callable[[], Any]) -> None:
    log.info("uwsgi: mule=%d runs in worker=%d", mule, state().number)
    with being(mule):
        while True:
            try:
                brain()
                while True:
                    message = mule_get_msg()
                    taker = hook()
                    if message and taker is not None:
                        taker(message)
            except (Exception, SystemExit):
                log.exception("uwsgi: mule %d failed; it begins again", mule)
            gevent.sleep(LOOK)


def release() -> None:
    """The worker drains: another one may run its mules."""
    commons = state().commons
    for mule, greenlet in list(_mine.items()):
        greenlet.kill(block=False)
        del _mine[mule]
        if commons is not None:
            commons.unlock(LOCK_BASE + mule)


# ---- signals ----


def is_target(who: str) -> bool:
    """Whether a signal can be for it."""
    mine = state()
    if who in ("mules", "mule", "mule0"):
        return mine.settings.uwsgi_mules > 0
    if who.startswith("mule") and who[4:].isdigit():
        return int(who[4:]) <= mine.settings.uwsgi_mules
    if who.startswith("farm_"):
        return who[5:] in farms(mine)
    return who.startswith("farm") and who[4:].isdigit() and 1 <= int(who[4:]) <= len(farms(mine))


def signal_targets(target: str, able: list[Peer]) -> list[tuple[Peer, int]]:
    """(worker, mule) of those that take a signal for mules: all of "mules", else one."""
    known = farms(state())
    everyone = list(range(1, state().settings.uwsgi_mules + 1))
    if target in ("mules", "mule", "mule0"):
        wanted = everyone
    elif target.startswith("mule"):
        wanted = [int(target[4:])]
    else:
        wanted = known[target[5:]] if target.startswith("farm_") else list(known.values())[int(target[4:]) - 1]
    found = [(peer, mule) for mule in wanted for peer in able if peer.pid == _runner(mule)]
    return found if target == "mules" else found[:1]


def _runner(mule: int) -> int:
    """The process id of the worker that runs it; 0: none does now."""
    mine = state()
    if mule in _mine:
        return next((peer.pid for peer in mine.peers() if mine.given and peer.slot == mine.given.slot), 0)
    return mine.common("mules").holder(LOCK_BASE + mule)


# ---- the calls ----


def _queue(name: str) -> Queue:
    return Queue(state().common("mules"), name)


def _push(name: str, message: bytes) -> bool:
    pushed = _queue(name).push(message, overwrite=False)
    if pushed:
        try:
            alerts.broadcast(ALERT, b"")
        except ChannelsError as error:
            log.debug("uwsgi: mules look by themselves: %s", error)
    return pushed


def mule_msg(message: Any, target: Any = 0) -> bool:
    """Send a message to a mule by number, to a farm by name, or to whichever mule is first (0).

    False: it is empty, longer than 65,536 bytes, or 1,024 wait already.  Raises ValueError: no such mule or farm.
    """
    mine = state()
    if not mine.settings.uwsgi_mules:
        raise ValueError("no mule configured: set uwsgi_mules")
    data = as_bytes(message, "message")
    if isinstance(target, (str, bytes)):
        name = as_text(target, "farm")
        if name not in farms(mine):
            raise ValueError(f"unknown farm {name!r}")
        return _push(f"/farm:{name}", data)
    if not isinstance(target, int) or not 0 <= target <= mine.settings.uwsgi_mules:
        raise ValueError(f"invalid mule {target!r}")
    return _push(f"/mule{target}" if target else "/mules", data)


def farm_msg(farm_name: Any, message: Any) -> None:
    """Send a message to whichever mule of a farm is first; an unknown farm is passed over, as in uWSGI."""
    name = as_text(farm_name, "farm")
    if name in farms(state()):
        _push(f"/farm:{name}", as_bytes(message, "message"))


def mule_id() -> int:
    """Which mule runs this; 0: none."""
    return _id.get()


def in_farm(farm_name: Any = None) -> bool | None:
    """Whether this mule belongs to the farm, or to any: True, or None."""
    known = farms(state())
    names = list(known) if farm_name is None else [as_text(farm_name, "farm")]
    return True if mule_id() and any(mule_id() in known.get(name, []) for name in names) else None


def _get(names: list[str], timeout: float) -> bytes | None:
    deadline = time.monotonic() + timeout if timeout >= 0 else None
    queues = [_queue(name) for name in names]
    while True:
        _arrived.clear()
        for queue in queues:
            message = queue.pull()
            if message is not None:
                return message
        left = CHECK if deadline is None else min(CHECK, deadline - time.monotonic())
        if left <= 0:
            return None
        _arrived.wait(left)


def mule_get_msg(signals: Any = True, farms: Any = True, buffer_size: int = 65536, timeout: float = -1) -> bytes | None:
    """The next message for this mule; waits cooperatively.

    Signals are handled meanwhile in any case.  None: `timeout` seconds are over.  Raises ValueError: not in a mule.
    """
    mule = mule_id()
    if not mule:
        raise ValueError("only a mule gets messages of mules")
    mine = _mine_farms() if farms else []
    message = _get([f"/mule{mule}", "/mules", *mine], timeout)
    return None if message is None else message[:buffer_size]


def farm_get_msg() -> bytes | None:
    """The next message for a farm of this mule; waits cooperatively.  Raises ValueError: not in a mule."""
    if not mule_id():
        raise ValueError("only a mule gets messages of farms")
    return _get(_mine_farms(), -1)


def _mine_farms() -> list[str]:
    return [f"/farm:{name}" for name, members in farms(state()).items() if mule_id() in members]


CALLS = {call.__name__: call for call in (farm_get_msg, farm_msg, in_farm, mule_get_msg, mule_id, mule_msg)}
