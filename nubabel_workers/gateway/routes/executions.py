"""Requests of upstream services: submit, read, cancel."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request, Response

from nubabel_workers.domain.admission import LimitReachedError
from nubabel_workers.domain.submission import BatchRequest, SubmitRequest
from nubabel_workers.gateway.authentication import Authenticated
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.models import CancelBody, ExecutionList, ExecutionView, SubmittedView, Timeline
from nubabel_workers.gateway.openapi import problems, refused_by_limit
from nubabel_workers.gateway.problems import ProblemError

router = APIRouter(prefix="/v1/executions", tags=["executions"])

Asked = TypeVar("Asked", SubmitRequest, BatchRequest)

ExecutionId = Annotated[str, Path(pattern=r"^exe_[0-9a-z]{26}$", examples=["exe_01kahmz7p1h0v5v6m6bqz0x3ja"])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Your own name for this request. The same key with the same body, sent again, is the same "
        "request; with another body it is refused (422 `idempotency_key_reused`).",
    ),
]
BODY = (400, 408, 413)  # what may be wrong with a body before it is looked at
_LOCATION: dict[str, Any] = {
    "Location": {"description": "Path of the execution.", "schema": {"type": "string"}},
}


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    summary="Submit a request",
    responses={
        202: {"description": "Stored.", "headers": _LOCATION},
        **problems(401, 403, 404, *BODY, 422, 503),
        **refused_by_limit(),
    },
)
async def submit_execution(
    body: SubmitRequest,
    request: Request,
    response: Response,
    caller: Authenticated,
    parts: Parts,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView:
    """When this answers 202 the request is stored, and it will get its one outcome, whoever fails meanwhile."""
    with counted_refusals(request):
        submitted = await parts.submit.submit(
            caller.organization,
            with_key(body, idempotency_key),
            source="api",
            correlation_id=request.state.correlation_id,
            traceparent=request.state.traceparent,
        )
    request.app.state.metrics.submission("api", "accepted" if submitted.created else "repeated")
    response.headers["location"] = f"/v1/executions/{submitted.execution_id}"
    return SubmittedView.of(submitted)


@router.get(
    "",
    summary="Find an execution by its idempotency key",
    responses=problems(401, 403, 422, 503),
)
async def find_executions(
    caller: Authenticated,
    parts: Parts,
    idempotency_key: Annotated[str, Query(min_length=1, max_length=255)],
) -> ExecutionList:
    """How a producer that writes to the broker learns that its request was accepted: an empty list means not yet."""
    execution = await parts.read.by_idempotency_key(caller.organization.id, idempotency_key)
    return ExecutionList(data=[] if execution is None else [ExecutionView.of(execution)])


@router.get("/{execution_id}", summary="Read an execution", responses=problems(401, 403, 404, 422, 503))
async def read_execution(execution_id: ExecutionId, caller: Authenticated, parts: Parts) -> ExecutionView:
    execution = await parts.read.by_id(caller.organization.id, execution_id)
    return ExecutionView.of(execution, await parts.waiting.of(execution))


@router.get(
    "/{execution_id}/timeline",
    summary="Read what happened to an execution, and when",
    responses=problems(401, 403, 404, 422, 503),
)
async def read_timeline(execution_id: ExecutionId, caller: Authenticated, parts: Parts) -> Timeline:
    return Timeline.of(await parts.read.timeline(caller.organization.id, execution_id))


@router.post(
    "/{execution_id}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    summary="Cancel an execution",
    responses={
        200: {"description": "It had ended before; nothing was changed.", "model": ExecutionView},
        202: {"description": "It will end soon, or has just ended."},
        **problems(401, 403, 404, *BODY, 422, 503),
    },
)
async def cancel_execution(
    execution_id: ExecutionId,
    response: Response,
    caller: Authenticated,
    parts: Parts,
    body: CancelBody | None = None,
) -> ExecutionView:
    """Safe to repeat. A running one is aborted on OpenCode too; its status changes when that is done."""
    reason = (body or CancelBody()).reason
    cancellation = await parts.cancel.cancel(caller.organization.id, execution_id, reason=reason)
    if cancellation.was_over:
        response.status_code = HTTPStatus.OK
    return ExecutionView.of(cancellation.execution)


def with_key(body: Asked, header: str | None) -> Asked:
    """The header is the place for the key over HTTP; the same field in the body is accepted, a different one is not."""
    if header is None or body.idempotency_key == header:
        return body
    if body.idempotency_key is not None:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "idempotency_key_twice",
            "the Idempotency-Key header and the body's idempotency_key differ",
        )
    return body.model_copy(update={"idempotency_key": header})


@contextmanager
def counted_refusals(request: Request) -> Iterator[None]:
    """A submission that a limit of its organization refuses counts as one that was refused."""
    try:
        yield
    except LimitReachedError:
        request.app.state.metrics.submission("api", "refused")
        raise
