"""A worker that is refused memory while it takes messages (tests/core/refusal)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def test_whatever_allocation_fails_no_frame_is_cut_and_what_is_missing_is_told(tmp_path: Path) -> None:
    allocator = tmp_path / "refuse.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", str(allocator), str(HERE / "refusal" / "refuse.c")],
        check=True,
        timeout=60,
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.refusal"],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(allocator), "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"(\d+) turns of (\d+) allocations, (\d+) streams ended\n", done.stdout)
    assert said is not None, done.stdout
    assert int(said[2]) >= 50, "hardly anything was refused"
    assert int(said[3]) >= 1, "no stream was at the point where it must end"
