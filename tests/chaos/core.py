"""The C core's part of `make chaos`, one program after the other, each with its seed and its figures.

`python -m tests.chaos.core [--seed N] [--share X] [WORD...]`: X of the full length (1); only the parts whose name
contains a word.  Status 1 when one fails; what was printed says how to run that one again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent / "core"
TARGETS = ("RING", "RECORDS", "SPILL")


def parts(out: Path, seed: int, share: float) -> dict[str, list[str]]:
    """Name -> command; each prints its own figures and ends with status 0 if all is well."""
    found = {
        "stepkill": [str(out / "stepkill"), str(max(20, int(400 * share)))],
        "storm": [str(out / "storm"), str(120 * share), str(seed)],
        "mutate": [str(out / "mutate"), str(int(10_000_000 * share)), str(seed)],
    }
    if shutil.which("clang") is not None:
        for target in TARGETS:
            found[f"fuzz {target.lower()}"] = [
                str(out / f"fuzz-{target}"),
                f"-max_total_time={max(1, int(60 * share))}",
                f"-seed={seed % 2**31 + 1}",
                "-max_len=4200",
                "-verbosity=0",
                "-print_final_stats=1",
            ]
    found["mutants"] = [sys.executable, "-m", "tests.chaos.core_mutants"]
    return found


def main() -> int:
    """Build, run, sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**40)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as place:
        targets = ["stepkill", "storm", "mutate", *(["fuzz"] if shutil.which("clang") else [])]
        subprocess.run(["make", "-s", "-C", str(HERE), *targets, f"OUT={place}", "CC=gcc"], check=True)
        if "fuzz" not in targets:
            print("clang is not installed: no libFuzzer", flush=True)
        for name, command in parts(Path(place), given.seed, given.share).items():
            if given.words and not any(word in name for word in given.words):
                continue
            print(f"==> {name} (seed {given.seed})", flush=True)
            started = time.monotonic()
            if subprocess.run(command, check=False, cwd=None if name == "mutants" else place).returncode != 0:
                failed.append(name)
            print(f"    {time.monotonic() - started:.0f} s", flush=True)
    print(f"seed {given.seed}: {'all is well' if not failed else 'FAILED: ' + ', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
