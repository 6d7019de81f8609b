"""Which orchestrator answers: the same everywhere, as large a share as was asked for, and nobody moves needlessly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.domain.rollout import Orchestrator, Rollout, RolloutBy

SESSIONS = [(f"org_{number % 40}", f"slack:C1:{number}") for number in range(4000)]


def moved(rollout: Rollout) -> set[tuple[str, str]]:
    return {one for one in SESSIONS if rollout.choose(*one) is not Orchestrator.OPENCODE}


@pytest.mark.parametrize(
    ("text", "rollout"),
    [
        ("opencode", Rollout()),
        ("delegate:10", Rollout(Orchestrator.DELEGATE, 10, RolloutBy.SESSION)),
        ("fallback:100:organization", Rollout(Orchestrator.FALLBACK, 100, RolloutBy.ORGANIZATION)),
        ("delegate:0.25:session", Rollout(Orchestrator.DELEGATE, 0.25, RolloutBy.SESSION)),
    ],
)
def test_the_setting_is_read(text: str, rollout: Rollout) -> None:
    assert Rollout.parse(text) == rollout


@pytest.mark.parametrize(
    "text", ["", "delegate", "delegate:101", "opencode:5", "x:5", "delegate:5:user", "delegate:-1"]
)
def test_a_setting_that_means_nothing_says_what_fits(text: str) -> None:
    with pytest.raises(ValueError, match="delegate:10:session"):
        Rollout.parse(text)


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 100])
def test_the_share_is_what_was_asked_for(percent: float) -> None:
    share = len(moved(Rollout(Orchestrator.DELEGATE, percent))) / len(SESSIONS) * 100

    assert share == pytest.approx(percent, abs=2)
    assert percent not in {0, 100} or share == percent


def test_a_larger_share_keeps_whoever_was_in_the_smaller_one() -> None:
    assert moved(Rollout(Orchestrator.DELEGATE, 10)) < moved(Rollout(Orchestrator.DELEGATE, 50))


@pytest.mark.parametrize(
    ("text", "only"), [("opencode", "opencode"), ("delegate:0", "opencode"), ("delegate:100", "delegate")]
)
def test_who_gets_everything_is_known(text: str, only: str) -> None:
    assert Rollout.parse(text).only == only
    assert Rollout.parse("delegate:99").only is None


def test_an_organization_moves_as_a_whole() -> None:
    organizations = {
        organization for organization, _ in moved(Rollout(Orchestrator.DELEGATE, 50, RolloutBy.ORGANIZATION))
    }

    assert 0 < len(organizations) < 40
    assert len(moved(Rollout(Orchestrator.DELEGATE, 50, RolloutBy.ORGANIZATION))) == 100 * len(organizations)


def test_the_choice_never_changes() -> None:
    """Written down: another release must make the same one, or conversations would be moved by an upgrade."""
    rollout = Rollout(Orchestrator.DELEGATE, 50)

    assert [rollout.choose("org_1", f"k{number}").value for number in range(6)] == [
        "delegate",
        "opencode",
        "delegate",
        "delegate",
        "opencode",
        "delegate",
    ]


@given(st.text(max_size=20), st.text(max_size=20))
def test_everybody_has_one_orchestrator(organization: str, session: str) -> None:
    assert Rollout().choose(organization, session) is Orchestrator.OPENCODE
    assert Rollout(Orchestrator.FALLBACK, 100).choose(organization, session) is Orchestrator.FALLBACK
