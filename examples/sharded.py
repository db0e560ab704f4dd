"""A counter per user in SQLite that only ever one worker writes: no lock between processes.  Plain WSGI.

    channels examples.sharded:app --workers 4 --sticky path:2

    /                 how this works, with the last counters
    /count/<user>     one more; says the count and which worker counted

`--sticky path:2` says that the second part of the path decides which worker serves a request.  Whoever accepts a
connection reads the head and passes it on to that worker, also from request to request on the same connection, and
through reloads no two workers ever serve the same user at the same time.  So it is enough to lock within the process.
"""

import collections
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

import gevent
from gevent.lock import RLock

STORE = Path(os.environ.get("SHARDED_STORE", "sharded-data"))
NAME_MAX = 100

locks = collections.defaultdict(RLock)


def path_of(user):
    return STORE / f"{quote(user, safe='')}.sqlite"


def count(user):
    """Read, think, write: the classical way to lose updates, were two processes to do it at once."""
    with locks[user], sqlite3.connect(path_of(user), isolation_level=None) as store:
        store.execute("CREATE TABLE IF NOT EXISTS counter (value INTEGER NOT NULL)")
        found = store.execute("SELECT value FROM counter").fetchone()
        gevent.sleep(0.001)  # others of this worker run meanwhile
        value = found[0] + 1 if found else 1
        store.execute("DELETE FROM counter")
        store.execute("INSERT INTO counter VALUES (?)", (value,))
    store.close()
    return value


def app(environ, start_response):
    kind, _, user = environ["PATH_INFO"].lstrip("/").partition("/")
    if kind == "count" and 0 < len(user) <= NAME_MAX and "/" not in user:
        STORE.mkdir(exist_ok=True)
        status, text = "200 OK", f"{count(user)} {os.getpid()}\n"
    elif not kind:
        users = sorted(path.stem for path in STORE.glob("*.sqlite"))[:NAME_MAX] if STORE.exists() else []
        status, text = "200 OK", f"{__doc__}\nusers: {', '.join(users) or 'none yet'}\n"
    else:
        status, text = "404 Not Found", "try /count/<user>\n"
    body = text.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
