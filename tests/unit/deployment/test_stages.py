"""scripts/stages: how long the checks took, beside what they may take."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.deployment.files import ROOT


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A folder whose `date` is 90 s later each time that it is asked."""
    now = tmp_path / "now"
    now.write_text("1000")
    date = tmp_path / "date"
    date.write_text(f"#!/bin/sh\nnow=$(cat {now})\necho $((now + 90)) > {now}\necho $now\n")
    date.chmod(0o755)
    return tmp_path


def _run(clock: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{clock}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    command = [str(ROOT / "scripts" / "stages"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_the_total_stands_beside_its_aim(clock: Path) -> None:
    ran = _run(clock, "--aim", "120")

    assert ran.returncode == 0
    assert "90 s of at most 120 s" in ran.stdout
    assert "!!!" not in ran.stdout


def test_what_takes_longer_than_its_aim_is_told_loudly_and_is_no_failure(clock: Path) -> None:
    ran = _run(clock, "--aim", "60")

    assert ran.returncode == 0
    assert ran.stdout.rstrip().splitlines()[-1].startswith("!!! 30 s OVER ITS AIM of 60 s")


def test_without_an_aim_the_total_stands_alone(clock: Path) -> None:
    assert _run(clock).stdout.rstrip().endswith("90 s")


def test_a_stage_that_fails_fails_all_of_them(clock: Path) -> None:
    ran = _run(clock, "--aim", "600", "no-such-stage", "lint")

    assert ran.returncode == 1
    assert "FAILED" in ran.stdout
    assert "=== lint" not in ran.stdout


@pytest.mark.parametrize(("target", "seconds"), [("check", 120), ("test", 900)])
def test_make_has_an_aim(target: str, seconds: int) -> None:
    _, _, recipe = (ROOT / "Makefile").read_text().partition(f"\n{target}: ")

    assert f"scripts/stages --aim {seconds} " in recipe.split("\n\n")[0]
