"""A world without processes for lifecycle.py: forks succeed, children do as the test says, time is a number."""

from __future__ import annotations

from channels.master import words
from channels.master.children import Phase
from channels.master.lifecycle import Lifecycle
from channels.master.words import Limits


class World:
    """Carries out commands as the master would, and remembers them."""

    def __init__(self, workers: int = 2, max_workers: int = 4, slots: int = 8, graceful: float = 5.0) -> None:
        self.life = Lifecycle(Limits(workers, max_workers, graceful, 10.0), range(1, slots))
        self.now = 100.0
        self.pid = 1000
        self.done: list[words.Command] = []
        self.holders: dict[int, int] = {}  # slot -> generation of a forked child
        self.exit: int | None = None
        self.router = False
        self.send(words.Started())
        self.send(words.RouterUp())

    def send(self, *events: words.Event) -> list[words.Command]:
        queue, out = list(events), []
        while queue:
            for command in self.life.handle(queue.pop(0), self.now):
                out.append(command)
                queue += self._carry_out(command)
        self.done += out
        return out

    def _carry_out(self, command: words.Command) -> list[words.Event]:
        if isinstance(command, words.ForkWorker):
            assert command.slot not in self.holders, "two workers in one slot"
            assert command.generation % 2 == 1
            self.holders[command.slot] = command.generation
            self.pid += 1
            return [words.Forked(command.slot, self.pid)]
        if isinstance(command, words.Bury):
            return [words.Buried(command.slot, command.generation)] if self.router_up else []
        if isinstance(command, words.Reap):
            assert self.holders.pop(command.slot) == command.generation
        if isinstance(command, words.Exit):
            assert self.exit is None
            self.exit = command.status
        return []

    router_up = True

    def wait(self, seconds: float) -> list[words.Command]:
        self.now += seconds
        return self.send(words.Tick())

    def ready(self, *slots: int) -> list[words.Command]:
        return self.send(*[words.Ready(slot) for slot in slots])

    def phase(self, phase: Phase) -> list[int]:
        return sorted(child.slot for child in self.life.children.in_phase(phase))

    def told(self, word: str) -> list[int]:
        return [command.slot for command in self.done if isinstance(command, words.Tell) and command.word == word]

    def forked(self) -> int:
        return sum(isinstance(command, words.ForkWorker) for command in self.done)
