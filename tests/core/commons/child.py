"""A process that runs something and is killed at a chosen line of it."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any, Callable

KILLED = 9


def run_until_line(number: int, call: Callable[[], Any], package: str = "channels/core/commons/") -> bool:
    """Run `call` in a child that dies without a word at the `number`-th line of the package; False: it got through."""
    pid = os.fork()
    if pid == 0:
        left = number

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if package not in frame.f_code.co_filename:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os._exit(KILLED)
            return trace

        status = 1
        try:
            sys.settrace(trace)
            call()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, KILLED), "the child failed by itself"
    return status == KILLED


def in_child(call: Callable[[], Any]) -> int:
    """Its process id; it ends with status 0 when `call` returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
