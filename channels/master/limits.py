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
    """Bytes that this process may still take; None when no control group limits it (cgroups v2 and v1).

    Every group from its own up to the root may limit it.  Pages of files that nobody has touched lately go when memory
    is wanted, so they count as free (docs.kernel.org, cgroup-v2, memory.stat).
    """
    found = [_free(place, "memory.max", "memory.current", "inactive_file") for place in _groups(root, "")]
    found += [
        _free(place, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for place in _groups(root / "memory", "memory")
    ]
    return min((free for free in found if free is not None), default=None)


def _groups(root: Path, controller: str) -> list[Path]:
    """From the own group to the root; in a container only the root may be there to see."""
    own = root / _own_group(controller)
    return [own, *(place for place in own.parents if place.is_relative_to(root))]


def _free(place: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    try:
        limit, used = (place / limit_name).read_text().strip(), int((place / used_name).read_text())
    except OSError:
        return None
    if limit == "max" or int(limit) >= 1 << 60:  # v1 says "no limit" with a huge number
        return None
    return max(int(limit) - max(used - _cached(place, cache_name), 0), 0)


def _cached(place: Path, name: str) -> int:
    try:
        facts = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(facts.get(name, 0))


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
