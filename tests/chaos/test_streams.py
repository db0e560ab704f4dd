"""The quick parts of `python -m tests.chaos.streams`."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("h11")

from tests.chaos.streams import PARTS, Run


@pytest.mark.parametrize("part", PARTS)
def test_streams_of_clients_without_manners_are_survived(part: str) -> None:
    run = Run(random.SystemRandom().randrange(1 << 32), 0.02)
    PARTS[part](run)
    assert run.wrong == [], f"seed {run.seed}"
