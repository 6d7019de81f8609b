"""`python -m benchmarks` works and has its figures; how fast anything is nobody looks at here."""

import json
from typing import Any

import pytest

from benchmarks.__main__ import run
from tests.forking import ForkedProcess

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of the rows floor and added, in the smallest size."""
    file = tmp_path_factory.mktemp("benchmark") / "figures.json"

    exit_code = run(["--smoke", "--only", "floor", "--only", "added", "--json", str(file)], start_process=ForkedProcess)

    assert exit_code == 0
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def test_every_execution_is_answered_once(measured: dict[str, Any]) -> None:
    assert measured["problems"] == []


@pytest.mark.parametrize("load", ["5/s", "30/s"])
def test_added_time_is_measured_beside_the_floor(measured: dict[str, Any], load: str) -> None:
    added = [figure for figure in measured["figures"] if figure["row"] == f"added, {load}"]

    assert [figure["what"].rpartition(", ")[2] for figure in added] == ["p50", "p95", "p99"]
    assert [figure for figure in added if figure["value"] is None or figure["floor"] is None] == []


def test_cpu_is_measured_of_the_floor_and_of_all_our_processes(measured: dict[str, Any]) -> None:
    cpu = measured["tables"]["CPU per execution, ms"]

    assert cpu["floor"].keys() == {"floor, 5/s", "floor, 30/s", "floor, saturated"}
    assert cpu["all of ours"].keys() == {"5/s", "30/s"}
