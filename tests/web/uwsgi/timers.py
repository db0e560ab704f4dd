"""Timers, crons and a file monitor, told on stdout; mules."""

from __future__ import annotations

import os
from typing import Any

import uwsgi  # type: ignore[import-not-found]


def say(text: str) -> None:
    """One call for the line: print makes two of it, and workers share the pipe."""
    os.write(1, text.encode() + b"\n")


def _say(number: int) -> None:
    say(f"signal {number} in {os.getpid()} mule {uwsgi.mule_id()}")


for number in range(1, 6):
    uwsgi.register_signal(number, "", _say)
uwsgi.add_timer(1, 0.2)
uwsgi.add_rb_timer(2, 0.1, 3)
uwsgi.add_cron(3, -1, -1, -1, -1, -1)
uwsgi.add_cron(4, 61 - 2, 24 - 1, 31, 2, -1)  # the 31st of February
uwsgi.add_file_monitor(5, os.environ["WATCHED"])

if "uwsgi_mules" in uwsgi.opt or "mules" in uwsgi.opt:
    uwsgi.register_signal(20, "mule1", _say)
    uwsgi.register_signal(21, "mules", _say)
    uwsgi.mule_msg_hook = lambda message: say(f"mule {uwsgi.mule_id()} got {message!r}")


def _fork() -> None:
    if uwsgi.mule_id() == 2:
        while True:
            message = uwsgi.mule_get_msg()
            say(f"brain 2 of {uwsgi.in_farm('pool')} got {message!r} in {os.getpid()}")


uwsgi.post_fork_hook = _fork


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    try:
        answer = repr(eval(environ["wsgi.input"].read().decode(), {"uwsgi": uwsgi}))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    start_response("200 OK", [])
    return [answer.encode()]
