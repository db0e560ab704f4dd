"""A worker, from the fork to its end.

Runs in: worker, first without gevent, then under it.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from channels.assignment import Assignment
from channels.errors import ChannelsError
from channels.hooks import ServerFacts, WorkerFacts

log = logging.getLogger("channels")

STATUS_BOOT = 3
STATUS_APP = 4
LINK_BYTES = 65536
TERM_GRACE = 0.5  # seconds after SIGTERM for the supervisor's word: whoever signals the whole group stops that too


def run(given: Assignment, extensions: Sequence[str] = ()) -> int:
    """Serve until told to stop; the exit status.

    `extensions`: modules whose `extension()` makes an application.Extension.

    Words over the link: "ready", "leaving REASON" and "changed FILE" go; "drain", "finish", "abort" and "reopen" come;
    its end means that the supervisor is gone.
    """
    settings = given.settings
    if not settings.no_monkey:
        from gevent import monkey

        monkey.patch_all()
    server = ServerFacts(os.getppid(), settings, [])
    facts = WorkerFacts(given.slot, given.generation, os.getpid(), settings)
    try:
        from channels.worker import application, client

        application.set_environment(settings.raw_env)
        given.hooks.call("post_fork", server=server, worker=facts)
        mine = client.attach(given.segment, given.eventfds, given.slot, given.generation, settings)
        given.let_go()
        given.drop_privileges()
        extended = [importlib.import_module(name).extension() for name in extensions]
        for extension in extended:
            extension.attached(given)
    except (ChannelsError, OSError, MemoryError) as error:
        log.error("worker=%d cannot start: %s", given.slot, error)
        return STATUS_BOOT
    except Exception:
        log.exception("worker=%d cannot start", given.slot)
        return STATUS_BOOT
    _dump_stacks_on_demand()
    found = given.application or _load(given)
    if found is None:
        return STATUS_APP
    try:
        given.hooks.call("post_worker_init", server=server, worker=facts)
        from channels.worker.serve import Serving

        for extension in extended:
            found = extension.loaded(found)
        serving = Serving(given, mine, found)
    except Exception:
        log.exception("worker=%d cannot start", given.slot)
        return STATUS_BOOT
    try:
        return _Worker(given, mine, serving, extended).run()
    finally:
        for extension in extended:
            extension.ended()
        given.hooks.call_safely("worker_exit", server=server, worker=facts)


def _load(given: Assignment) -> Any:
    from channels.worker import application

    try:
        return application.load(given.settings.app, given.settings.chdir)
    except ChannelsError as error:
        log.error("%s", error)
    except (Exception, SystemExit):
        log.exception("cannot import the application %r", given.settings.app)
    return None


class _Worker:
    """The main greenlet: words from the supervisor, signals, the end."""

    def __init__(self, given: Assignment, client: Any, serving: Any, extended: Sequence[Any] = ()) -> None:
        self.given = given
        self.client = client
        self.serving = serving
        self.extended = extended
        self.link = given.link

    def run(self) -> int:
        import gevent
        from gevent.event import AsyncResult

        outcome: Any = AsyncResult()
        gevent.signal_handler(signal.SIGTERM, gevent.spawn_later, TERM_GRACE, self._drain_alone, outcome)
        gevent.spawn(self._listen, outcome)
        self.serving.on_leaving = lambda reason: self._say(f"leaving {reason}")
        self.client.endpoint.set_ready(True)
        for extension in self.extended:
            extension.serving()
        self.serving.start()
        self._say("ready")
        if self.given.settings.reload and self.given.number == 0:
            from channels.worker import reloader

            reloader.start(lambda path: self._say(f"changed {path}"))
        word = outcome.get()
        if word == "abort":
            return 0
        self.client.endpoint.set_ready(False)
        for extension in self.extended:
            extension.draining()
        self.serving.drain(self.given.settings.graceful_timeout, last=word == "finish")
        return 0

    def _drain_alone(self, outcome: Any) -> None:
        """SIGTERM, and the supervisor says nothing: others go on accepting."""
        if not outcome.ready():
            outcome.set("drain")

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
                self.serving.reopen()
            elif word == "abort":
                self.serving.flush()
                os._exit(0)
            elif word in ("drain", "finish"):
                outcome.set(word)
            elif not word:
                log.error("worker=%d: the supervisor is gone; finishing what is open", self.given.slot)
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

        lines: list[str] = format_run_info(current_thread_ident=None)  # type: ignore[assignment,func-returns-value]
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()

    signal.signal(signal.SIGUSR2, dump)
    faulthandler.register(signal.SIGUSR2, all_threads=True, chain=True)
