"""The plugin for pytest: fixtures for tests of workflows."""

from collections.abc import Iterator

import pytest

from flux.testing.bed import Bed


@pytest.fixture
def flux_bed() -> Iterator[Bed]:
    """A Flux in memory and on virtual time, which `workflow.run()` and the like use in this test."""
    with Bed().installed() as bed:
        yield bed
