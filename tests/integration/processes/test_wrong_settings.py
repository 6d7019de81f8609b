"""A process that cannot start for its settings says so in one line, which names the setting; no traceback."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.embedded.procfile import PROCFILE, read_procfile

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

NOBODY_LISTENS = "127.0.0.1:1"  # nothing is reached before the settings are looked at
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "NUBABEL_ENVIRONMENT": "development",
    "NUBABEL_DATABASE_URL": f"postgresql://nubabel@{NOBODY_LISTENS}/nubabel",
    "NUBABEL_BROKER_URL": f"redis://{NOBODY_LISTENS}/0",
    "NUBABEL_CACHE_URL": f"redis://{NOBODY_LISTENS}/1",
    "NUBABEL_ENCRYPTION_KEYS": generate_key().get_secret_value(),
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def complaint(process: str, settings: dict[str, str]) -> str:
    """What the process says last, when it ends by itself."""
    ended = subprocess.run(
        ["sh", "-c", f"exec {read_procfile()[process]}"],
        cwd=PROCFILE.parent,
        env={**ENVIRONMENT, **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.stderr.strip().splitlines()[-1]


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
