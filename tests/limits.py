"""The limit on descriptors, lowered for a while to what is open."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def no_descriptor_free(spare: int = 0) -> Iterator[None]:
    """No more than `spare` can be opened by this process, as long as it closes none."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    probes = [os.dup(0) for _ in range(spare + 1)]
    for fd in probes:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probes[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
