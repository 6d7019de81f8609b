"""The previous release, for the tests that run it, comes from any clone that knows where it came from."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.previous_release import NoHistoryError, archived


def _git(home: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """Two commits."""
    home = tmp_path / "origin"
    home.mkdir()
    _git(home, "init", "--quiet")
    for number in (1, 2):
        (home / "file").write_text(str(number))
        _git(home, "add", "file")
        _git(home, "commit", "--quiet", "-m", str(number))
    return home


def test_a_shallow_clone_asks_its_origin_for_that_commit(origin: Path, tmp_path: Path) -> None:
    previous = _git(origin, "rev-parse", "HEAD~1")
    _git(tmp_path, "clone", "--quiet", "--depth=1", origin.as_uri(), "shallow")

    archive = archived(previous, tmp_path / "shallow")

    assert archive == archived(previous, origin)
    assert _git(tmp_path / "shallow", "rev-list", "--count", "HEAD") == "1"


def test_where_nobody_has_it_the_reason_is_told_with_what_to_do(origin: Path) -> None:
    with pytest.raises(NoHistoryError, match=r"lacks commit 0{40} .*git fetch --unshallow"):
        archived("0" * 40, origin)
