"""The one door: what is stored, what a repeat does, what a busy session does."""

from typing import Any

import pytest

from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.executions import Overrides, Status
from nubabel_workers.domain.hints import LINE_WAIT_S, LONG_LINE, HintTask
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.submit_execution import Submitted
from tests.fakes.front_door import ACME, IMPATIENT, OTHER, STRICT, FrontDoor


@pytest.fixture
def door() -> FrontDoor:
    return FrontDoor()


async def submit(door: FrontDoor, organization: Organization = ACME, **fields: Any) -> Submitted:
    request = SubmitRequest.model_validate({"prompt": "Hello", **fields})
    return await door.submit.submit(
        organization, request, source="cli", correlation_id="req_1", traceparent="00-aa-bb-01"
    )


async def test_everything_the_caller_decided_is_in_the_row(door: FrontDoor) -> None:
    await submit(
        door,
        category="quick",
        skills=[],
        agent="oracle",
        model="acme/large",
        user_id="anna",
        metadata={"a": [1, None]},
        deadline_s=60,
    )

    (new,) = door.executions.accepted
    assert new.overrides == Overrides("quick", [], "oracle", "acme/large")
    assert (new.user_id, new.metadata, new.deadline_s) == ("anna", {"a": [1, None]}, 60)
    assert (new.source, new.correlation_id, new.traceparent) == ("cli", "req_1", "00-aa-bb-01")
    assert new.reply == {"kind": "none"}


async def test_a_request_behind_a_long_line_of_its_organization_shares_its_hint_with_others(door: FrontDoor) -> None:
    for _ in range(LONG_LINE + 1):
        await submit(door)

    assert [hint.may_wait_s for hint in door.hints.published] == [0.0] * LONG_LINE + [LINE_WAIT_S]


async def test_a_repeat_finds_what_became_of_the_request(door: FrontDoor) -> None:
    first = await submit(door, idempotency_key="k")
    door.executions.move(first.execution_id, Status.COMPLETED)

    second = await submit(door, idempotency_key="k")

    assert (second.execution_id, second.created, second.status) == (first.execution_id, False, Status.COMPLETED)
    assert door.hints.rows(HintTask.DISPATCH) == [first.execution_id]


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "Else"},
        {"skills": []},
        {"session_key": "s"},
        {"metadata": {"a": 1}},
        {"user_id": "anna"},
        {"deadline_s": 60},
    ],
    ids=str,
)
async def test_any_difference_in_what_is_asked_makes_it_another_request(door: FrontDoor, other: dict[str, Any]) -> None:
    await submit(door, idempotency_key="k")

    with pytest.raises(InvalidInputError) as refused:
        await submit(door, idempotency_key="k", **other)
    assert refused.value.code == "idempotency_key_reused"


async def test_the_trace_and_the_order_of_names_make_no_difference(door: FrontDoor) -> None:
    first = await submit(door, idempotency_key="k", metadata={"a": 1, "b": 2}, traceparent="x")
    second = await submit(door, idempotency_key="k", metadata={"b": 2, "a": 1}, traceparent="y")

    assert second.execution_id == first.execution_id


async def test_a_repeat_without_a_session_makes_no_second_session(door: FrontDoor) -> None:
    await submit(door, idempotency_key="k")
    await submit(door, idempotency_key="k")

    assert len(door.executions.sessions) == 1


async def test_a_key_of_a_session_cannot_be_chosen_to_meet_another_kind(door: FrontDoor) -> None:
    alone = await submit(door, idempotency_key="x")
    named = await submit(door, session_key="x")
    slack_like = await submit(door, session_key="slack:wsp_1:C1:1.2")

    assert len({alone.session_id, named.session_id, slack_like.session_id}) == 3
    assert all(not key.startswith("slack:") for _, key in door.executions.sessions)


async def test_a_session_of_another_organization_is_not_found(door: FrontDoor) -> None:
    mine = await submit(door)

    with pytest.raises(NotFoundError):
        await submit(door, OTHER, session_id=mine.session_id)
    assert len(door.executions.rows) == 1


async def test_by_default_a_follow_up_waits_for_its_turn(door: FrontDoor) -> None:
    first = await submit(door, session_key="s")
    second = await submit(door, session_key="s")

    assert (second.status, second.session_id) == (Status.QUEUED, first.session_id)
    assert door.executions.statuses() == [Status.QUEUED, Status.QUEUED]


async def test_an_impatient_organizations_follow_up_replaces_the_earlier_one(door: FrontDoor) -> None:
    await submit(door, IMPATIENT, session_key="s")
    second = await submit(door, IMPATIENT, session_key="s")

    assert second.status is Status.QUEUED
    assert door.executions.statuses() == [Status.CANCELLED, Status.QUEUED]


async def test_a_strict_organizations_follow_up_is_refused_visibly(door: FrontDoor) -> None:
    first = await submit(door, STRICT, session_key="s")
    second = await submit(door, STRICT, session_key="s")

    assert second.status is Status.REJECTED
    assert door.executions.statuses() == [Status.QUEUED, Status.REJECTED]
    assert door.hints.rows(HintTask.DISPATCH) == [first.execution_id]


async def test_a_repeat_after_a_refusal_is_told_the_refusal(door: FrontDoor) -> None:
    await submit(door, STRICT, session_key="s")
    await submit(door, STRICT, session_key="s", idempotency_key="k")

    again = await submit(door, STRICT, session_key="s", idempotency_key="k")

    assert (again.status, again.created) == (Status.REJECTED, False)


async def test_a_prompt_is_measured_in_bytes(door: FrontDoor) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await submit(door, prompt="가" * 667)
    assert refused.value.code == "prompt_too_large"
    await submit(door, prompt="가" * 666)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"category": "nonsense"}, "unknown_category"),
        ({"skills": ["nonsense"]}, "unknown_skill"),
    ],
    ids=["category", "skill"],
)
async def test_what_no_server_can_do_is_refused_before_it_is_stored(
    door: FrontDoor, fields: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await submit(door, **fields)

    assert refused.value.code == code
    assert door.executions.accepted == []
