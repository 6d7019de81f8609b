"""Dead letters over HTTP, for operators: what `nubabel dead-letters` does, by the same service."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from nubabel_workers.domain.dead_letters import DeadLetterFilter, DeadLetterReason, DeadLetterStatus
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.gateway.dead_letter_models import (
    Cause,
    DeadLetterDetail,
    DeadLetterGroups,
    DeadLetterList,
    DeadLetterView,
    DiscardManyBody,
    DiscardOneBody,
    DiscardReportView,
    FilterBody,
    ReplayedView,
    ReplayManyBody,
    ReplayOneBody,
    ReplayReportView,
    ShortText,
    Time,
)
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.operators import Operator
from nubabel_workers.gateway.problems import ProblemError
from nubabel_workers.services.manage_dead_letters import MAX_PAGE

router = APIRouter(prefix="/v1/operator", tags=["dead letters"])

DeadLetterId = Annotated[str, Path(pattern=r"^dlq_[0-9a-z]{26}$", examples=["dlq_01kahmz7p1h0v5v6m6bqz0x3ja"])]
_BODY = (400, 408, 413)


@router.get("/dead-letters", summary="List dead letters, newest first, in pages", responses=problems(401, 422, 503))
async def list_dead_letters(
    _operator: Operator,
    parts: Parts,
    organization_id: Annotated[ShortText | None, Query()] = None,
    reason: Annotated[DeadLetterReason | None, Query()] = None,
    cause: Annotated[Cause | None, Query()] = None,
    queue: Annotated[ShortText | None, Query()] = None,
    task: Annotated[ShortText | None, Query()] = None,
    created_from: Annotated[Time | None, Query()] = None,
    created_before: Annotated[Time | None, Query()] = None,
    status: Annotated[DeadLetterStatus, Query()] = DeadLetterStatus.OPEN,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    after: Annotated[str | None, Query(max_length=100, description="From the page before.")] = None,
) -> DeadLetterList:
    chosen = DeadLetterFilter(
        organization_id=organization_id,
        reason=reason,
        cause=cause,
        queue=queue,
        task=task,
        created_from=created_from,
        created_before=created_before,
    )
    return DeadLetterList.of(await parts.dead_letters.page(chosen, status=status, limit=limit, after=after))


@router.get("/dead-letters/groups", summary="Count dead letters by cause", responses=problems(401, 422, 503))
async def group_dead_letters(
    _operator: Operator,
    parts: Parts,
    organization_id: Annotated[ShortText | None, Query()] = None,
    status: Annotated[DeadLetterStatus, Query()] = DeadLetterStatus.OPEN,
) -> DeadLetterGroups:
    """Look here first: how many, since when, whose, why."""
    return DeadLetterGroups.of(await parts.dead_letters.groups(organization_id=organization_id, status=status))


@router.get(
    "/dead-letters/{dead_letter_id}",
    summary="Read one with its payload and its past",
    responses=problems(401, 404, 422, 503),
)
async def read_dead_letter(dead_letter_id: DeadLetterId, operator: Operator, parts: Parts) -> DeadLetterDetail:
    """It shows a tenant's content: the audit log says who looked."""
    return DeadLetterDetail.of_history(await parts.dead_letters.show(dead_letter_id, actor=operator))


@router.post(
    "/dead-letters/{dead_letter_id}/replay",
    summary="Replay one",
    responses=problems(401, 404, *_BODY, 422, 503),
)
async def replay_dead_letter(
    dead_letter_id: DeadLetterId, operator: Operator, parts: Parts, body: ReplayOneBody | None = None
) -> ReplayedView:
    """Safe to repeat. A waiting Slack thread is told in one line, then gets the answer."""
    dry_run = (body or ReplayOneBody()).dry_run
    return ReplayedView.of(await parts.dead_letters.replay_one(dead_letter_id, dry_run=dry_run, actor=operator))


@router.post(
    "/dead-letters/{dead_letter_id}/discard",
    summary="Discard one",
    responses=problems(401, 404, 409, *_BODY, 422, 503),
)
async def discard_dead_letter(
    dead_letter_id: DeadLetterId, operator: Operator, parts: Parts, body: DiscardOneBody
) -> DeadLetterView:
    """It is kept, with the reason, until its retention ends."""
    try:
        return DeadLetterView.of(await parts.dead_letters.discard_one(dead_letter_id, note=body.reason, actor=operator))
    except InvalidInputError as error:
        if error.code != "not_open":
            raise
        raise ProblemError(HTTPStatus.CONFLICT, error.code, str(error)) from error


@router.post(
    "/dead-letters:replay", summary="Replay those that fit, at a pace", responses=problems(401, *_BODY, 422, 503)
)
async def replay_dead_letters(operator: Operator, parts: Parts, body: ReplayManyBody) -> ReplayReportView:
    """Answers at once: each row waits for its turn in the database. Interrupted in the middle, the rest stays open."""
    report = await parts.dead_letters.replay_matching(
        _chosen(body.filter, everything=body.all),
        limit=body.limit,
        pace_per_s=body.pace_per_s,
        dry_run=body.dry_run,
        actor=operator,
    )
    return ReplayReportView.of(report)


@router.post("/dead-letters:discard", summary="Discard those that fit", responses=problems(401, *_BODY, 422, 503))
async def discard_dead_letters(operator: Operator, parts: Parts, body: DiscardManyBody) -> DiscardReportView:
    report = await parts.dead_letters.discard_matching(
        _chosen(body.filter, everything=body.all),
        note=body.reason,
        limit=body.limit,
        dry_run=body.dry_run,
        actor=operator,
    )
    return DiscardReportView.of(report)


def _chosen(body: FilterBody, *, everything: bool) -> DeadLetterFilter:
    chosen = body.chosen()
    if not chosen.names_something and not everything:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "filter_names_nothing", "a filter that names nothing needs `all`: true"
        )
    return chosen
