"""The state machine of executions: its moves are data, and everything else is refused."""

import itertools

import pytest

from nubabel_workers.domain.errors import IllegalTransitionError
from nubabel_workers.domain.executions import FINAL, OCCUPYING, Status, can_move, check_move, sources_of


def test_the_main_path_is_legal() -> None:
    path = (Status.QUEUED, Status.DISPATCHING, Status.RUNNING, Status.COMPLETED)

    assert all(can_move(a, b) for a, b in itertools.pairwise(path))


@pytest.mark.parametrize("source", sorted(FINAL - {Status.FAILED}))
@pytest.mark.parametrize("target", sorted(Status))
def test_nothing_leaves_a_final_state(source: Status, target: Status) -> None:
    with pytest.raises(IllegalTransitionError):
        check_move(source, target)


def test_only_a_replay_leaves_failed() -> None:
    assert [target for target in Status if can_move(Status.FAILED, target)] == [Status.QUEUED]


@pytest.mark.parametrize("source", sorted(set(Status) - FINAL))
def test_everything_unfinished_can_be_cancelled(source: Status) -> None:
    check_move(source, Status.CANCELLED)


@pytest.mark.parametrize("state", sorted(OCCUPYING))
def test_what_occupies_a_session_is_not_final(state: Status) -> None:
    assert state not in FINAL


def test_sources_are_what_a_conditional_update_compares_with() -> None:
    assert sources_of(Status.COMPLETED) == ["dispatching", "running"]
    assert sources_of(Status.QUEUED, among=frozenset({Status.RUNNING})) == ["running"]
