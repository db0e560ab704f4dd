"""Signals of uWSGI: numbers from 0 to 255 that one worker, some, or all of them handle.  They travel as alerts."""

from __future__ import annotations

import logging
from typing import Any, Callable

import gevent
from gevent.event import AsyncResult

from channels.errors import ChannelsError, WorkerGone
from channels.web.uwsgi import mules, waiting
from channels.web.uwsgi.state import Peer, as_number, as_text, state
from channels.worker import alerts, api

log = logging.getLogger("channels")

ALERT = b"uwsgi.signal"
TARGET_MAX = 63  # bytes, uWSGI's limit
ANY = ("", "worker", "worker0")
ALL = ("workers", "active-workers")

_waiters: list[tuple[int, Any]] = []
_turn = 0


def attach() -> None:
    """In a worker: take signals."""
    alerts.receive(ALERT, _take)


def _take(data: bytes) -> None:
    number, mule = data[0], data[1] if len(data) > 1 else 0
    gevent.spawn(_run, number, mule)


def _run(number: int, mule: int) -> None:
    mine = state()
    registered = mine.signals.get(number)
    if registered is None:
        log.warning("uwsgi: signal %d has no handler in worker %d", number, mine.number)
    else:
        mine.signals_handled += 1
        with mules.being(mule):
            try:
                registered[1](number)
            except Exception:
                log.exception("uwsgi: the handler of signal %d failed", number)
    for waiter in list(_waiters):
        if waiter[0] in (-1, number):
            _waiters.remove(waiter)
            waiter[1].set(number)


# ---- where it goes ----


def targets(number: int, target: str, peers: list[Peer]) -> list[tuple[Peer, int]]:
    """(worker, mule or 0) of each that is to handle it.

    A worker that has not registered the signal is left out: it could do nothing.
    """
    able = [peer for peer in peers if str(number) in peer.facts.get("signals", {})]
    if target in ALL:
        return [(peer, 0) for peer in able]
    if target in ANY:
        return [(_least(able), 0)] if able else []
    if target.startswith("worker"):
        wanted = int(target[len("worker") :])
        return [(peer, 0) for peer in able if peer.number == wanted][:1]
    return mules.signal_targets(target, able)


def _least(able: list[Peer]) -> Peer:
    """The one with the fewest running requests; in turn among equals."""
    global _turn
    _turn += 1
    running = {info.id: info.requests for info in api.workers()}
    rotated = able[_turn % len(able) :] + able[: _turn % len(able)]
    return min(rotated, key=lambda peer: running.get(peer.slot, 0))


def _target_of(number: int, peers: list[Peer]) -> str | None:
    registered = state().signals.get(number)
    if registered is not None:
        return registered[0]
    for peer in peers:
        target = peer.facts.get("signals", {}).get(str(number))
        if target is not None:
            return str(target)
    return None


def _check_target(who: str) -> str:
    numbered = who.startswith("worker") and who[len("worker") :].isdigit()
    if len(who) > TARGET_MAX or not (who in ANY or who in ALL or numbered or mules.is_target(who)):
        raise ValueError(f"unable to register signal: there is no target {who!r}")
    return who


# ---- the calls ----


def register_signal(signum: int, who: str, handler: Callable[[int], Any]) -> None:
    """Call `handler(signum)` when the signal comes.

    Args:
        signum: 0 to 255.
        who: "", "worker": one of the workers; "workers", "active-workers": all; "workerN"; "mules", "mule", "muleN",
            "farm_NAME", "farmN" where there are mules.
    """
    mine = state()
    number = as_number(signum, 0, 255, "signum")
    if not callable(handler):
        raise TypeError("the handler must be callable")
    mine.signals[number] = (_check_target(as_text(who, "who")), handler)
    mine.tell()


def signal(signum: int = 0, node: str = "") -> None:
    """Raise a signal; whoever registered it handles it.

    Raises OSError: `node` names another server.
    """
    number = as_number(signum, 0, 255, "signum")
    if node:
        raise OSError(f"unable to deliver signal {number} to node {node}: signals stay on this host")
    peers = state().peers()
    target = _target_of(number, peers)
    if target is None:
        log.warning("uwsgi: signal %d is not registered", number)
        return
    while True:
        chosen = targets(number, target, peers)
        gone = []
        for peer, mule in chosen:
            try:
                alerts.send(None, ALERT, bytes((number, mule)), worker=peer.slot)
            except WorkerGone:
                gone.append(peer)
            except ChannelsError as error:
                log.warning("uwsgi: signal %d to worker %d: %s", number, peer.number, error)
        if target not in ANY or not gone:
            break
        peers = [peer for peer in peers if peer not in gone]
    if not chosen:
        log.warning("uwsgi: nobody can handle signal %d for %r", number, target)


def signal_registered(signum: int) -> bool | None:
    """True, or None."""
    return True if as_number(signum, 0, 255, "signum") in state().signals else None


def signal_wait(signum: int = -1, request_context: Any = None) -> bytes:
    """Wait until this worker has handled this signal, or any; signal_received() tells which."""
    wanted = as_number(signum, -1, 255, "signum")
    waiter: tuple[int, Any] = (wanted, AsyncResult())
    _waiters.append(waiter)
    try:
        waiting.place(request_context).signal_received = waiter[1].get()
    finally:
        if waiter in _waiters:
            _waiters.remove(waiter)
    return b""


def signal_received(request_context: Any = None) -> int:
    """The signal that ended the last signal_wait() here; -1: none has."""
    return int(waiting.place(request_context).signal_received)


CALLS = {call.__name__: call for call in (register_signal, signal, signal_received, signal_registered, signal_wait)}
