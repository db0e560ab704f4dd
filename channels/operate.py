"""`channels ls | top | tail NAME | send NAME DATA | alert WORKER NAME DATA | doctor`: talking to a running master.

Runs in: the command.
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, Callable

from channels import control, log

STATUS_FAILED = 1
TOP_PERIOD = 1.0  # seconds


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    made = argparse.ArgumentParser(prog="channels", description="Look into and talk to a running master.")
    made.add_argument("--pid", type=int, help="process id of the master, when several are running")
    made.add_argument("--control-socket", metavar="PATH", help="path of its control socket")
    commands = made.add_subparsers(dest="command", required=True)
    ls = commands.add_parser("ls", help="list the channels and how many workers listen")
    ls.add_argument("prefix", nargs="?", default="", help="only names that begin so")
    top = commands.add_parser("top", help="workers and rates, again and again")
    top.add_argument("--once", action="store_true", help="one table over one period, then end")
    tail = commands.add_parser("tail", help="print what is sent to channels")
    tail.add_argument("name", nargs="+", help="a channel, or a prefix with a trailing *")
    tail.add_argument("--count", type=int, default=0, help="end after so many messages")
    send = commands.add_parser("send", help="send a message")
    send.add_argument("name")
    send.add_argument("data", help="text, or - for the standard input")
    alert = commands.add_parser("alert", help="send an alert to a worker")
    alert.add_argument("worker", type=int, help="its number, see `channels top`")
    alert.add_argument("name")
    alert.add_argument("data", help="text, or - for the standard input")
    alert.add_argument("--call", type=float, metavar="SECONDS", help="wait for the handler's answer and print it")
    commands.add_parser("doctor", help="check this machine and, if there is one, the running master")
    return made


def is_command(arguments: Sequence[str]) -> bool:
    """Whether these arguments are ours and not MODULE:APP."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--pid", "--control-socket"):
            skip = True
        elif not argument.startswith("-"):
            return argument in COMMANDS
    return False


def main(arguments: Sequence[str]) -> int:
    """Raises ChannelsError."""
    given = parser().parse_args(arguments)
    try:
        return COMMANDS[given.command](given)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has what it wanted; nothing is left to flush
        return 0


def _talk(given: argparse.Namespace, request: dict[str, Any], body: bytes = b"") -> control.Conversation:
    return control.Conversation(control.find(given.pid, given.control_socket), request, body)


def _ls(given: argparse.Namespace) -> int:
    with _talk(given, {"do": "ls", "prefix": given.prefix}) as conversation:
        channels = conversation.answer()["channels"]
    width = max((len(channel["name"]) for channel in channels), default=7)
    print(f"{'channel':<{width}}  {'messages':>10}  workers")
    for channel in channels:
        print(f"{channel['name']:<{width}}  {channel['last']:>10}  {', '.join(map(str, channel['workers'])) or '-'}")
    return 0


def _top(given: argparse.Namespace) -> int:
    before = None
    while True:
        with _talk(given, {"do": "stats"}) as conversation:
            now = conversation.answer()
        if before is not None:
            if not given.once:
                print("\x1b[H\x1b[2J", end="")
            print(top_table(before, now), flush=True)
            if given.once:
                return 0
        before = now
        time.sleep(TOP_PERIOD)


def top_table(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Two snapshots as a table of rates."""
    seconds = max(now["time"] - before["time"], 1e-6)
    old = {(worker["id"], worker["generation"]): worker["counters"] for worker in before["workers"]}
    router, was = now["router"]["counters"], before["router"]["counters"]
    lines = [
        f"channels {now['version']}: {len(now['workers'])} workers, {router['rows_used']} channels, "
        f"{(router['records'] - was['records']) / seconds:,.0f} messages/s in, "
        f"{(router['deliveries'] - was['deliveries']) / seconds:,.0f}/s out, {router['dropped']:,} dropped",
        f"{'worker':>6} {'pid':>8} {'state':<9} {'conns':>6} {'streams':>7} {'req/s':>8} {'sent/s':>9} {'recv/s':>9} "
        f"{'alerts/s':>9} {'missed':>8} {'beat':>6}",
    ]
    for worker in now["workers"]:
        count = worker["counters"]
        last = old.get((worker["id"], worker["generation"]), {})

        def rate(name: str, count: dict[str, int] = count, last: dict[str, int] = last) -> float:
            return float((count.get(name, 0) - last.get(name, 0)) / seconds)

        beat = worker["heartbeat_age"]
        lines.append(
            f"{worker['id']:>6} {worker['pid']:>8} {worker['state']:<9} {count.get('connections', 0):>6} "
            f"{count.get('streams', 0):>7} {rate('requests_total'):>8,.0f} {rate('sent'):>9,.0f} "
            f"{rate('received'):>9,.0f} {rate('alerts_received'):>9,.0f} {count.get('missed', 0):>8,} "
            f"{'-' if beat is None else f'{beat:.1f}s':>6}"
        )
    return "\n".join(lines)


def _tail(given: argparse.Namespace) -> int:
    seen = 0
    with _talk(given, {"do": "tail", "channels": given.name}) as conversation:
        for answer in conversation.answers():
            if "joined" in answer:
                continue
            data = base64.b64decode(answer["data"])
            if answer["missed"]:
                print(f"# {answer['missed']} missed", file=sys.stderr)
            event = f" {answer['event']}" if answer["event"] else ""
            line = f"{answer['channel']}{event} {data.decode(errors='backslashreplace')}\n"
            # What clients send must not act upon the operator's terminal; a pipe gets it as it is.
            sys.stdout.write(log.without_controls(line) if sys.stdout.isatty() else line)
            sys.stdout.flush()
            seen += 1
            if seen == given.count:
                break
    return 0


def _data(text: str) -> bytes:
    return sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")


def _send(given: argparse.Namespace) -> int:
    body = _data(given.data)
    with _talk(given, {"do": "send", "channel": given.name, "size": len(body)}, body) as conversation:
        workers = conversation.answer()["workers"]
    print(f"{workers} worker{'' if workers == 1 else 's'} listened")
    return 0


def _alert(given: argparse.Namespace) -> int:
    body = _data(given.data)
    request = {"do": "alert", "worker": given.worker, "name": given.name, "size": len(body), "timeout": given.call}
    with _talk(given, request, body) as conversation:
        answer = conversation.answer()
    if given.call is not None and answer["answer"] is not None:
        sys.stdout.buffer.write(base64.b64decode(answer["answer"]) + b"\n")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    problems = _machine()
    try:
        with _talk(given, {"do": "stats"}) as conversation:
            problems += _server(conversation.answer())
    except control.NoMaster as error:
        print(f"- no master looked into: {error}")
    for problem in problems:
        print(f"! {problem}")
    print("nothing to worry about" if not problems else f"{len(problems)} to look at")
    return STATUS_FAILED if problems else 0


def _machine() -> list[str]:
    problems = []
    release = platform.release()
    print(f"- Linux {release}, Python {platform.python_version()}, {os.cpu_count()} processors")
    if tuple(int(part) for part in release.split(".")[:2] if part.isdigit()) < (5, 4):
        problems.append("Linux before 5.4 lacks waitid on pidfds; use a newer one")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(f"- file descriptors: {soft} (hard limit {hard})")
    if hard < 65536:
        problems.append(f"at most {hard} file descriptors, and each connection takes one; raise `ulimit -Hn`")
    return problems


def _server(stats: dict[str, Any]) -> list[str]:
    problems = []
    router = stats["router"]
    count = router["counters"]
    segment = stats["segment"]
    print(f"- master with {len(stats['workers'])} workers, segment of {segment['bytes'] / (1 << 20):.1f} MiB")
    if router["heartbeat_age"] is None or router["heartbeat_age"] > 3:
        problems.append("the router's loop does not turn")
    if count["rows_used"] > 0.8 * segment["rows"]:
        problems.append(f"{count['rows_used']} of {segment['rows']} rows of channels are taken; raise channels_max")
    if count["dropped"]:
        problems.append(f"{count['dropped']} messages were dropped for workers that were too far behind (spill_hard)")
    if count["quarantined"]:
        problems.append(f"{count['quarantined']} workers had broken the segment's rules; see the log")
    for slot, waiting in router["spilled_bytes"].items():
        if waiting:
            problems.append(f"{waiting} bytes wait for worker {slot}, which is behind")
    for worker in stats["workers"]:
        late = worker["counters"].get("late_wakeups", 0)
        if late:
            problems.append(f"worker {worker['id']} was woken late {late} times; please report this")
        if worker["heartbeat_age"] is not None and worker["heartbeat_age"] > 3:
            problems.append(f"the loop of worker {worker['id']} has not turned for {worker['heartbeat_age']:.1f} s")
    return problems


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": _ls,
    "top": _top,
    "tail": _tail,
    "send": _send,
    "alert": _alert,
    "doctor": _doctor,
}
