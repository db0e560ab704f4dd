"""Functions that any worker may call by name, run here or in the worker that has registered them."""

from __future__ import annotations

import json
import logging
from typing import Any, Callable

from channels.errors import ChannelsError
from channels.web.uwsgi.state import NAME_MAX, Peer, as_bytes, as_text, state
from channels.worker import alerts

log = logging.getLogger("channels")

ALERT = b"uwsgi.rpc"
TIMEOUT = 30.0  # seconds for an answer
ARGUMENTS_MAX = 255


def attach() -> None:
    """In a worker: answer."""
    alerts.receive(ALERT, _answer, ordered=False)


def _answer(data: bytes) -> bytes | None:
    name, arguments = json.loads(data)
    return _run(name, [argument.encode("latin-1") for argument in arguments])


def _run(name: str, arguments: list[bytes]) -> bytes | None:
    result = state().rpc[name][0](*arguments)
    if result is None:
        return None
    if not isinstance(result, (bytes, str)):
        raise TypeError(f"rpc {name!r} returns bytes or None, not {type(result).__name__}")
    return as_bytes(result)


def _call(name: str, arguments: list[bytes], peers: list[Peer]) -> bytes | None:
    """From the first of them that answers; None: nobody has it, or it failed there."""
    data = json.dumps([name, [argument.decode("latin-1") for argument in arguments]]).encode()
    for peer in peers:
        try:
            return alerts.call(None, ALERT, data, worker=peer.slot, timeout=TIMEOUT)
        except ChannelsError as error:
            log.warning("uwsgi: rpc %r in worker %d: %s", name, peer.number, error)
    return None


def _arguments(name: Any, given: tuple[Any, ...]) -> tuple[str, list[bytes]]:
    text = as_text(name, "the function's name")
    if len(given) > ARGUMENTS_MAX or not all(isinstance(argument, (bytes, str)) for argument in given):
        raise ValueError(f"unable to call rpc function: it takes at most {ARGUMENTS_MAX} arguments, all of them bytes")
    return text, [as_bytes(argument) for argument in given]


# ---- the calls ----


def register_rpc(name: Any, function: Callable[..., Any], arg_count: int = 0) -> bool:
    """Let every worker call it by this name, with bytes for arguments; it returns bytes or None."""
    text = as_text(name, "name")
    if not text or len(text.encode()) > NAME_MAX:
        raise ValueError(f"unable to register rpc function: a name has 1 to {NAME_MAX} bytes")
    if not callable(function):
        raise ValueError("unable to register rpc function: it is not callable")
    mine = state()
    mine.rpc[text] = (function, arg_count)
    mine.tell()
    return True


def call(name: Any, /, *arguments: Any) -> bytes | None:
    """Call a function: this worker's if it has it, else another's.  None: nobody has it, or it failed there."""
    text, given = _arguments(name, arguments)
    mine = state()
    if text in mine.rpc:
        return _run(text, given)
    return _call(text, given, [peer for peer in mine.peers() if text in peer.facts.get("rpc", [])])


def rpc(node: Any, name: Any, /, *arguments: Any) -> bytes | None:
    """The same; a node "workerN" names the worker.  Raises OSError: any other node is on another server."""
    text, given = _arguments(name, arguments)
    where = as_text(node, "node") if node else ""
    if not where:
        return call(text, *given)
    if not (where.startswith("worker") and where[len("worker") :].isdigit()):
        raise OSError(f'unable to call rpc function on node {where!r}: only workers of this server, as "worker1"')
    number = int(where[len("worker") :])
    return _call(text, given, [peer for peer in state().peers() if peer.number == number][:1])


def rpc_list() -> tuple[bytes, ...]:
    """Names of this worker's."""
    return tuple(name.encode() for name in state().rpc)


CALLS = {function.__name__: function for function in (call, register_rpc, rpc, rpc_list)}
