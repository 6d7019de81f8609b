"""What the button below a budget's notice says, what it names, and who may be named to press it."""

import pytest

from nubabel_workers.domain.budget_button import MAX_APPROVERS, BudgetButton, checked_approvers, cost_allowed
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.wording import Language

EXECUTION = "exe_01kahmz7p1h0v5v6m6bqz0x3ja"


@pytest.mark.parametrize(("cost", "shown"), [(1.0, "$1"), (0.25, "$0.25"), (12.5, "$12.5"), (1234567.0, "$1234567")])
def test_it_says_how_much_it_allows_in_both_languages(cost: float, shown: str) -> None:
    button = BudgetButton(EXECUTION, 0, 2, 3, cost)

    assert button.shown(Language.ENGLISH).label == f"Allow {shown} more"
    assert button.shown(Language.KOREAN).label == f"{shown} 더 허용"


@pytest.mark.parametrize("cost", [1.0, 0.25, 0.000001, 999_999_999.5])
def test_what_it_names_is_read_back(cost: float) -> None:
    button = BudgetButton(EXECUTION, 1, 2, 3, cost)

    assert BudgetButton.read(button.shown(Language.ENGLISH).value) == button


@pytest.mark.parametrize(
    "value",
    [
        *("", "exe_1", f"{EXECUTION}:", f"{EXECUTION}:1", f"{EXECUTION}:0.1.1", f"{EXECUTION}:0.-1.1:1"),
        *(f"{EXECUTION}:0.1.1:1 ", f"{EXECUTION}:0.1.1:-1", f"{EXECUTION}:0.1.1:nan", "exe_A:0.1.1:1", ":0.1.1:1"),
    ],
)
def test_anything_else_names_nothing(value: str) -> None:
    assert BudgetButton.read(value) is None


@pytest.mark.parametrize(
    ("step", "allowed"),
    [(0.0, 1.0), (0.4, 1.0), (1.0, 1.0), (1.001, 1.01), (2.345, 2.35), (1e-9, 1.0), (1.1 + 2.2, 3.3)],
)
def test_a_press_allows_the_usual_or_a_step_where_that_costs_more(step: float, allowed: float) -> None:
    assert cost_allowed(1.0, step=step) == allowed


def test_approvers_are_slack_user_ids_each_once() -> None:
    assert checked_approvers(["U024BE7LH", "W012A3CDE", "U024BE7LH"]) == ("U024BE7LH", "W012A3CDE")
    assert checked_approvers([]) == ()


@pytest.mark.parametrize(
    "wrong", [["anna"], ["@anna"], [""], ["u024be7lh"], [f"U{n:08d}" for n in range(MAX_APPROVERS + 1)]]
)
def test_what_is_no_such_id_is_said(wrong: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        checked_approvers(wrong)
