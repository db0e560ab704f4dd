"""A fabric in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from channels import testing
from channels.worker.client import Client


@pytest.fixture
def fabric() -> Iterator[Client]:
    with testing.local() as client:
        yield client
