"""A test's own child processes."""

from __future__ import annotations

import os
import pickle
import traceback
from typing import Any, Callable


def in_child(function: Callable[[], Any]) -> Any:
    """What it returns in a forked child; raises what it raised there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                outcome = ("value", function())
            except BaseException:
                outcome = ("error", traceback.format_exc())
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(outcome, pipe)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    assert data, "the child died"
    kind, value = pickle.loads(data)
    assert kind == "value", value
    return value
