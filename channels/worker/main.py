"""A worker, from the fork to its end.

Runs in: worker, first without gevent, then under it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from channels.core import native
from channels.errors import ChannelsError
from channels.settings import Settings

log = logging.getLogger("channels")

STATUS_BOOT = 3
STATUS_APP = 4
LINK_BYTES = 65536


def run(
    segment: native.Segment,
    eventfds: Sequence[int],
    slot: int,
    generation: int,
    settings: Settings,
    listeners: Sequence[socket.socket],
    link: socket.socket,
) -> int:
    """Serve until told to stop; the exit status.

    Words over the link: "ready" and "leaving REASON" go; "drain", "abort" and "reopen" come; its end means that the
    supervisor is gone.
    """
    if not settings.no_monkey:
        from gevent import monkey

        monkey.patch_all()
    try:
        from channels.worker import client

        mine = client.attach(segment, eventfds, slot, generation, settings)
    except (ChannelsError, OSError, MemoryError) as error:
        log.error("worker=%d cannot attach: %s", slot, error)
        return STATUS_BOOT
    _dump_stacks_on_demand()
    application = _load(settings)
    if application is None:
        return STATUS_APP
    from channels.worker.serve import Serving

    return _Worker(mine, Serving(listeners, application), settings, link).run()


def _load(settings: Settings) -> Any:
    from channels.worker import application

    try:
        return application.load(settings.app, settings.chdir)
    except ChannelsError as error:
        log.error("%s", error)
    except (Exception, SystemExit):
        log.exception("cannot import the application %r", settings.app)
    return None


class _Worker:
    """The main greenlet: words from the supervisor, signals, the end."""

    def __init__(self, client: Any, serving: Any, settings: Settings, link: socket.socket) -> None:
        self.client = client
        self.serving = serving
        self.settings = settings
        self.link = link

    def run(self) -> int:
        import gevent
        from gevent.event import AsyncResult

        outcome: Any = AsyncResult()
        gevent.signal_handler(signal.SIGTERM, outcome.set, "drain")
        gevent.spawn(self._listen, outcome)
        self.serving.start()
        self.client.endpoint.set_ready(True)
        self._say("ready")
        word = outcome.get()
        if word == "abort":
            return 0
        self.client.endpoint.set_ready(False)
        self.serving.drain(self.settings.graceful_timeout)
        return 0

    def _listen(self, outcome: Any) -> None:
        import gevent

        from channels import log as logs

        hub = gevent.get_hub()
        io = hub.loop.io(self.link.fileno(), 1)
        while True:
            hub.wait(io)
            try:
                word = os.read(self.link.fileno(), LINK_BYTES).decode()
            except BlockingIOError:
                continue
            except OSError:
                word = ""
            if word == "reopen":
                logs.reopen()
            elif word == "abort":
                outcome.set("abort")
                os._exit(0)
            elif word == "drain":
                outcome.set("drain")
            elif not word:
                log.error("the supervisor is gone; finishing what is open")
                outcome.set("drain")
                return

    def _say(self, message: str) -> None:
        try:
            os.write(self.link.fileno(), message.encode())
        except OSError:
            log.debug("the supervisor does not listen: %s", message)


def _dump_stacks_on_demand() -> None:
    """SIGUSR2 before a harakiri: greenlets if Python still runs, threads in any case."""

    def dump(number: int, frame: Any) -> None:
        from gevent.util import format_run_info

        sys.stderr.write("\n".join(format_run_info(current_thread_ident=None)) + "\n")
        sys.stderr.flush()

    signal.signal(signal.SIGUSR2, dump)
    faulthandler.register(signal.SIGUSR2, all_threads=True, chain=True)
