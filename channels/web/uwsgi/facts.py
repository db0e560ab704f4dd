"""What an application can ask of the server, and the little that it can tell it."""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import socket
from typing import Any

import gevent
from greenlet import getcurrent

from channels import __version__
from channels.core import native
from channels.settings import Settings
from channels.web.uwsgi import mules, request
from channels.web.uwsgi.state import as_text, state

log = logging.getLogger("channels")

VERSION = (2, 0, 31, 0, f"channels-{__version__}".encode())  # uWSGI's that is followed
KILL_AFTER = 1.0  # seconds beyond a harakiri in which the greenlet must have ended
COMM = "/proc/self/comm"  # proc(5): a thread may write its own name there, 15 bytes


class WorkerFacts(dict):  # type: ignore[type-arg]  # keys are str; the stubs promise bytes
    """A worker in workers(); keys may be given as bytes too."""

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, bytes):
            return self[key.decode()]
        raise KeyError(key)


def options(settings: Settings) -> dict[str, Any]:
    """uwsgi.opt: what of the settings has a name in uWSGI, then what `uwsgi_opt` adds."""
    found: dict[str, Any] = {
        "master": True,
        "workers": str(settings.workers).encode(),
        "processes": str(settings.workers).encode(),
        "module": settings.app.encode(),
        "http-socket": [text.encode() for text in settings.bind],
        "gevent": b"1000",
        "enable-threads": True,
        "lazy-apps": not settings.preload_app,
    }
    if settings.uwsgi_mules:
        found["mules"] = str(settings.uwsgi_mules).encode()
    for text in settings.uwsgi_opt:
        name, equals, value = text.partition("=")
        fresh: Any = value.encode() if equals else True
        if name in found and name not in _OWN:
            before = found[name]
            fresh = [*before, fresh] if isinstance(before, list) else [before, fresh]
        found[name] = fresh
    return {name: value for name, value in found.items() if value is not False}


_OWN = {"master", "workers", "processes", "module", "http-socket", "gevent", "enable-threads", "lazy-apps", "mules"}


def attributes(settings: Settings) -> dict[str, Any]:
    """The module's values."""
    return {
        "SymbolsImporter": None,
        "applications": None,
        "buffer_size": 65536,
        "cores": 1000,
        "has_threads": 1,
        "hostname": socket.gethostname().encode(),
        "is_a_reload": False,
        "loop": b"gevent",
        "magic_table": {},
        "numproc": settings.workers,
        "opt": options(settings),
        "queue_size": settings.uwsgi_queue,
        "sockets": [],
        "started_on": state().started,
        "unbit": None,
        "version": b"2.0.31-" + VERSION[4],
        "version_info": VERSION,
    }


# ---- the calls ----


def worker_id() -> int:
    """1 to numproc, a successor's the same; 0 in the master and in a mule."""
    return 0 if mules.mule_id() else state().number


def masterpid() -> int:
    """The supervisor's process id."""
    return state().master_pid


def workers() -> tuple[dict[str, Any], ...] | None:
    """What each worker is and does."""
    mine = state()
    if mine.given is None:
        return None
    index = native.worker_counter_index
    segment = mine.given.segment
    found: dict[int, dict[str, Any]] = {}
    for peer in mine.peers(ready_only=False):
        if peer.number in found:
            continue  # one that drains, beside its successor
        running = segment.worker_counter(peer.slot, index["requests_running"])
        total = segment.worker_counter(peer.slot, index["requests_total"])
        rss, vsz = memory_of(peer.pid)
        errors = segment.worker_counter(peer.slot, index["request_errors"])
        found[peer.number] = WorkerFacts(
            id=peer.number,
            pid=peer.pid,
            requests=total,
            delta_requests=total,
            signals=int(peer.facts.get("handled", 0)),
            exceptions=errors,
            status=b"busy" if running else b"idle",
            rss=rss,
            vsz=vsz,
            running_time=0,
            last_spawn=int(peer.facts.get("started", 0)),
            respawn_count=peer.generation // 2,
            tx=0,
            avg_rt=0,
            apps=(
                {
                    "id": 0,
                    "modifier1": 0,
                    "mountpoint": b"",
                    "startup_time": 0,
                    "interpreter": 0,
                    "callable": 0,
                    "requests": total,
                    "exceptions": errors,
                    "chdir": mine.settings.chdir.encode(),
                },
            ),
        )
    return tuple(found[number] for number in sorted(found))


def memory_of(pid: int | str) -> tuple[int, int]:
    """(resident, virtual) bytes; zeros when it has gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as source:
            pages = source.read().split()
        return int(pages[1]) * resource.getpagesize(), int(pages[0]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0, 0


def mem() -> tuple[int, int]:
    """(resident, virtual) bytes of this worker."""
    return memory_of("self")


def total_requests() -> int:
    """Of all workers that live."""
    mine = state()
    if mine.given is None:
        return 0
    index = native.worker_counter_index["requests_total"]
    return sum(mine.given.segment.worker_counter(peer.slot, index) for peer in mine.peers(ready_only=False))


def log_line(logline: Any) -> bool:
    """Write a line to the error log."""
    log.info("%s", as_text(logline, "logline").rstrip("\n"))
    return True


def logsize() -> int:
    """Bytes of the error log's file; 0 when it goes to stderr."""
    path = state().settings.errorlog
    try:
        return os.stat(path).st_size if path not in ("", "-") else 0
    except OSError:
        return 0


def reload() -> bool | None:
    """Ask the master to replace all workers.  None: it does not listen."""
    return state().say("asks reload") or None


def stop() -> bool | None:
    """Ask the master to end the server gracefully.  None: it does not listen."""
    return state().say("asks stop") or None


def setprocname(name: Any) -> None:
    """What ps -o comm and top show of this process: 15 bytes."""
    with open(COMM, "w", encoding="utf-8") as target:
        target.write(as_text(name)[:15])


def i_am_the_spooler() -> None:
    """None: there is no spooler."""
    return None


def ready() -> bool:
    """This server has begun: True."""
    return True


class Harakiri(BaseException):
    """The request has taken longer than it allowed itself."""


class _Deadline:
    """Ends a request's greenlet; when that does not turn any more, the worker."""

    pending: list[_Deadline] = []

    def __init__(self, seconds: float) -> None:
        self._greenlet = getcurrent()
        self._seconds = seconds
        self._timer = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._over, update=True)
        self.pending.append(self)
        faulthandler.dump_traceback_later(seconds + KILL_AFTER, exit=True)

    def _over(self) -> None:
        self.close()
        log.error("uwsgi: a request has taken longer than set_user_harakiri(%s)", self._seconds)
        try:
            self._greenlet.throw(Harakiri(f"longer than {self._seconds} seconds"))
        except BaseException:
            log.exception("uwsgi: the greenlet of a harakiri")

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()
        if self in self.pending:
            self.pending.remove(self)
        if not self.pending:
            faulthandler.cancel_dump_traceback_later()


def set_user_harakiri(seconds: float) -> None:
    """End this request unless set_user_harakiri(0) comes within so many seconds.

    Its greenlet gets an exception; when the whole worker does not turn any more, it is ended and replaced.
    """
    if seconds < 0:
        raise ValueError("seconds cannot be negative")
    context = request.current()
    if context.harakiri is not None:
        context.harakiri.close()
        context.harakiri = None
    if seconds:
        context.harakiri = _Deadline(seconds)


CALLS = {
    **{
        function.__name__: function
        for function in (
            i_am_the_spooler, logsize, masterpid, mem, ready, reload, set_user_harakiri, setprocname, stop,
            total_requests, worker_id, workers,
        )
    },
    "log": log_line,
}  # fmt: skip
