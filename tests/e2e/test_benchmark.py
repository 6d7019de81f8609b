"""`python -m benchmarks` works and has its figures; how fast anything is nobody looks at here."""

import json
from typing import Any

import pytest

from benchmarks.__main__ import run
from tests.forking import ForkedProcess

ROWS = (
    "analysis",
    "decoder",
    "masking",
    "warm",
    "floor",
    "added",
    "lookup",
    "sse",
    "cancel",
    "organizations",
    "admission",
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of the rows that need one system at most and take seconds, in the smallest size."""
    file = tmp_path_factory.mktemp("benchmark") / "figures.json"
    only = [word for row in ROWS for word in ("--only", row)]

    exit_code = run(["--smoke", *only, "--json", str(file)], start_process=ForkedProcess)

    assert exit_code == 0
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def test_every_execution_is_answered_once(measured: dict[str, Any]) -> None:
    assert measured["problems"] == []


@pytest.mark.parametrize("row", [row for row in ROWS if row != "floor"])
def test_each_row_has_its_figures(measured: dict[str, Any], row: str) -> None:
    values = [one["value"] for one in measured["figures"] if one["row"].partition(",")[0] == row]

    assert values != []
    assert None not in values


@pytest.mark.parametrize("load", ["5/s", "30/s"])
def test_added_time_is_measured_beside_the_floor(measured: dict[str, Any], load: str) -> None:
    added = [figure for figure in measured["figures"] if figure["row"] == f"added, {load}"]

    assert [figure["what"].rpartition(", ")[2] for figure in added] == ["p50", "p95", "p99"]
    assert [figure for figure in added if figure["value"] is None or figure["floor"] is None] == []


def test_cpu_is_measured_of_the_floor_and_of_all_our_processes(measured: dict[str, Any]) -> None:
    cpu = measured["tables"]["CPU per execution, ms"]

    assert cpu["floor"].keys() == {"floor, 5/s", "floor, 30/s", "floor, saturated"}
    assert cpu["all of ours"].keys() == {"5/s", "30/s"}
