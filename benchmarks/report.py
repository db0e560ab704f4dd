"""Figures as a Markdown table and a plot."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
from pathlib import Path

from benchmarks.peers import Peer

DIRECTORY = Path(__file__).parent.parent / "docs" / "benchmarks"
OURS = "channels"


@dataclasses.dataclass
class Result:
    """One case: the figures of every peer, and what is required."""

    case: str
    unit: str
    figures: dict[str, list[float]]
    disturbed: list[float]  # processors that others kept busy during each repeat
    must: float | None = None
    against: str | None = None  # times that peer's median; None: the figure itself

    def median(self, peer: str) -> float:
        return statistics.median(self.figures[peer])

    @property
    def slower_is_more(self) -> bool:
        return self.unit == "s"

    def ratio(self) -> float | None:
        """Our median over the one it is held against, if that took part."""
        if self.against not in self.figures:
            return None
        return self.median(OURS) / self.median(self.against)

    def verdict(self) -> str:
        if self.must is None:
            return ""
        value = self.median(OURS) if self.against is None else self.ratio()
        if value is None:
            return "not compared"
        reached = value <= self.must if self.slower_is_more else value >= self.must
        return "reached" if reached else "**missed**"


@dataclasses.dataclass
class Facts:
    """What was counted."""

    record: float | None
    calls: dict[str, tuple[float, float, float]]
    idle: dict[str, float]


def number(value: float, unit: str) -> str:
    """For people: 12.3 M/s, 45 k/s, 6.5 us, 13 ns."""
    if unit == "s":
        return f"{value * 1e6:,.1f} µs" if value >= 1e-6 else f"{value * 1e9:,.0f} ns"
    if value >= 1e6:
        return f"{value / 1e6:,.2f} M"
    return f"{value / 1e3:,.0f} k" if value >= 1e4 else f"{value:,.3g}"


def lines(result: Result) -> str:
    """One case for the terminal."""
    text = [f"{result.case}  [{result.unit}]"]
    for peer, values in result.figures.items():
        low, high = min(values), max(values)
        text.append(
            f"    {peer:18} {number(result.median(peer), result.unit):>10}"
            f"   ({number(low, result.unit)} to {number(high, result.unit)})"
        )
    ratio = result.ratio()
    if ratio is not None:
        text.append(f"    {ratio:.3g} x {result.against}, must {result.must:g} x: {result.verdict()}")
    return "\n".join(text)


def _required(results: list[Result], facts: Facts) -> list[tuple[str, str, str, str]]:
    """(what, measured, required, verdict) of everything that has a figure to reach."""
    rows = []
    for result in results:
        if result.must is None:
            continue
        median = number(result.median(OURS), result.unit)
        ratio = result.ratio()
        if result.against is None:
            rows.append((result.case, median, number(result.must, result.unit), result.verdict()))
        else:
            measured = median if ratio is None else f"{median}, {ratio:.3g} x {result.against}"
            rows.append((result.case, measured, f"{result.must:g} x {result.against}", result.verdict()))
    if facts.record is not None:
        verdict = "reached" if facts.record <= 150 else "**missed**"
        rows.append(("record put, taken, 1/16 notify", f"{facts.record:.0f} instructions", "150", verdict))
    for name, what, most in (
        ("send", "`channel_send`, 10 B", 80e-9),
        ("take", "a message taken from a subscription", 50e-9),
        ("drain", "the same, brought from the ring on the way", None),
    ):
        median, least, top = facts.calls[name]
        spread = f"{number(median, 's')} ({number(least, 's')} to {number(top, 's')})"
        verdict = "" if most is None else "reached" if median <= most else "**missed**"
        rows.append((what, spread, "" if most is None else number(most, "s"), verdict))
    worst = max(facts.idle.values())
    verdict = "reached" if worst <= 2 else "**missed**"
    rows.append(("wake-ups of an idle process", f"{worst:.1f}/s", "2/s", verdict))
    return rows


def summary(results: list[Result], facts: Facts) -> str:
    """What is required, for the terminal."""
    rows = _required(results, facts)
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{what:{width}}  {measured:40} {required:24} {verdict}" for what, measured, required, verdict in rows
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _disturbance(results: list[Result]) -> str:
    shares = [share for result in results for share in result.disturbed]
    return (
        "Other programs took part of the processors meanwhile: during half of the repeats less than "
        f"{statistics.median(shares):.2f} of one, during the worst {max(shares):.2f}. What was above 0.15 has been run "
        f"again, up to three times and while there was time; {sum(share > 0.15 for share in shares)} of {len(shares)} "
        "repeats stayed above it, whose figures are worse than they would be, whoever's they are."
    )


def write(results: list[Result], facts: Facts, peers: list[type[Peer]], seconds: float) -> None:
    """docs/benchmarks/fabric.md and fabric.svg."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    repeats = len(next(iter(results[0].figures.values())))
    text = [
        "# The fabric beside others",
        "",
        f"Written by `make bench` on {processor()}, {os.cpu_count()} processors, Linux {platform.release()}, Python "
        f"{platform.python_version()}, in {seconds / 60:.0f} minutes. Medians of {repeats} repeats, in brackets the "
        "least and the most; the peers of a case run in turn, so that what disturbs one disturbs all. Only ratios "
        "mean something on another machine.",
        "",
        _disturbance(results),
        "",
        "Every run is lossless and checked: each subscriber compares the number, the order and every byte of what it "
        "gets with what was sent, inside the time that is measured. Each publisher keeps a window of at most 4,096 "
        "messages, all together 4 MiB of bodies (ours: 1 MiB), in flight to each subscriber; a byte through a pipe "
        "gives back a quarter of it. A fifth of the messages goes through before the clock starts.",
        "",
        "## What is required",
        "",
        "| work | measured | required | |",
        "|---|---|---|---|",
    ]
    text += [f"| {' | '.join(row)} |" for row in _required(results, facts)]
    text += ["", "![throughput](fabric.svg)", "", "## Everything", ""]
    names = [name for name in (peer.name for peer in peers) if any(name in result.figures for result in results)]
    text += [f"| | {' | '.join(names)} |", f"|---{'|---:' * len(names)}|"]
    for result in results:
        cells = []
        for name in names:
            if name not in result.figures:
                cells.append("")
                continue
            values = result.figures[name]
            low, high = number(min(values), result.unit), number(max(values), result.unit)
            cells.append(f"{number(result.median(name), result.unit)} ({low} to {high})")
        text.append(f"| {result.case}, {result.unit} | {' | '.join(cells)} |")
    text += ["", "Idle processes wake up so often a second: "]
    text[-1] += ", ".join(f"{name} {value:.1f}" for name, value in facts.idle.items()) + "."
    text += ["", "## What each does for a message", ""]
    text += [f"- **{peer.name}**: {peer.does}." for peer in peers]
    text += ["", *_CASES]
    (DIRECTORY / "fabric.md").write_text("\n".join(text) + "\n")
    _plot(results, names)


_CASES = """\
## The cases

- *1 to 4*: one publisher, four subscribers, each a process of its own; deliveries of all are counted. With a queue for
  each subscriber the publisher puts each message four times.
- *round trip*: one process sends, another answers over a second channel; both wait as users of that peer would. Ours is
  under gevent on both sides and through the router.
- *alert round trip*: `alerts.call` to another worker, held against the round trip over two pipes.
- *ping-pong*: one process sends up to 50,000 pings to each of the workers without waiting, each answers each; pings and
  pongs are counted. Ours: `alerts.broadcast` and `alerts.reply`.
- *record*: `benchmarks/instructions.c` under callgrind. *Calls*: bursts of 2,000 in one worker.
""".splitlines()


def _plot(results: list[Result], names: list[str]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [result for result in results if not result.slower_is_more]
    figure, axes = pyplot.subplots(figsize=(10, 0.55 * len(shown) + 1.5), layout="constrained")
    colours = pyplot.get_cmap("tab10")
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        rows = [(row, result) for row, result in enumerate(shown) if name in result.figures]
        medians = [result.median(name) for _, result in rows]
        spread = [
            [median - min(result.figures[name]) for median, (_, result) in zip(medians, rows)],
            [max(result.figures[name]) - median for median, (_, result) in zip(medians, rows)],
        ]
        at = [row + (place - len(names) / 2) * height for row, _ in rows]
        axes.barh(at, medians, height, xerr=spread, label=name, color=colours(place), error_kw={"lw": 0.6})
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [result.case for result in shown])
    axes.invert_yaxis()
    axes.set_xlabel("deliveries, or alerts, per second (logarithmic)")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(DIRECTORY / "fabric.svg", metadata={"Date": None})
