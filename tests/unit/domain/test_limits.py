"""Limits: plans as data, an organization's own on top of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.limits import LimitChange, Limits, parse_change, parse_plans

PLANS = parse_plans({"plans": {"small": {"in_flight": 2, "cost_per_day": 1.5}}})


def test_an_organizations_own_limits_win_over_its_plan() -> None:
    limits = PLANS.of("small", {"in_flight": 5, "cost_per_day": None})

    assert limits == Limits(in_flight=5, cost_per_day=None)


def test_an_unknown_plan_counts_as_default() -> None:
    assert not PLANS.knows("gold")
    assert PLANS.of("gold", {"queued": 7}) == Limits(queued=7)


@pytest.mark.parametrize(
    "own", [{"in_flight": "many"}, {"weight": None}, {"weight": 0}, {"in_flight": -1}, {"invented_later": 1}]
)
def test_what_cannot_be_read_counts_as_not_there(own: Mapping[str, Any]) -> None:
    assert PLANS.of("small", own) == Limits(in_flight=2, cost_per_day=1.5)


def test_the_packaged_default_is_roomy() -> None:
    default = load_plans().of("default", {})

    assert default.in_flight is None
    assert (default.queued or 0) >= 100_000
    assert (default.requests_per_minute or 0) >= 60_000


def test_an_operators_plan_replaces_ours_of_the_same_name(tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    file.write_text("[plans.default]\nin_flight = 9\n[plans.own]\nweight = 2\n")

    plans = load_plans(file)

    assert plans.of("default", {}) == Limits(in_flight=9)
    assert plans.of("own", {}).weight == 2
    assert plans.knows("trial")


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"plan": {}}, "unknown table 'plan'"),
        ({"plans": {"x": {"inflight": 1}}}, "no limit 'inflight'"),
        ({"plans": {"x": {"in_flight": 1.5}}}, "whole number"),
        ({"plans": {"x": {"in_flight": True}}}, "must be a number"),
        ({"plans": {"x": {"cost_per_day": float("nan")}}}, "must be a number"),
        ({"plans": {"x": {"weight": 0}}}, "between 0.01 and 100"),
        ({"plans": {"x": 3}}, "plans.x must be a table"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_place(layer: Mapping[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_plans(layer)


def test_a_change_sets_removes_and_unsets() -> None:
    change = parse_change(["in_flight=20", "queued=none", "cost_per_day=unset"])

    assert change == LimitChange({"in_flight": 20, "queued": None}, ("cost_per_day",))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to change"),
        (["in_flight"], "not of the form name=value"),
        (["speed=1"], "no limit 'speed'"),
        (["in_flight=lots"], "a number, none or unset"),
        (["in_flight=nan"], "must be a number"),
        (["weight=none"], "weight must be a number"),
        (["in_flight=1", "in_flight=unset"], "named twice"),
        (["speed=unset"], "no limit 'speed'"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_change(words)
