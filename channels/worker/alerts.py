"""Alerts: named messages from one worker to another, straight, not through the master.

After ngx_lua_ipc.  Order is kept from one sender to one receiver.  Runs in: worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Callable

import gevent
from greenlet import GreenletExit, getcurrent

from channels.core import native
from channels.errors import CallTimeout, MessageTooBig, RemoteError, RingFull, WorkerGone
from channels.worker import answers
from channels.worker import client as fabric
from channels.worker.room import Wake

log = logging.getLogger("channels")

Handler = Callable[[bytes], Any]

RUN_AT_ONCE = 512  # alerts that one handler takes before other greenlets get their turn
ENDS = (GreenletExit, SystemExit, KeyboardInterrupt)  # what ends a greenlet, or the process, whoever raised it


class _Receiver:
    """One name's handler, its queue, and the greenlet that runs it in order."""

    def __init__(self, box: Box, name: bytes, handler: Handler, ordered: bool) -> None:
        settings = box.client.settings
        self.box = box
        self.name = name
        self.handler = handler
        self.ordered = ordered
        self.queue = native.AlertQueue(
            box.client.endpoint, name, settings.alert_queue_length, settings.alert_queue_bytes
        )
        self.queue.handler = handler
        self.greenlet = gevent.spawn(self._run)
        self.greenlet.rawlink(self._ended)

    def _run(self) -> None:
        queue = self.queue
        step = self._run_in_order if self.ordered else self._run_apart
        queue.enter(getcurrent())
        try:
            while not queue.closed:
                try:
                    step()
                except ENDS:
                    raise
                except BaseException:  # such as a Timeout that a handler had started and left behind
                    log.exception("alert=%s", self._shown)
        finally:
            queue.leave(getcurrent())

    def _ended(self, _: Any) -> None:
        """The greenlet was killed: nobody may wait for what it would have handled.  In the hub."""
        if not self.queue.closed:
            self.box.drop(self)

    def _run_in_order(self) -> None:
        if self.queue.run(RUN_AT_ONCE, self._finish):
            gevent.sleep(0)
        else:
            self._wait()

    def _run_apart(self) -> None:
        alert = self.queue.take()
        if alert is None:
            self._wait()
        else:
            try:
                gevent.spawn(self._handle, *alert)
            except MemoryError:
                self._owe(alert[1], alert[2])
                raise

    def _owe(self, source: int, correlation: int | None) -> None:
        """There was no memory to handle it, or to answer."""
        if correlation is not None:
            answers.owe(self.box.client, source, correlation)

    def _wait(self) -> None:
        queue = self.queue
        if len(queue) or queue.closed:
            return
        queue.waiter = getcurrent()
        try:
            self.box.client.hub.switch()
        finally:
            queue.waiter = None

    def _handle(self, data: bytes, source: int, correlation: int | None, hops: int) -> None:
        endpoint = self.box.client.endpoint
        try:
            context = native.AlertContext(source, correlation, hops)
            context.enter(endpoint, getcurrent())
            try:
                result: Any = None
                error: BaseException | None = None
                try:
                    result = self.handler(data)
                except BaseException as caught:
                    error = caught
                self._settle(source, correlation, result, error)
            finally:
                context.leave(endpoint, getcurrent())
        except MemoryError:  # not of the handler
            self._owe(source, correlation)
            raise

    def _finish(self, result: Any, error: BaseException | None) -> None:
        handled = self.queue.context
        assert handled is not None  # called while the handler's alert stands
        source, correlation, _ = handled
        self._settle(source, correlation, result, error)

    def _settle(self, source: int, correlation: int | None, result: Any, error: BaseException | None) -> None:
        """Answer whoever called.  Raises what a handler must not keep from its greenlet, and nothing else."""
        if error is None and result is not None:
            try:
                result = memoryview(result).tobytes()
            except TypeError:
                error = TypeError(f"a handler returns bytes or None, not {type(result).__name__}")
            except Exception as caught:  # a view that was released, no memory
                error = caught
        if correlation is not None:
            answers.answer(self.box.client, source, correlation, result, error)
        if isinstance(error, ENDS):
            raise error
        if error is not None:
            log.error("alert=%s handler failed", self._shown, exc_info=error)

    @property
    def _shown(self) -> str:
        return self.name.decode(errors="replace")

    def replace(self, handler: Handler) -> None:
        """What waits is the new handler's."""
        self.handler = self.queue.handler = handler

    def close(self) -> None:
        """What waits is discarded; calls among it are refused, as if they came now."""
        self.queue.close()
        while (alert := self.queue.take()) is not None:
            _, source, correlation, _ = alert
            if correlation is not None:
                error = LookupError(f"{self._shown!r} has no handler any more")
                answers.answer(self.box.client, source, correlation, None, error)
        if self.greenlet is not getcurrent() and self.queue.waiter is not None:
            self.box.client.hub.loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self.queue.waiter is not None:
            self.box.client.room.switch(self.queue.waiter)


class _Call:
    __slots__ = ("name", "outcome", "wake", "worker")

    def __init__(self, worker: tuple[int, int], name: bytes) -> None:
        self.wake = Wake()
        self.worker = worker
        self.name = name
        self.outcome: bytes | Exception | None = None


class Box:
    """The alerts of this worker: its handlers, and the calls that wait for an answer."""

    def __init__(self, client: fabric.Client) -> None:
        self.client = client
        self.receivers: dict[bytes, _Receiver] = {}
        self._calls: dict[int, _Call] = {}
        self._correlation = 0
        client.on_event["reply"] = self._on_reply
        client.on_event["gone"] = self._on_gone

    # ---- receiving ----

    def receive(self, name: str | bytes, handler: Handler | None, ordered: bool) -> None:
        raw = native.alert_name(name)
        if handler is not None and not callable(handler):
            raise TypeError(f"a handler must be callable, not {type(handler).__name__}")
        old = self.receivers.get(raw)
        if old is not None and handler is not None and old.ordered == ordered:
            old.replace(handler)
            return
        if old is not None:
            self.drop(old)
        if handler is not None:
            receiver = self.receivers[raw] = _Receiver(self, raw, handler, ordered)
            native.set_alert_queue(self.client.endpoint, raw, receiver.queue)

    def drop(self, receiver: _Receiver) -> None:
        """Its name has no handler any more."""
        native.set_alert_queue(self.client.endpoint, receiver.name, None)
        del self.receivers[receiver.name]
        receiver.close()

    # ---- sending ----

    def send(
        self, target: tuple[int, int], name: bytes, data: Any, flags: int, correlation: int, timeout: float | None
    ) -> None:
        endpoint = self.client.endpoint
        hops = native.alert_hops(endpoint)
        if target[0] == endpoint.slot:
            native.alert_self(endpoint, native.ALERT, flags, hops, correlation, name, _body(self.client, data))
            return
        left = native.send_alerts(endpoint, [target], flags, hops, correlation, name, data)
        if left is not None:
            self.send_left(left, name, data, flags, hops, correlation, timeout)

    def send_left(
        self,
        left: list[tuple[int, int, str]],
        name: bytes,
        data: Any,
        flags: int,
        hops: int,
        correlation: int,
        timeout: float | None,
    ) -> None:
        """What did not go at once: wait for room, or travel in fragments."""
        if len(left) == 1 and left[0][2] == "gone":
            raise WorkerGone(left[0][0])
        limit = self.client.settings.send_timeout if timeout is None else timeout
        deadline = None if limit == math.inf else time.monotonic() + limit
        targets = [(slot, generation) for slot, generation, _ in left]
        parcel = native.Parcel(self.client.endpoint, native.ALERT, flags, hops, correlation, name, data, targets)
        done = False
        try:
            done = self.client.sender.pump(parcel, deadline, None)
        finally:
            if not done:
                late = [slot for slot, _ in parcel.waiting]
                self.client.sender.abort(parcel)
        if not done:
            raise RingFull(f"worker {', '.join(map(str, late))}", limit)
        if len(targets) == 1 and not parcel.delivered:
            raise WorkerGone(targets[0][0])

    # ---- calling ----

    def call_start(self, target: tuple[int, int], name: bytes, data: Any, timeout: float | None) -> tuple[int, _Call]:
        self._correlation += 1
        correlation = self._correlation
        call = self._calls[correlation] = _Call(target, name)
        try:
            self.send(target, name, data, native.CALL, correlation, timeout)
        except BaseException:
            del self._calls[correlation]
            raise
        return correlation, call

    def call_wait(self, correlation: int, call: _Call, deadline: float | None, timeout: float | None) -> bytes | None:
        try:
            while not call.wake.fired:
                left = None if deadline is None else deadline - time.monotonic()
                if not self.client.room.park(call.wake, left) and (left is not None or getcurrent() is self.client.hub):
                    raise CallTimeout(call.worker[0], call.name.decode(), timeout or 0.0)
        finally:
            self._calls.pop(correlation, None)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    def _on_reply(self, correlation: int, failed: bool, data: bytes | None, source: int) -> None:
        call = self._calls.get(correlation)
        if call is None or call.wake.fired or native.join_id(*call.worker) != source:
            return  # too late, or somebody else's: its asker has had its outcome
        if failed:
            call.outcome = RemoteError(call.worker[0], call.name.decode(), (data or b"").decode(errors="replace"))
        else:
            call.outcome = data
        self.client.room.fire(call.wake)

    def _on_gone(self, slot: int, generation: int) -> None:
        for call in list(self._calls.values()):
            if call.worker[0] == slot and call.worker[1] <= generation and not call.wake.fired:
                call.outcome = WorkerGone(slot)
                self.client.room.fire(call.wake)


def _body(client: fabric.Client, data: Any) -> bytes:
    """An alert's data as bytes.  Raises MessageTooBig, TypeError."""
    if isinstance(data, str):
        raise TypeError("data must be bytes-like, not str; encode it first: data.encode()")
    size = memoryview(data).nbytes
    if size > client.settings.message_max:
        raise MessageTooBig(size, client.settings.message_max)
    return data if type(data) is bytes else memoryview(data).tobytes()


_box: Box | None = None


def box(what: str) -> Box:
    """This worker's.  Raises NotAttached, ForkedProcess."""
    global _box
    client = fabric.current(what)
    if _box is None or _box.client is not client:
        _box = Box(client)
    return _box


def _general(
    what: str, left: list[tuple[int, int, str]], name: bytes, data: Any, flags: int, hops: int, timeout: float | None
) -> None:
    """An alert that the core could not send at once: to this very worker, too large, or there is no room."""
    mine = box(what)
    if left[0][2] == "self":
        native.alert_self(mine.client.endpoint, native.ALERT, flags, hops, 0, name, _body(mine.client, data))
        return
    if what == "alerts.broadcast":
        left = [entry for entry in left if entry[2] != "gone"]
    if left:
        mine.send_left(left, name, data, flags, hops, 0, timeout)


native.set_alerts_general(_general)


# ---- the public face ----


send = native.alert_send
broadcast = native.alert_broadcast
reply = native.alert_reply


def receive(
    name: str | bytes | Mapping[str, Handler | None], handler: Handler | Any | None = ..., *, ordered: bool = True
) -> Any:
    """Call `handler(data: bytes)` for each alert of this name; None removes it; without it, a decorator.

    Also takes a dict of names and handlers.  Handlers of one name run one after the other in the order of arrival, in a
    greenlet of theirs; with `ordered=False` each alert gets a greenlet of its own.  What a handler returns answers a
    call; what it raises is logged.
    """
    mine = box("alerts.receive")
    if isinstance(name, Mapping):
        for key, value in name.items():
            mine.receive(key, value, ordered)
        return None
    if handler is ...:

        def decorate(function: Handler) -> Handler:
            mine.receive(name, function, ordered)
            return function

        return decorate
    mine.receive(name, handler, ordered)
    return None


def sender() -> int | None:
    """Inside a handler the sending worker's process id, else None.  `alerts.sender` reads it."""
    mine = box("alerts.sender")
    context = native.alert_context(mine.client.endpoint)
    if context is None:
        return None
    slot, generation = native.split_id(context[0])
    if slot == mine.client.endpoint.slot:
        return mine.client.pid
    now, pid, *_ = mine.client.segment.slot(slot)
    return int(pid) if now == generation else None


def call(
    pid: int | None, name: str | bytes, data: bytes, *, worker: int | None = None, timeout: float | None = None
) -> bytes | None:
    """What the handler of that worker returns.  Waits cooperatively, at most `timeout` seconds; None: for ever.

    Raises:
        CallTimeout, WorkerGone, RemoteError: Exactly one of these, when there is no answer.
        RingFull, BadAlertName, MessageTooBig, TypeError, AlertLoop: As send(); the handler was not called.
        RuntimeError: In a thread other than the one that serves requests.
    """
    mine = box("alerts.call")
    mine.client.room.check_here("alerts.call")
    raw = native.alert_name(name)
    deadline = None if timeout is None else time.monotonic() + timeout
    correlation, started = mine.call_start(mine.client.find_worker(pid, worker), raw, data, timeout)
    return mine.call_wait(correlation, started, deadline, timeout)


def call_all(name: str | bytes, data: bytes, *, timeout: float | None = None) -> dict[int, bytes | Exception | None]:
    """Call every ready worker, the own one included: {worker id: what its handler returned, or the exception}.

    Raises:
        RuntimeError: In a thread other than the one that serves requests.
    """
    mine = box("alerts.call_all")
    mine.client.room.check_here("alerts.call_all")
    raw = native.alert_name(name)
    body = _body(mine.client, data)
    deadline = None if timeout is None else time.monotonic() + timeout
    endpoint = mine.client.endpoint
    answers: dict[int, bytes | Exception | None] = {}
    started: dict[int, tuple[int, _Call]] = {}
    try:
        for target in [(endpoint.slot, endpoint.generation), *mine.client.ready_peers()]:
            try:
                started[target[0]] = mine.call_start(target, raw, body, timeout)
            except (WorkerGone, RingFull) as error:
                answers[target[0]] = error
        for slot, (correlation, waiting) in started.items():
            try:
                answers[slot] = mine.call_wait(correlation, waiting, deadline, timeout)
            except (CallTimeout, WorkerGone, RemoteError) as error:
                answers[slot] = error
    finally:
        for correlation, _ in started.values():
            mine._calls.pop(correlation, None)
    return dict(sorted(answers.items()))
