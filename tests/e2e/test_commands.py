"""`nubabel up` as a newcomer runs it: it ends well and leaves nothing behind. The demo: `test_demo.py`."""

import re
import signal
import subprocess
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

from tests.e2e.started import left_over, started
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_WITHIN_S = 90.0


def _wait_until_up(process: subprocess.Popen[bytes], output: Path) -> str:
    def is_up() -> bool:
        assert process.poll() is None, output.read_text()
        return "As an operator" in output.read_text() and "/v1/operator/usage" in output.read_text()

    wait_for(is_up, timeout_s=_WITHIN_S, what="nubabel up is ready")
    return output.read_text()


def test_up_says_where_everything_is_and_stops_on_ctrl_c(short_dir: Path) -> None:
    with started("up", short_dir) as (process, output):
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
    wait_for(lambda: not left_over(short_dir), what="nothing is left running")


def test_up_takes_the_settings_of_the_shell_and_lets_an_operator_in(short_dir: Path) -> None:
    elsewhere = "postgresql://somebody@127.0.0.1:9/theirs"
    with started("up", short_dir, NUBABEL_ROLLOUT="fallback:100:session", NUBABEL_DATABASE_URL=elsewhere) as (
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
    with started("up", short_dir, NUBABEL_LATE_NOTICE_S="soon") as (process, output):
        code = process.wait(timeout=_WITHIN_S)

    assert code not in {0, None}
    assert "NUBABEL_LATE_NOTICE_S" in output.read_text()
    assert "Traceback" not in output.read_text()
    wait_for(lambda: not left_over(short_dir), what="nothing is left running")


def test_nothing_outlives_a_killed_up(short_dir: Path) -> None:
    with started("up", short_dir) as (process, output):
        _wait_until_up(process, output)
        assert len(left_over(short_dir)) > 8

        process.kill()
        process.wait()

    wait_for(lambda: not left_over(short_dir), timeout_s=20, what="the processes of the killed command have ended")
