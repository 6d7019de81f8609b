"""One bench per test."""

import pytest

from tests.unit.cli.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
