"""Everything that takes minutes, one program after the other: `python -m tests.chaos`, or `make chaos`.

    python -m tests.chaos [--seed N] [--only T5,T9,kills] [--quick] [--record]

Each part is a program of its own that takes the seed and prints its figures; what it does stands in README.md beside
this.  A table comes last, the exit status is 1 when a part failed.  `--quick`: under two minutes; `--record`: the
table goes to docs/reliability.md, before those of earlier runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "reliability.md"
RUNS_KEPT = 3  # in the record
MARK = "CHANNELS_CHAOS"  # a variable by which the processes of a part are known
TIDY = 15.0  # seconds for a part that is too late to stop what it has started
FIGURE = re.compile(r"^FIGURES? (.+)$")
TESTED = re.compile(r"^(\d+ (?:passed|failed)[^=]*) in [\d.]+s")
HEAD = """# What was seen

Runs of `make chaos`, the newest first; `tests/chaos/README.md` says what each part does and what must come out.
A part's figures are its own last words; its seed makes it choose the same again, though not the same timing.
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """A program: `python -m` these words.  `quick` None: left out of a quick run; `seconds`: killed after so long."""

    name: str
    does: str
    full: tuple[str, ...]
    quick: tuple[str, ...] | None
    seconds: float
    seeded: bool = True
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    seed_word: str = "--seed"


def _pytest(*words: str) -> tuple[str, ...]:
    return ("pytest", "-q", "-p", "no:cacheprovider", *words)


PARTS = (
    Part(
        "T3",
        "killed and stopped in the middle, instruction by instruction",
        ("tests.chaos.core", "stepkill"),
        ("tests.chaos.core", "--share", "0.01", "stepkill"),
        900,
    ),
    Part(
        "T4",
        "the C core in a storm of SIGKILL and SIGSTOP",
        ("tests.chaos.core", "storm"),
        ("tests.chaos.core", "--share", "0.05", "storm"),
        240,
    ),
    Part(
        "T5",
        "a whole server: kills, reloads, upgrades, forks",
        ("tests.chaos.api",),
        ("tests.chaos.api", "--seconds", "20"),
        480,
    ),
    Part(
        "T6",
        "malformed segments, records and spills",
        ("tests.chaos.core", "mutate", "fuzz"),
        ("tests.chaos.core", "--share", "0.03", "mutate"),
        400,
    ),
    Part(
        "garbage",
        "live workers that write garbage",
        ("tests.chaos.garbage",),
        ("tests.chaos.garbage", "--times", "9"),
        300,
    ),
    Part(
        "T7, T8",
        "sanitizers; instruction counts",
        _pytest("tests/core/test_driver.py", "tests/core/test_instructions.py"),
        None,
        300,
        False,
    ),
    Part(
        "T9",
        "system calls and idle wake-ups",
        ("tests.chaos.calls",),
        ("tests.chaos.calls", "--messages", "50000", "--idle", "3"),
        200,
    ),
    Part(
        "T10",
        "leaks over respawns, joins and names",
        ("tests.chaos.leaks",),
        ("tests.chaos.leaks", "--share", "0.05"),
        300,
    ),
    Part(
        "T11",
        "random steps against the specification",
        _pytest("tests/core/test_model.py"),
        None,
        300,
        environment={"HYPOTHESIS_STEPS": "100000"},
        seed_word="--hypothesis-seed",
    ),
    Part(
        "T12",
        "chosen system calls fail at their n-th call",
        ("tests.chaos.nth",),
        ("tests.chaos.nth", "--most", "1", "--only", "starting"),
        300,
    ),
    Part(
        "T13",
        "greenlets killed in the middle, forks, signals, blocked hubs",
        ("tests.chaos.greenlets",),
        ("tests.chaos.greenlets", "--share", "0.05"),
        200,
    ),
    Part("T14", "the core weakened in one place", ("tests.chaos.core", "mutants"), None, 400),
    Part(
        "T15",
        "a worker that stands still under load",
        ("tests.chaos.slow",),
        ("tests.chaos.slow", "--seconds", "3"),
        150,
    ),
    Part("T16", "the upgrade matrix", _pytest("tests/system/test_upgrade.py"), None, 300, False),
    Part(
        "kills",
        "workers and routers of a server under load",
        ("tests.chaos.kills", "--kills", "600", "--router-kills", "12"),
        ("tests.chaos.kills", "--kills", "30", "--router-kills", "1"),
        500,
    ),
    Part("http", "malformed, slow and vanishing HTTP clients", ("tests.chaos.http",), None, 300),
    Part("websocket", "WebSockets that break every rule", ("tests.chaos.websocket",), None, 300),
    Part(
        "streams",
        "deaf, vanishing and bursting WebSockets and event streams",
        ("tests.chaos.streams",),
        ("tests.chaos.streams", "--quick"),
        300,
    ),
)


@dataclasses.dataclass
class Result:
    part: Part
    ended: str
    seconds: float
    figures: list[str]


def _exists(part: Part) -> bool:
    module = part.full[0]
    return module == "pytest" or importlib.util.find_spec(module) is not None


def _run(part: Part, words: tuple[str, ...], seed: int) -> Result:
    """To its end, its words passed on as they come; none of its processes is left when this returns."""
    mark = f"{MARK}={os.getpid()}.{part.name}"
    command = [sys.executable, "-m", *words, *([part.seed_word, str(seed)] if part.seeded else [])]
    print(f"\n==> {part.name}: {part.does}\n    {' '.join(['python', *command[1:]])}", flush=True)
    began = time.monotonic()
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **part.environment,
            MARK: mark[len(MARK) + 1 :],
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    overdue = threading.Event()
    late = threading.Timer(part.seconds, _end, [child.pid, mark, overdue])
    late.start()
    figures = []
    assert child.stdout is not None
    for line in child.stdout:
        text = line.decode(errors="replace").rstrip()
        print(f"    {text}", flush=True)
        if found := FIGURE.match(text) or TESTED.match(text):
            figures.append(found[1])
    status = child.wait()
    took = time.monotonic() - began
    ended = "well" if status == 0 else "TOO LATE" if overdue.is_set() else f"FAILED ({status})"
    late.cancel()
    _kill_all(mark)
    return Result(part, ended, took, figures)


def _end(pid: int, mark: str, overdue: threading.Event) -> None:
    """It may tidy up; whatever is left is killed."""
    overdue.set()
    try:
        os.kill(pid, signal.SIGINT)
        time.sleep(TIDY)
    except ProcessLookupError:
        pass
    _kill_all(mark)


def _kill_all(mark: str) -> None:
    """Everyone who has inherited the mark: servers have sessions of their own, so a process group is not enough."""
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in place.read_bytes().split(b"\0"):
                os.kill(int(place.parent.name), signal.SIGKILL)
        except OSError:
            pass


def _table(results: list[Result]) -> str:
    lines = ["| part | what | ended | seconds | figures |", "|---|---|---|---|---|"]
    for result in results:
        figures = "; ".join(result.figures).replace("|", "/")
        lines.append(f"| {result.part.name} | {result.part.does} | {result.ended} | {result.seconds:.0f} | {figures} |")
    return "\n".join(lines)


def _machine() -> str:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return (
        f"{os.cpu_count()} processors ({model[1] if model else platform.machine()}), "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def _code() -> str:
    """The commit, and whether it has been changed."""
    asked = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(asked, cwd=RECORD.parent, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    return f"commit {found}" if found else "no commit"


def record(results: list[Result], seed: int, seconds: float, only: str) -> None:
    """Put this run before the earlier ones."""
    earlier = re.split(r"^(?=## )", RECORD.read_text(), flags=re.M)[1:] if RECORD.exists() else []
    when = datetime.datetime.now(datetime.timezone.utc)
    title = f"{when:%Y-%m-%d %H:%M} UTC, seed {seed}{f', only {only}' if only else ''}"
    new = f"## {title}\n\n{_machine()}; {_code()}; {seconds / 60:.0f} minutes.\n\n{_table(results)}\n"
    RECORD.write_text("\n".join([HEAD, new, *earlier[: RUNS_KEPT - 1]]).rstrip() + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    parser.add_argument("--only", default="", help="parts by name, with commas in between")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    wanted = {word.strip() for word in given.only.split(",") if word.strip()}
    chosen = [part for part in PARTS if not wanted or wanted & {part.name, *part.name.split(", ")}]
    if wanted and not chosen:
        parser.error(f"no part is called so; they are {', '.join(part.name for part in PARTS)}")
    print(f"seed {given.seed}", flush=True)
    began, results = time.monotonic(), []
    for part in chosen:
        words = part.quick if given.quick else part.full
        if words is None:
            continue
        if not _exists(part):
            results.append(Result(part, "not there", 0, []))
            continue
        results.append(_run(part, words, given.seed))
    took = time.monotonic() - began
    print(f"\nseed {given.seed}, {took:.0f} s\n\n{_table(results)}")
    if given.record:
        record(results, given.seed, took, ", ".join(part.name for part in chosen) if wanted else "")
    return 0 if all(result.ended == "well" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
