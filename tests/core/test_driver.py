"""The C core under its C driver: every sentence plainly, all of them under the sanitizers, and the sanitizer itself.

The driver's sources stand in driver/; every TEST there is one test here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "driver"
CORE = Path(__file__).parents[2] / "channels" / "core"
SENTENCES = sorted(
    name for source in HERE.glob("*_test.c") for name in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.M)
)
THREADED = "two_threads_pass_records_in_order_and_whole"


def build(variant: str, out: Path, core: Path = CORE) -> Path:
    subprocess.run(
        ["make", "-s", "-C", str(HERE), variant, f"OUT={out}", f"CORE={core}", "CC=gcc"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return out / f"driver-{variant}"


def run(driver: Path, *names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(driver), *names],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("threads")


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_core_keeps_its_word(plain: Path, sentence: str) -> None:
    done = run(plain, sentence)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_sentence_is_in_the_driver(plain: Path) -> None:
    assert sorted(run(plain, "--list").stdout.split()) == SENTENCES


def test_nothing_is_read_or_written_where_it_must_not_be(tmp_path: Path) -> None:
    done = run(build("asan", tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_threads_on_one_ring_never_race(threads: Path) -> None:
    done = run(build("tsan", threads), THREADED, RING_RECORDS="2000000")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("end", ["tail", "head"])
def test_a_cursor_stored_without_release_is_seen_to_race(tmp_path: Path, end: str) -> None:
    core = tmp_path / "core"
    core.mkdir()
    for source in [*CORE.glob("*.h"), *CORE.glob("*.c")]:
        shutil.copy(source, core)
    ring = core / "ring.h"
    right = f"(&self->mine->{end}, self->{end}, memory_order_release)"
    assert right in ring.read_text()
    ring.write_text(ring.read_text().replace(right, right.replace("release", "relaxed")))
    done = run(build("tsan", tmp_path / "out", core), THREADED, RING_RECORDS="20000")
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
