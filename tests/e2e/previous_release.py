"""The files of the previous release, from this clone's history or from where the clone came from."""

import subprocess
from pathlib import Path

_FETCH_WITHIN_S = 60.0


class NoHistoryError(Exception):
    """The commit is not to be had; the message says what to do."""


def archived(commit: str, clone: Path) -> bytes:
    """The commit as a tar archive. A clone that lacks it (a shallow one) asks its origin for that commit alone.

    Raises NoHistoryError.
    """
    if _git(clone, "cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
        fetched = _git(clone, "fetch", "--quiet", "--no-tags", "--depth=1", "origin", commit)
        if fetched.returncode != 0:
            raise NoHistoryError(
                f"this clone lacks commit {commit} and its origin does not give it ({_last_line(fetched.stderr)}): "
                "clone with the whole history (git fetch --unshallow)"
            )
    return _git(clone, "archive", commit, check=True).stdout


def _git(clone: Path, *arguments: str, check: bool = False) -> "subprocess.CompletedProcess[bytes]":
    command = ["git", *arguments]
    return subprocess.run(command, cwd=clone, capture_output=True, check=check, timeout=_FETCH_WITHIN_S)


def _last_line(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
