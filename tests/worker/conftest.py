"""Fabrics of real processes."""

from __future__ import annotations

import pytest

from tests.cluster import Cluster


@pytest.fixture(params=[False, True], ids=["plain", "monkey-patched"])
def cluster(request):
    with Cluster(2, monkey=request.param) as made:
        yield made


@pytest.fixture
def plain():
    with Cluster(2) as made:
        yield made
