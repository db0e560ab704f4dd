"""How many machine instructions the core's common paths take: counted by callgrind, compared with the stored numbers.

They repeat to the instruction, so 3 % up or down is a change of the code.  When it is meant, put the new number here.
Only with the compiler that the numbers are of, and where valgrind is installed.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = "12"  # gcc's major version
TIMES = 3200
# Each path's instructions per time: 64-byte record put, taken and notified 1 in 16; a 10-byte message sent, routed in
# batches of 32 and read by one worker, and by four; a channel of 16 bytes looked up by name.
INSTRUCTIONS = {"record": 107.28, "one": 413.80, "four": 871.88, "look": 471.00}


def gcc_version() -> str:
    if shutil.which("gcc") is None:
        return ""
    return (
        subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout.split(".")[0].strip()
    )


pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
    pytest.mark.skipif(gcc_version() != COMPILER, reason=f"the numbers are gcc {COMPILER}'s"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are x86-64's"),
]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("count") / "count"
    subprocess.run(
        ["make", "-s", "-C", str(HERE / "driver"), "count", f"COUNT={path}", "CC=gcc"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return path


def count(program: Path, path: str, times: int) -> int:
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), path, str(times)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None
    return int(found.group(1))


@pytest.mark.parametrize("path", INSTRUCTIONS)
def test_a_path_takes_as_many_instructions_as_it_did(program: Path, path: str) -> None:
    each = (count(program, path, 2 * TIMES) - count(program, path, TIMES)) / TIMES
    assert each == pytest.approx(INSTRUCTIONS[path], rel=0.03), f"{path}: {each:.2f}"


def test_a_record_costs_at_most_150_instructions() -> None:
    assert INSTRUCTIONS["record"] <= 150
