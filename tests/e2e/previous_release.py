"""The files of the previous release, from this clone's history or from where the clone came from."""

import os
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
    asks_nobody = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(
            command, cwd=clone, env=asks_nobody, capture_output=True, check=check, timeout=_FETCH_WITHIN_S
        )
    except subprocess.TimeoutExpired as error:
        raise NoHistoryError(f"git {arguments[0]} did not end within {_FETCH_WITHIN_S:g} s: try again") from error


def _last_line(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
