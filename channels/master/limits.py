"""Does what the settings ask for fit this machine?  Asked before anything is allocated (docs/hazards.md, H46, H47)."""

from __future__ import annotations

import resource
from pathlib import Path

from channels.errors import SegmentError
from channels.settings import MIB, Settings

FDS_BESIDE = 64  # logs, links, pidfds, the interpreter's own
CGROUP = Path("/sys/fs/cgroup")


def check(settings: Settings, segment_bytes: int, memory_free: int | None) -> None:
    """Raises SegmentError with the sentence that says what to change."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.slots + len(settings.bind) + FDS_BESIDE
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise SegmentError(
            f"{needed} file descriptors are needed, the limit is {soft}; raise it with `ulimit -n {needed}`"
        )
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY and most < segment_bytes:
        raise SegmentError(
            f"the segment takes {segment_bytes // MIB + 1} MiB, files may have {most // MIB} MiB here (`ulimit -f`); "
            "raise that limit, or lower `channels_max`, `ring_size` or `max_workers`"
        )
    if memory_free is not None and memory_free < segment_bytes:
        raise SegmentError(
            f"the segment takes {segment_bytes // MIB + 1} MiB, this control group has {memory_free // MIB} MiB left; "
            "give it more memory, or lower `channels_max`, `ring_size` or `max_workers`"
        )


def raise_descriptors() -> None:
    """As many descriptors as this user may have: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass  # what there is has to do; check() says when it does not


def memory_free(root: Path = CGROUP) -> int | None:
    """Bytes that this process's control group may still take; None when nothing limits it (cgroups v2 and v1)."""
    pairs = [
        (root / _own_group("") / "memory.max", root / _own_group("") / "memory.current"),
        (root / "memory.max", root / "memory.current"),
        (
            root / "memory" / _own_group("memory") / "memory.limit_in_bytes",
            root / "memory" / _own_group("memory") / "memory.usage_in_bytes",
        ),
        (root / "memory" / "memory.limit_in_bytes", root / "memory" / "memory.usage_in_bytes"),
    ]
    for limit_file, used_file in pairs:
        try:
            limit, used = limit_file.read_text().strip(), used_file.read_text().strip()
        except OSError:
            continue
        if limit == "max" or int(limit) >= 1 << 60:  # v1 says "no limit" with a huge number
            return None
        return max(int(limit) - int(used), 0)
    return None


def _own_group(controller: str) -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    return ""
