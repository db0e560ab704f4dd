"""The C core's part of `make chaos`, one program after the other, each with its seed and its figures.

`python -m tests.chaos.core [--seed N] [--share X] [WORD...]`: X of the full length (1); only the parts whose name
contains a word.  Status 1 when one fails, when the whole of one is less than was asked for, or when clang is missing
for a whole run of libFuzzer; what was printed says how to run that one again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent / "core"
# `rep stos` is an instruction for each byte to whoever steps: a router's start has 370,000 with it, 34,000 without.
STEPPED = "glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000"
PROGRAMS = ("stepkill", "storm", "mutate")
FUZZED_ENOUGH = 100_000  # runs of each in a whole one
TARGETS = ("RING", "RECORDS", "SPILL", "SEGMENT")


def command(program: str, out: Path, seed: int, share: float) -> list[str]:
    """It prints its own figures and ends with status 0 if all is well."""
    if program == "stepkill":
        return [str(out / program), str(max(1, int(420 * share))), str(seed)]
    if program == "storm":
        return [str(out / program), str(120 * share), str(seed)]
    return [str(out / program), str(int(10_000_000 * share)), str(seed)]


def fuzz(out: Path, seed: int, share: float) -> bool:
    """libFuzzer on every target, at once."""
    seconds = max(1, int(60 * share))
    running = {
        target: subprocess.Popen(
            [
                str(out / f"fuzz-{target}"),
                f"-max_total_time={seconds}",
                f"-seed={seed % 2**31 + 1}",
                "-max_len=4200",
                "-verbosity=0",
                "-print_final_stats=1",
            ],
            cwd=out,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for target in TARGETS
    }
    good = True
    for target, child in running.items():
        said = child.communicate()[0]
        units = re.search(r"number_of_executed_units: (\d+)", said)
        if child.returncode != 0 or units is None:
            print(said)
            good = False
        else:
            print(f"FIGURES libFuzzer {target.lower()}: {units[1]} runs in {seconds} s", flush=True)
            if share >= 1 and int(units[1]) < FUZZED_ENOUGH:
                print(f"WRONG only {units[1]} of {FUZZED_ENOUGH} runs", flush=True)
                good = False
    return good


def main() -> int:
    """Build, run, sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**40)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    names = [*PROGRAMS, "fuzz", "mutants"]
    chosen = [name for name in names if not given.words or any(word in name for word in given.words)]
    failed = []
    if "fuzz" in chosen and shutil.which("clang") is None:
        whole = given.share >= 1
        print(f"{'WRONG ' if whole else ''}clang is not installed: no libFuzzer", flush=True)
        chosen.remove("fuzz")
        if whole:
            failed.append("fuzz")
    with tempfile.TemporaryDirectory() as place:
        targets = [name for name in chosen if name != "mutants"]
        if targets:
            subprocess.run(["make", "-s", "-j2", "-C", str(HERE), *targets, f"OUT={place}", "CC=gcc"], check=True)
        for name in chosen:
            print(f"==> {name} (seed {given.seed})", flush=True)
            started = time.monotonic()
            if name == "fuzz":
                good = fuzz(Path(place), given.seed, given.share)
            elif name == "mutants":
                good = subprocess.run([sys.executable, "-m", "tests.chaos.core_mutants"], check=False).returncode == 0
            else:
                words = command(name, Path(place), given.seed, given.share)
                environment = {**os.environ, "GLIBC_TUNABLES": STEPPED} if name == "stepkill" else None
                good = subprocess.run(words, check=False, cwd=place, env=environment).returncode == 0
            if not good:
                failed.append(name)
            print(f"    {time.monotonic() - started:.0f} s", flush=True)
    print(f"seed {given.seed}: {'all is well' if not failed else 'FAILED: ' + ', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
