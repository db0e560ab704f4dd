"""limits.py: does it fit this machine?  Asked before anything is allocated."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from channels.errors import SegmentError
from channels.master import limits
from channels.settings import MIB, make
from tests.children import in_child

SETTINGS = make([{"workers": 2}])


def test_enough_of_everything_is_nothing_to_say() -> None:
    limits.check(SETTINGS, 10 * MIB, None)
    limits.check(SETTINGS, 10 * MIB, 11 * MIB)


def test_a_control_group_that_is_too_small_is_told_with_both_sizes() -> None:
    with pytest.raises(SegmentError, match="takes 11 MiB, this control group has 5 MiB left; give it more memory"):
        limits.check(SETTINGS, 10 * MIB, 5 * MIB)


def test_too_few_descriptors_are_told_with_the_command_that_helps() -> None:
    def check() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        with pytest.raises(SegmentError) as caught:
            limits.check(SETTINGS, MIB, None)
        return str(caught.value)

    assert "the limit is 50; raise it with `ulimit -n" in in_child(check)


def test_a_limit_on_the_size_of_files_is_told() -> None:
    def check() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        with pytest.raises(SegmentError) as caught:
            limits.check(SETTINGS, 2 * MIB, None)
        return str(caught.value)

    assert "files may have 1 MiB here (`ulimit -f`)" in in_child(check)


def test_descriptors_are_raised_to_what_is_allowed() -> None:
    def raised() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
        limits.raise_descriptors()
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    assert in_child(raised) == (256, 256)


def group(tmp_path: Path, names: tuple[str, str], limit: str, used: str, inside: str = "") -> int | None:
    place = tmp_path / inside
    place.mkdir(parents=True, exist_ok=True)
    (place / names[0]).write_text(limit + "\n")
    (place / names[1]).write_text(used + "\n")
    return limits.memory_free(tmp_path)


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_both_kinds_of_control_groups_are_understood(tmp_path: Path) -> None:
    assert group(tmp_path / "a", V2, "1000", "400") == 600
    assert group(tmp_path / "b", V2, "max", "400") is None
    assert group(tmp_path / "c", V1, "1000", "400", "memory") == 600
    assert group(tmp_path / "d", V1, str(2**63 - 4096), "400", "memory") is None
    assert group(tmp_path / "e", V2, "100", "400") == 0


def test_what_the_kernel_can_drop_counts_as_free(tmp_path: Path) -> None:
    for kind, inside, name in ((V2, "", "inactive_file"), (V1, "memory", "total_inactive_file")):
        place = tmp_path / (inside or "v2") / inside
        place.mkdir(parents=True)
        (place / "memory.stat").write_text(f"cache 390\n{name} 300\n")
        assert group(place.parent if inside else place, kind, "1000", "900", inside) == 400


def test_no_control_group_at_all_limits_nothing(tmp_path: Path) -> None:
    assert limits.memory_free(tmp_path) is None


@pytest.mark.parametrize(("kind", "inside"), [(V2, ""), (V1, "memory/")])
def test_the_tightest_of_the_own_group_and_those_above_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: tuple[str, str], inside: str
) -> None:
    monkeypatch.setattr(limits, "_own_group", lambda controller: "above/own")
    group(tmp_path, kind, "1000", "400", inside + "above")
    assert group(tmp_path, kind, "max" if kind is V2 else str(2**63 - 4096), "10", inside + "above/own") == 600
    assert group(tmp_path, kind, "110", "10", inside + "above/own") == 100
    assert group(tmp_path, kind, "500", "450", inside.rstrip("/")) == 50


def test_this_machine_gives_a_sensible_answer() -> None:
    free = limits.memory_free()
    assert free is None or 0 <= free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 4
