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


_ELSEWHERE = "postgresql://somebody@127.0.0.1:9/theirs"


def test_up_says_where_everything_is_takes_the_settings_of_the_shell_and_stops_on_ctrl_c(short_dir: Path) -> None:
    """One start for all that is said of it: it takes a dozen processes half a minute."""
    settings = {"NUBABEL_ROLLOUT": "fallback:100:session", "NUBABEL_DATABASE_URL": _ELSEWHERE}
    with started("up", short_dir, **settings) as (process, output):
        shown = _wait_until_up(process, output)
        _assert_pages_answer(shown)
        _assert_opencode_lets_in(shown)
        _assert_operators_token_lets_in(shown)
        _assert_environment_file_has(shown, "NUBABEL_ROLLOUT='fallback:100:session'")
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)

    assert set(re.findall(r"/metrics  (\S+)", shown)) == {
        *("web", "slack", "worker-events", "worker-orchestration", "worker-notifications", "worker-dead-letters"),
        *("listener", "scheduler"),
    }
    assert "Settings of your shell that count here: NUBABEL_ROLLOUT" in shown
    assert "Not used, everything here has its own: NUBABEL_DATABASE_URL" in shown
    assert code == 0, output.read_text()  # so that make has nothing to complain about
    assert "Stopped" in output.read_text()
    wait_for(lambda: not left_over(short_dir), what="nothing is left running")


def _assert_pages_answer(shown: str) -> None:
    pages = re.findall(r"http://127\.0\.0\.1:\d+/(?:docs|ready|metrics)", shown)

    assert {page.rpartition("/")[2] for page in pages} == {"docs", "ready", "metrics"}
    for page in pages:
        assert _status(page) == 200


def _assert_opencode_lets_in(shown: str) -> None:
    ((opencode, user, password),) = re.findall(r"OpenCode +(http://\S+)  user (\S+), password (\S+)", shown)
    login = b64encode(f"{user}:{password}".encode()).decode()

    assert _status(f"{opencode}/session", f"Basic {login}") == 200


def _assert_operators_token_lets_in(shown: str) -> None:
    (token,) = re.findall(r"nbo_[\w-]+", shown)
    (url,) = re.findall(r"(http://\S+)/v1/operator/usage", shown)

    assert _status(f"{url}/v1/operator/usage", f"Bearer {token}") == 200


def _assert_environment_file_has(shown: str, line: str) -> None:
    (file,) = {Path(found) for found in re.findall(r"NUBABEL_ENV_FILE=(\S+)", shown)}
    settings = file.read_text()

    assert line in settings
    assert _ELSEWHERE not in settings


def _status(url: str, authorization: str = "") -> int:
    headers = {"authorization": authorization} if authorization else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # a loopback address that it printed
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        return int(answer.status)


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
