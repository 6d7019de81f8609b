"""Several requests at once: submit, read, cancel. To follow one, follow its executions."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from nubabel_workers.domain.groups import GroupState
from nubabel_workers.domain.submission import BatchRequest
from nubabel_workers.gateway.authentication import Authenticated
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.models import BatchView, CancelBody, SubmittedBatchView
from nubabel_workers.gateway.openapi import problems, refused_by_limit
from nubabel_workers.gateway.routes.executions import BODY, IdempotencyKey, counted_refusals, with_key
from nubabel_workers.services.submit_execution import Origin

router = APIRouter(tags=["batches"])

BatchId = Annotated[str, Path(pattern=r"^bat_[0-9a-z]{26}$", examples=["bat_01kahmz7p1h0v5v6m6bqz0x3ja"])]
_LOCATION: dict[str, Any] = {"Location": {"description": "Path of the batch.", "schema": {"type": "string"}}}


@router.post(
    "/v1/executions:batch",
    status_code=HTTPStatus.ACCEPTED,
    summary="Submit several requests at once",
    responses={
        202: {"description": "All of them are stored.", "headers": _LOCATION},
        **problems(401, 403, 404, *BODY, 422, 503),
        **refused_by_limit(),
    },
)
async def submit_batch(
    body: BatchRequest,
    request: Request,
    response: Response,
    caller: Authenticated,
    parts: Parts,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedBatchView:
    """All are accepted, or none is. When all have ended, one webhook tells what became of each."""
    origin = Origin("api", request.state.correlation_id, request.state.traceparent)
    with counted_refusals(request):
        submitted = await parts.submit_group.submit(caller.organization, with_key(body, idempotency_key), origin)
    request.app.state.metrics.submission("api", "accepted" if submitted.created else "repeated")
    response.headers["location"] = f"/v1/batches/{submitted.group_id}"
    group = await parts.cancel_group.find(caller.organization.id, submitted.group_id)
    return SubmittedBatchView.of_submitted(submitted, group)


@router.get("/v1/batches/{batch_id}", summary="Read a batch", responses=problems(401, 403, 404, 422, 503))
async def read_batch(batch_id: BatchId, caller: Authenticated, parts: Parts) -> BatchView:
    return BatchView.of(await parts.cancel_group.find(caller.organization.id, batch_id))


@router.post(
    "/v1/batches/{batch_id}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    summary="Cancel a batch",
    responses={
        200: {"description": "It had ended before; nothing was changed.", "model": BatchView},
        202: {"description": "What has not ended yet will end soon."},
        **problems(401, 403, 404, *BODY, 422, 503),
    },
)
async def cancel_batch(
    batch_id: BatchId,
    response: Response,
    caller: Authenticated,
    parts: Parts,
    body: CancelBody | None = None,
) -> BatchView:
    """Safe to repeat. What has ended already stays as it is, and is in the reply."""
    before = await parts.cancel_group.find(caller.organization.id, batch_id)
    if before.state is not GroupState.RUNNING:
        response.status_code = HTTPStatus.OK
        return BatchView.of(before)
    reason = (body or CancelBody()).reason
    return BatchView.of(await parts.cancel_group.cancel(caller.organization.id, batch_id, reason=reason))
