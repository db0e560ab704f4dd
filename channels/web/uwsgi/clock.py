"""Timers, crons and file monitors: each raises a signal, once per server, whatever worker lives.

Every worker registers them; the one that holds a lock carries them out.  When each is due stands in memory that the
workers have in common, so that the next one goes on where this one ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import time
from typing import Any

import gevent
from gevent.event import Event

from channels.core.commons.cache import UPDATE, Cache
from channels.core.commons.plan import CLOCK
from channels.errors import ChannelsError
from channels.web.uwsgi import signals
from channels.web.uwsgi.state import as_number, as_text, state

log = logging.getLogger("channels")

LEADER = 550  # the lock of whoever carries them out
LOOK = 1.0  # seconds between two looks at the files, at the crons, and for a leader
PATH_MAX = 254  # bytes, uWSGI's limit
FORGET = 86400.0  # seconds after which a timer that nobody has any more is forgotten

_STATE = struct.Struct("<dQ")  # when it is due (monotonic), how often it has been

_leading = False
_greenlet: Any = None
_asked = Event()  # this worker has registered something: whoever has not never looks, and never leads


# ---- what is due ----


def cron_matches(when: time.struct_time, minute: int, hour: int, day: int, month: int, weekday: int) -> bool:
    """As uWSGI: -1 is any, -N every N; a day of the month and a day of the week are alternatives (7 is Sunday too)."""

    def fits(wanted: int, now: int) -> bool:
        return wanted == now if wanted >= 0 else now % -wanted == 0

    today = (when.tm_wday + 1) % 7
    if not (fits(minute, when.tm_min) and fits(hour, when.tm_hour) and fits(month, when.tm_mon)):
        return False
    on_day, on_weekday = fits(day, when.tm_mday), fits(weekday if weekday != 7 else 0, today)
    if day == -1:
        return on_weekday
    if weekday == -1:
        return on_day
    return on_day or on_weekday


def wanted(rows: list[list[Any]]) -> dict[bytes, list[Any]]:
    """Of what all workers have registered each once: {key: entry}.

    The same entry twice in one worker is two.
    """
    found: dict[bytes, list[Any]] = {}
    for timers in rows:
        seen: dict[str, int] = {}
        for entry in timers:
            text = json.dumps(entry)
            seen[text] = seen.get(text, 0) + 1
            found[hashlib.blake2s(f"{seen[text]} {text}".encode(), digest_size=16).digest()] = entry
    return found


def look(path: str) -> Any:
    """What one sees of a file, or of a directory and what is in it; None: nothing is there."""
    try:
        facts = os.stat(path)
        seen: list[Any] = [facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size]
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                for entry in entries:
                    inside = entry.stat(follow_symlinks=False)
                    seen.append((entry.name, inside.st_mtime_ns, inside.st_ctime_ns, inside.st_size))
            seen[4:] = sorted(seen[4:])
    except OSError:
        return None
    return seen


class Clock:
    """What the leader knows; everything that outlives it stands in the cache."""

    def __init__(self, memory: Cache) -> None:
        self._memory = memory
        self._entries: dict[bytes, list[Any]] = {}
        self._seen: dict[bytes, Any] = {}
        self._version = -1

    def _read(self, key: bytes) -> tuple[float, int] | None:
        value = self._memory.get(key)
        return _STATE.unpack(value) if value is not None and len(value) == _STATE.size else None

    def _write(self, key: bytes, due: float, count: int) -> None:
        keep = max(FORGET, 2 * (due - time.monotonic()))
        if not self._memory.set(key, _STATE.pack(due, count), keep, UPDATE):
            log.warning("uwsgi: too many timers; some may be late after a worker's death")

    def turn(self) -> float:
        """Raise what is due; seconds until the next look."""
        mine = state()
        assert mine.roster is not None
        version = mine.roster.version()
        if version != self._version:
            self._version = version
            self._entries = wanted([peer.facts.get("timers", []) for peer in mine.peers()])
        now = time.monotonic()
        pause = LOOK
        for key, entry in self._entries.items():
            kind, number, *facts = entry
            if kind == "file":
                self._look(key, number, facts[0])
            elif kind == "cron":
                self._cron(key, number, facts)
            else:
                pause = min(pause, self._timer(key, number, facts[0], facts[1], now))
        return max(pause, 0.001)

    def _timer(self, key: bytes, number: int, seconds: float, times: int, now: float) -> float:
        """Seconds until it is due again."""
        known = self._read(key)
        if known is None:
            self._write(key, now + seconds, 0)
            return seconds
        due, count = known
        if times and count >= times:
            self._write(key, due, count)
            return LOOK
        if now < due:
            return due - now
        late = (now - due) // seconds  # whole periods that nobody was there for
        due += (late + 1) * seconds
        self._write(key, due, count + 1)
        signals.signal(number)
        return due - now

    def _cron(self, key: bytes, number: int, facts: list[int]) -> None:
        clock = time.time()
        minute = int(clock // 60)
        known = self._read(key)
        if cron_matches(time.localtime(clock), *facts) and (known is None or known[1] != minute):
            self._write(key, 0.0, minute)
            signals.signal(number)

    def _look(self, key: bytes, number: int, path: str) -> None:
        seen = look(path)
        if key in self._seen and self._seen[key] != seen:
            signals.signal(number)
        self._seen[key] = seen


def attach() -> Any:
    """In a worker that serves: lead, or wait for the leader's death, once there is something to do."""
    global _greenlet
    if state().timers:
        _asked.set()
    _greenlet = gevent.spawn(_run)
    return _greenlet


def _run() -> None:
    global _leading
    _asked.wait()
    mine = state()
    commons = mine.common("timers")
    clock = Clock(Cache(commons, CLOCK))
    while True:
        if not _leading:
            _leading = commons.try_lock(LEADER)
        pause = LOOK
        if _leading:
            try:
                pause = clock.turn()
            except (ChannelsError, OSError, ValueError, TypeError):
                log.exception("uwsgi: timers failed")
        gevent.sleep(pause)


def release() -> None:
    """The worker drains: another one leads."""
    global _leading
    if _greenlet is not None:
        _greenlet.kill(block=False)
    if _leading:
        _leading = False
        state().common("timers").unlock(LEADER)


# ---- the calls ----


def _add(*entry: Any) -> None:
    mine = state()
    mine.timers.append(list(entry))
    mine.tell()
    _asked.set()


def _seconds(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError("seconds must be a number")
    if not 0 < value <= 1 << 31:
        raise ValueError(f"a timer takes more than 0 seconds, not {value}")
    return value


def add_timer(signum: int, seconds: float) -> None:
    """Raise the signal every so many seconds."""
    _add("timer", as_number(signum, 0, 255, "signum"), _seconds(seconds), 0)


def add_rb_timer(signum: int, seconds: float, iterations: int = 0) -> None:
    """The same, at most `iterations` times; 0: for ever."""
    times = as_number(iterations, 0, 1 << 31, "iterations")
    _add("timer", as_number(signum, 0, 255, "signum"), _seconds(seconds), times)


def add_cron(signum: int, minute: int, hour: int, day: int, month: int, weekday: int) -> bool:
    """Raise the signal at every minute of local time that matches; -1 is any, -N every N."""
    facts = [as_number(value, -59, 59, "a field of cron") for value in (minute, hour, day, month, weekday)]
    _add("cron", as_number(signum, 0, 255, "signum"), *facts)
    return True


def add_file_monitor(signum: int, filename: Any) -> None:
    """Raise the signal when a file, or something in a directory, changes, comes or goes; seen within a second."""
    path = as_text(filename, "filename")
    if not path or len(path.encode()) > PATH_MAX:
        raise ValueError(f"a path has 1 to {PATH_MAX} bytes")
    _add("file", as_number(signum, 0, 255, "signum"), os.path.abspath(path))


CALLS = {call.__name__: call for call in (add_cron, add_file_monitor, add_rb_timer, add_timer)}
