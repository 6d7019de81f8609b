"""What becomes of a test that needs packages from npm where they are not to be had."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nubabel_workers.embedded.npm_packages import NotInstallableError


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Around the start of what comes from npm: without it the test fails in CI, and is skipped loudly elsewhere."""
    try:
        yield
    except NotInstallableError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is needed here: {error}")
        pytest.skip(f"NOT CHECKED against {what}: {error}")
