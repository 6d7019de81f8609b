"""Process slack where Slack calls the gateway instead: it has nothing to do, and shows that it lives all the same."""

import signal
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from nubabel_workers.embedded.ports import free_port
from tests.integration.processes.alone import started
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            return bool(response.status == 200)
    except URLError:
        return False


def test_a_receiver_that_is_not_used_passes_its_health_check_until_it_is_stopped() -> None:
    port = free_port()

    with started("slack", {"NUBABEL_SLACK_MODE": "off", "NUBABEL_METRICS_PORT": str(port)}) as resting:
        wait_for(lambda: answers(port), timeout_s=20, what="its metrics")
        resting.send_signal(signal.SIGTERM)
        resting.communicate(timeout=20)

    assert resting.returncode == 0
