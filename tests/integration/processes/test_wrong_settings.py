"""A process that cannot start for its settings says so in one line, which names the setting; no traceback."""

import socket
from collections.abc import Iterator

import pytest

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


@pytest.mark.parametrize("process", ["scheduler", "worker-orchestration"])
def test_no_process_goes_on_without_the_metrics_that_it_was_to_serve(process: str, taken_port: int) -> None:
    said = complaint(process, {"NUBABEL_METRICS_PORT": str(taken_port)})

    assert f"NUBABEL_METRICS_PORT: 127.0.0.1:{taken_port} cannot be listened on" in said
