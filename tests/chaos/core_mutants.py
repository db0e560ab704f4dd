"""The test of the tests: the C core weakened in one place, which the quick tests must notice.

`python -m tests.chaos.core_mutants [NAME...]`: each mutant is a copy of channels/core with one text replaced, compiled
into the C driver; it is caught when some sentence fails, crashes or does not come to its end.  Status 1 when one lives.
Those of memory order run under ThreadSanitizer; the fence, which it does not know, is looked for in many more rounds of
two threads than a quick test makes.  First the unchanged core goes the same ways and must pass each, or a driver that
cannot run would catch everything.  The product has no switch for any of this.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "channels" / "core"
DRIVER = ROOT / "tests" / "core" / "driver"
DEADLINE = 120.0  # seconds for all sentences; the right core takes a few
SENTENCES = {"tsan": ["two_threads_pass_records_in_order_and_whole"]}  # only those; else all
FENCED = ["nobody_sleeps_through_what_is_said_while_he_lies_down"]
ROUNDS = 3_000_000  # of two threads that must meet within some nanoseconds


class Mutant(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str
    variant: str = "plain"


MUTANTS = [
    Mutant(
        "tail without release",
        "ring.h",
        "mine->tail, self->tail, memory_order_release",
        "mine->tail, self->tail, memory_order_relaxed",
        "tsan",
    ),
    Mutant(
        "head without release",
        "ring.h",
        "mine->head, self->head, memory_order_release",
        "mine->head, self->head, memory_order_relaxed",
        "tsan",
    ),
    Mutant(
        "tail without acquire",
        "ring.c",
        "theirs->tail, memory_order_acquire);\n    if (tail <",
        "theirs->tail, memory_order_relaxed);\n    if (tail <",
        "tsan",
    ),
    Mutant("pad without its type", "ring.h", "filler->type = RECORD_PAD;", "filler->type = RECORD_ALERT;"),
    Mutant(
        "pad shown before its record",
        "ring.h",
        "        filler->type = RECORD_PAD;\n",
        "        filler->type = RECORD_PAD;\n        atomic_store_explicit(&self->mine->tail, self->tail + pad, memory_order_release);\n",
    ),
    Mutant(
        "records of any size", "ring.h", "if (__builtin_expect(need > ring_record_max(self->capacity), 0))", "if (0)"
    ),
    Mutant(
        "room without the pad",
        "ring.h",
        "if (self->tail + pad + need - self->head_seen > self->capacity)\n            return RING_FULL",
        "if (self->tail + need - self->head_seen > self->capacity)\n            return RING_FULL",
    ),
    Mutant("a broken ring is read on", "ring.h", "    self->tail_seen = self->head;\n", ""),
    Mutant("a length beyond what is there", "ring.h", "record_span(length) > limit ||", "0 ||"),
    Mutant(
        "a tail any distance ahead",
        "ring.c",
        "tail - self->head > self->capacity || !is_cursor(tail)",
        "!is_cursor(tail)",
    ),
    Mutant("a caller that forgets what it answered", "notify.h", "        self->answered = epoch;\n", ""),
    Mutant("a caller that remembers a boolean", "notify.h", "epoch != self->answered", "self->answered == 0"),
    Mutant(
        "no fence",
        "notify.h",
        "static inline void notify_fence(void) { atomic_thread_fence(memory_order_seq_cst); }",
        "static inline void notify_fence(void) { atomic_signal_fence(memory_order_seq_cst); }",
    ),
    Mutant("armed twice is awake", "notify.h", "next += (next & 1) != 0 ? 2 : 1;", "next += 1;"),
    Mutant("a removed entry leaves a hole", "table.c", "        store(&index[gap], entry);\n        gap = at;\n", ""),
    Mutant(
        "entries move unannounced",
        "table.c",
        "    store(version, load(version) | 1);\n    atomic_thread_fence(memory_order_release);\n}\n\nstatic void index_settle",
        "    (void)version;\n}\n\nstatic void index_settle",
    ),
    Mutant("a reader does not look again", "table.c", "        if ((before & 1) == 0 && load(moves) == before)\n", ""),
    Mutant(
        "a half index is taken for whole",
        "table.c",
        "    if (!index_is_whole(self))\n        index_rebuild(self);\n",
        "",
    ),
    Mutant(
        "a row keeps its generation",
        "table.c",
        "    store32(&row->flags, 0);\n    for",
        "    version -= 2;\n    store32(&row->flags, 0);\n    for",
    ),
    Mutant(
        "the mark before the tail that it is about",
        "fanout.c",
        "            shared_store(&mark->tail_before, lane->down.published);\n            atomic_store_explicit(&mark->operation, operation, memory_order_release);\n",
        "            atomic_store_explicit(&mark->operation, operation, memory_order_release);\n            shared_store(&mark->tail_before, lane->down.published);\n",
    ),
    Mutant(
        "the tails before the operation",
        "fanout.c",
        "        atomic_store_explicit(&control->current, operation, memory_order_release); /* the operation is open */\n        publish_touched(self, operation);\n",
        "        publish_touched(self, operation);\n        atomic_store_explicit(&control->current, operation, memory_order_release);\n",
    ),
    Mutant(
        "the head before the tails",
        "fanout.c",
        "        publish_touched(self, operation);\n        for",
        "        atomic_store_explicit(&up->mine->head, end, memory_order_release);\n        publish_touched(self, operation);\n        for",
    ),
    Mutant(
        "no number is stored",
        "fanout.c",
        "                shared_store(&segment_row(self->segment, op->row[i])->sequence, op->sequence[i]);",
        "                (void)op;",
    ),
    Mutant(
        "the tails are not compared",
        "fanout.c",
        " &&\n                                self->lane[self->live[i]].down.published != shared_load(&mark->tail_before)",
        "",
    ),
    Mutant(
        "the operation is not finished",
        "fanout.c",
        "    if (shared_load(&up_head->head) != op->begin)\n        return;",
        "    if (true)\n        return;",
    ),
    Mutant(
        "the cursor stays where it was read",
        "fanout.c",
        "    known->head = known->released = known->tail_seen = op->end;\n",
        "    (void)known;\n",
    ),
    Mutant(
        "greeted before the operation is finished",
        "router.c",
        "    fanout_recover(self);\n",
        "    for (uint32_t i = 0; i < self->live_count; i++)\n        announce(self, self->live[i], self->lane[self->live[i]].generation, RECORD_HERE);\n    fanout_recover(self);\n",
    ),
    Mutant(
        "the ring goes on while something is spilled",
        "fanout.c",
        "if (__builtin_expect(!lane->behind && ring_claim",
        "if (__builtin_expect(ring_claim",
    ),
    Mutant(
        "a loss is not told",
        "fanout.c",
        "    tell_losses(self, slot); /* may",
        "    if (0) tell_losses(self, slot); /* may",
    ),
    Mutant("a dead router's spill is forgotten", "router.c", "            fanout_tell_all_gaps(self, slot);\n", ""),
    Mutant(
        "a verdict dies with the router",
        "router.c",
        "    shared_store(&segment_mark(self->segment, slot)->quarantined, lane->generation * 8 + reason);\n",
        "",
    ),
    Mutant(
        "the dead stay in the bitmaps",
        "router.c",
        "        restore_members(self, slot); /* it lived too briefly",
        "        ; /* it lived too briefly",
    ),
    Mutant(
        "the dead are not heard to their end",
        "router.c",
        "while (drain(self, slot, UINT64_MAX, UINT64_MAX) != 0)",
        "while (0)",
    ),
    Mutant(
        "another life's name is believed",
        "router.c",
        "return header->source == WORKER_ID(slot, generation);",
        "return WORKER_SLOT(header->source) == slot;",
    ),
    Mutant(
        "emptied rows stay",
        "membership.c",
        "    self->sweep_due = false;\n",
        "    self->sweep_due = false;\n    return;\n",
    ),
    Mutant("an awaited row is given away", "membership.c", "fanout_row_is_awaited(self, number))", "false)"),
    Mutant(
        "a record for another life is taken",
        "endpoint.c",
        "        if (__builtin_expect(header->destination == self->id, 1))\n            return RING_OK;\n        count(&self->control->count.stale);\n        ring_advance(&in->ring",
        "        if (true)\n            return RING_OK;\n        count(&self->control->count.stale);\n        ring_advance(&in->ring",
    ),
    Mutant(
        "the garbage is hidden from the judge",
        "endpoint.c",
        "            ring_release(&in->ring); /* the router",
        "            /* the router",
    ),
    Mutant(
        "no second look before sleep",
        "endpoint.c",
        "    if (endpoint_something(self)) {\n        notify_disarm",
        "    if (0) {\n        notify_disarm",
    ),
    Mutant(
        "a waiting sender is not woken",
        "router.c",
        "        if (tail - up->head <= up->capacity / 2 && notify_due(&lane->room))\n            notify_write(lane->room.fd);",
        "        (void)tail;",
    ),
]


CONTROLS = [
    Mutant(name, "ring.h", "filler->type = RECORD_PAD;", "filler->type = RECORD_PAD;", variant)
    for name, variant in (("unchanged", "plain"), ("unchanged, ThreadSanitizer", "tsan"), ("unchanged, fence", "plain"))
]


def _mutate(mutant: Mutant, core: Path) -> None:
    core.mkdir()
    for source in [*CORE.glob("*.h"), *CORE.glob("*.c")]:
        if source.name != "native.c":
            shutil.copy(source, core)
    path = core / mutant.file
    text = path.read_text()
    if text.count(mutant.right) != 1:
        raise SystemExit(f"{mutant.name}: its text stands {text.count(mutant.right)} times in {mutant.file}")
    path.write_text(text.replace(mutant.right, mutant.wrong))


def catch(mutant: Mutant) -> str | None:
    """What caught it, or None when it lives."""
    with tempfile.TemporaryDirectory() as place:
        _mutate(mutant, Path(place, "core"))
        subprocess.run(
            ["make", "-s", "-C", str(DRIVER), mutant.variant, f"OUT={place}", f"CORE={place}/core", "CC=gcc"],
            check=True,
            capture_output=True,
        )
        names = FENCED if mutant.name in ("no fence", "unchanged, fence") else SENTENCES.get(mutant.variant, [])
        try:
            done = subprocess.run(
                [f"{place}/driver-{mutant.variant}", *names],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=DEADLINE,
                env={**os.environ, **({"NOTIFY_ROUNDS": str(ROUNDS)} if names is FENCED else {})},
            )
        except subprocess.TimeoutExpired:
            return "it does not come to an end"
    if done.returncode == 0:
        return None
    failed = re.findall(r"^FAILED (\w+)", done.stdout, re.M)
    return f"{failed[0]} (of {len(failed)})" if failed else f"status {done.returncode}"


def main(wanted: list[str]) -> int:
    """Run those whose name contains one of the words, or all."""
    for control in CONTROLS:
        by = catch(control)
        print(f"{'FAILS ' if by else 'passes'}  {control.name}: {by or ''}", flush=True)
        if by:
            print("WRONG the unchanged core does not pass: nothing is caught by this")
            return 1
    chosen = [mutant for mutant in MUTANTS if not wanted or any(word in mutant.name for word in wanted)]
    started, living = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for mutant, by in zip(chosen, pool.map(catch, chosen)):
            print(f"{'caught' if by else 'LIVES '}  {mutant.name}: {by or ''}", flush=True)
            living += by is None
    print(f"FIGURES {len(chosen)} mutants, {len(chosen) - living} caught, {time.monotonic() - started:.0f} s")
    return living != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
