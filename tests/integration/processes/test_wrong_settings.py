"""A process that cannot start for its settings says so in one line, which names the setting; no traceback."""

import socket
from collections.abc import Iterator

import pytest

from nubabel_workers.embedded.ports import free_port
from tests.integration.processes.alone import started

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def complaint(process: str, settings: dict[str, str]) -> str:
    """What the process says last, when it ends by itself."""
    with started(process, settings) as running:
        said, errors = running.communicate(timeout=30)
    assert running.returncode == 2
    assert "Traceback" not in said + errors
    return errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("process", "variable", "value", "words"),
    [
        ("worker-notifications", "NUBABEL_EGRESS_ALLOW", "http://10.0.0.1:9000", "must be host:port"),
        ("worker-orchestration", "NUBABEL_PLANS_FILE", "/no/plans.toml", "cannot be read"),
        ("listener", "NUBABEL_ANALYSIS_RULES_FILE", "/no/rules.yaml", "cannot be read"),
        ("scheduler", "NUBABEL_MODEL_PRICES_FILE", "/no/prices.toml", "cannot be read"),
        ("web", "NUBABEL_TOOL_COMMANDS_FILE", "/no/tools.yaml", "cannot be read"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_variable(
    process: str, variable: str, value: str, words: str
) -> None:
    said = complaint(process, {variable: value})

    assert said.startswith(f"{variable}: ")
    assert words in said


@pytest.mark.parametrize("private", [False, True], ids=["the only address", "the second address"])
def test_web_does_not_serve_one_of_its_addresses_without_the_other(private: bool, taken_port: int) -> None:
    taken = f"127.0.0.1:{taken_port}"
    at = {"NUBABEL_HTTP_PORT": str(free_port() if private else taken_port)}
    if private:
        at |= {"NUBABEL_SIDECAR_LISTEN": taken, "NUBABEL_SIDECAR_ORGANIZATION": f"org_{'0' * 26}"}

    assert f"{taken} cannot be listened on" in complaint("web", at)


@pytest.mark.parametrize("process", ["scheduler", "worker-orchestration"])
def test_no_process_goes_on_without_the_metrics_that_it_was_to_serve(process: str, taken_port: int) -> None:
    said = complaint(process, {"NUBABEL_METRICS_PORT": str(taken_port)})

    assert f"NUBABEL_METRICS_PORT: 127.0.0.1:{taken_port} cannot be listened on" in said
