"""How `python -m tests.chaos.api` judges the memory of a long run."""

from __future__ import annotations

import pytest

from tests.chaos.api import grown


@pytest.mark.parametrize(
    "kib",
    [
        [14_000] * 40,
        [14_000] * 10 + [19_000] * 30,  # 10 % and 4 MiB: a master that is older
        [9_000, 14_000, 0, 13_500] * 10,  # one looked while the router was replaced
    ],
)
def test_memory_that_comes_and_goes_is_no_growth(kib: list[int]) -> None:
    assert grown(kib) == []


@pytest.mark.parametrize("each", [150, 400])
def test_memory_that_grows_a_little_with_every_look_is_told(each: int) -> None:
    found = grown([14_000 + each * look for look in range(60)])
    assert len(found) == 1
    assert "grew" in found[0]


def test_memory_that_nobody_looked_at_is_told() -> None:
    assert grown([]) != []
