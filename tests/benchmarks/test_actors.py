"""The benchmark's own check: what is lost, doubled, out of order or damaged ends the run."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("numpy")

from benchmarks import actors

SHAPES = [(1, 10), (1, 10240), (4, 10), (4, 10240)]
QUARTER = 8


def received(publishers: int, size: int, number: int) -> list[bytes]:
    """Two windows of each publisher, mixed as several publishers' are."""
    streams = [actors.make_bodies(publisher, size, 4 * QUARTER) * 2 for publisher in range(publishers)]
    order = [publisher for publisher in range(publishers) for _ in streams[publisher]]
    random.Random(number).shuffle(order)
    each = [iter(stream) for stream in streams]
    return [next(each[publisher]) for publisher in order]


def feed(publishers: int, size: int, bodies: list[bytes]) -> actors.Expectation:
    expectation = actors.Expectation(publishers, size, QUARTER)
    for start in range(0, len(bodies), QUARTER):
        expectation.check(bodies[start : start + QUARTER])
    expectation.finish()
    return expectation


@pytest.mark.parametrize(("publishers", "size"), SHAPES)
def test_what_comes_whole_and_in_order_is_counted(publishers: int, size: int) -> None:
    bodies = received(publishers, size, 1)
    assert feed(publishers, size, bodies).seen == [8 * QUARTER] * publishers


@pytest.mark.parametrize("harm", ["lost", "doubled", "swapped", "damaged", "cut"])
@pytest.mark.parametrize(("publishers", "size"), SHAPES)
def test_harm_is_noticed(publishers: int, size: int, harm: str) -> None:
    bodies = received(publishers, size, 2)
    at = 3 * QUARTER + 1
    if harm == "lost":
        del bodies[at]
    elif harm == "doubled":
        bodies.insert(at, bodies[at])
    elif harm == "swapped":
        later = next(i for i in range(at + 1, len(bodies)) if bodies[i][0] == bodies[at][0])
        bodies[at], bodies[later] = bodies[later], bodies[at]
    elif harm == "damaged":
        bodies[at] = bodies[at][:-1] + bytes([bodies[at][-1] ^ 1])
    else:
        bodies[at] = bodies[at][:-1]
    with pytest.raises(AssertionError):
        feed(publishers, size, bodies)
