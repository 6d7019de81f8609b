"""`nubabel demo` and `nubabel up` as a newcomer runs them: they end well and leave nothing behind."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_NUBABEL = str(Path(sys.executable).with_name("nubabel"))
_WITHIN_S = 90.0


@contextmanager
def _started(command: str, temporary: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command with its output in a file. What it starts has `temporary` in its environment or its arguments."""
    output = temporary / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [_NUBABEL, command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary), **settings},
        )
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()


def _left_over(temporary: Path) -> list[str]:
    """Command lines of processes that belong to a stack in that folder."""
    mark, found = os.fsencode(temporary), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command_line, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if command_line and mark in command_line + environment:
            found.append(command_line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def _wait_until_up(process: subprocess.Popen[bytes], output: Path) -> str:
    def is_up() -> bool:
        assert process.poll() is None, output.read_text()
        return "As an operator" in output.read_text() and "/v1/operator/usage" in output.read_text()

    wait_for(is_up, timeout_s=_WITHIN_S, what="nubabel up is ready")
    return output.read_text()


def test_the_demo_shows_every_answer_and_leaves_nothing_behind(short_dir: Path) -> None:
    with _started("demo", short_dir) as (process, output):
        code = process.wait(timeout=_WITHIN_S)

    shown = output.read_text()
    assert code == 0, shown
    assert "Three things changed" in shown
    assert "배포 전 점검" in shown
    assert "The shell said hello." in shown
    assert "ECHO[4]" in shown
    wait_for(lambda: not _left_over(short_dir), what="nothing is left running")
    assert [path.name for path in short_dir.iterdir() if path.name.startswith("nubabel-")] == []


def test_up_says_where_everything_is_and_stops_on_ctrl_c(short_dir: Path) -> None:
    with _started("up", short_dir) as (process, output):
        shown = _wait_until_up(process, output)
        for page in re.findall(r"http://127\.0\.0\.1:\d+/(?:docs|ready|metrics)", shown):
            with urllib.request.urlopen(page, timeout=5) as answer:  # noqa: S310  # a loopback address that it printed
                assert answer.status == 200
        ((opencode, user, password),) = re.findall(r"OpenCode +(http://\S+)  user (\S+), password (\S+)", shown)
        login = b64encode(f"{user}:{password}".encode()).decode()
        entered = urllib.request.Request(f"{opencode}/session", headers={"authorization": f"Basic {login}"})  # noqa: S310
        with urllib.request.urlopen(entered, timeout=5) as answer:  # noqa: S310  # a loopback address that it printed
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)

    assert set(re.findall(r"/metrics  (\S+)", shown)) == {
        *("web", "slack", "worker-events", "worker-orchestration", "worker-notifications", "worker-dead-letters"),
        *("listener", "scheduler"),
    }
    assert code == 0, output.read_text()  # so that make has nothing to complain about
    assert "Stopped" in output.read_text()
    wait_for(lambda: not _left_over(short_dir), what="nothing is left running")


def test_up_takes_the_settings_of_the_shell_and_lets_an_operator_in(short_dir: Path) -> None:
    elsewhere = "postgresql://somebody@127.0.0.1:9/theirs"
    with _started("up", short_dir, NUBABEL_ROLLOUT="fallback:100:session", NUBABEL_DATABASE_URL=elsewhere) as (
        process,
        output,
    ):
        shown = _wait_until_up(process, output)
        (token,) = re.findall(r"nbo_[\w-]+", shown)
        (url,) = re.findall(r"(http://\S+)/v1/operator/usage", shown)
        request = urllib.request.Request(f"{url}/v1/operator/usage", headers={"authorization": f"Bearer {token}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  # a loopback address that it printed
            assert answer.status == 200
        env_file = (Path(found) for found in re.findall(r"NUBABEL_ENV_FILE=(\S+)", shown))
        settings = next(env_file).read_text()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)

    assert "Settings of your shell that count here: NUBABEL_ROLLOUT" in shown
    assert "Not used, everything here has its own: NUBABEL_DATABASE_URL" in shown
    assert "NUBABEL_ROLLOUT='fallback:100:session'" in settings
    assert elsewhere not in settings


def test_up_says_which_setting_does_not_fit_and_ends(short_dir: Path) -> None:
    with _started("up", short_dir, NUBABEL_LATE_NOTICE_S="soon") as (process, output):
        code = process.wait(timeout=_WITHIN_S)

    assert code not in {0, None}
    assert "NUBABEL_LATE_NOTICE_S" in output.read_text()
    assert "Traceback" not in output.read_text()
    wait_for(lambda: not _left_over(short_dir), what="nothing is left running")


def test_nothing_outlives_a_killed_up(short_dir: Path) -> None:
    with _started("up", short_dir) as (process, output):
        _wait_until_up(process, output)
        assert len(_left_over(short_dir)) > 8

        process.kill()
        process.wait()

    wait_for(lambda: not _left_over(short_dir), timeout_s=20, what="the processes of the killed command have ended")
