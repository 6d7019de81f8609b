"""Caps, holds and what people are told of them."""

from datetime import UTC, datetime

import pytest

from nubabel_workers.domain.budgets import (
    Amount,
    Books,
    Cap,
    Caps,
    Economy,
    Shortage,
    nearest_cap,
    step_of,
    until_next_step,
    words_for,
)
from nubabel_workers.domain.executions import Overrides, Usage
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.wording import Language

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)


def test_an_organization_without_caps_limits_nothing() -> None:
    assert not Caps.of(Limits(requests_per_minute=60)).limit_something
    assert Caps.of(Limits(tokens_per_day=0)).limit_something


def test_a_run_may_use_one_more_step_like_those_before() -> None:
    usage = Usage(input_tokens=400, output_tokens=40, cost=1.0)

    assert step_of(usage, 4) == Amount(0.25, 110)
    assert until_next_step(usage, 4) == Amount(1.25, 550)
    assert until_next_step(Usage(), 0) == Amount()


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("cap", list(Cap))
def test_every_shortage_has_words_in_both_languages(cap: Cap, paused: bool, language: Language) -> None:
    frees_at = None if cap is Cap.COST_PER_EXECUTION else MIDNIGHT

    words = words_for(Shortage(cap, True, frees_at), language, paused=paused)

    assert words
    assert "{" not in words


def test_people_are_told_what_is_used_up_and_what_frees_it() -> None:
    assert words_for(Shortage(Cap.COST_PER_MONTH, True, MIDNIGHT), Language.ENGLISH, paused=False) == (
        "Your organization's budget for this month is used up. Your request is kept: "
        "it goes on next month, or when an administrator raises the limit."
    )


NOTHING = Amount()


@pytest.mark.parametrize(
    ("caps", "books", "near"),
    [
        (Caps(cost_per_day=10), Books(Amount(7.9), NOTHING, NOTHING, 0, 0, 0), None),
        (Caps(cost_per_day=10), Books(Amount(8), NOTHING, NOTHING, 0, 0, 0), Cap.COST_PER_DAY),
        (Caps(cost_per_day=10), Books(Amount(7), NOTHING, Amount(1), 1, 0, 0), Cap.COST_PER_DAY),
        (Caps(tokens_per_month=100), Books(NOTHING, Amount(0, 80), NOTHING, 0, 0, 0), Cap.TOKENS_PER_MONTH),
        (Caps(cost_per_execution=1), Books(Amount(99), Amount(99), NOTHING, 0, 0, 0), None),
        (Caps(), Books(Amount(99), Amount(99), NOTHING, 0, 0, 0), None),
    ],
)
def test_near_a_cap_is_a_share_of_what_is_used_and_held(caps: Caps, books: Books, near: Cap | None) -> None:
    assert nearest_cap(caps, books, share=0.8) is near


def test_sparing_leaves_what_the_caller_chose() -> None:
    economy = Economy(Cap.COST_PER_DAY, "quick", 300)

    assert economy.spare(Overrides(), {"quick"}).category == "quick"
    assert economy.spare(Overrides(category="deep"), {"quick"}).category == "deep"
    assert economy.spare(Overrides(), {"other"}).category is None
