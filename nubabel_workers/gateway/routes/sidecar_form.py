"""What callers of the old OpenCode sidecar speak: the same paths, bodies and errors, never a 202."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from nubabel_workers.domain.delegation import checked_submission
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError, NubabelError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.notifications import CallbacksTarget
from nubabel_workers.domain.ports import Conversation
from nubabel_workers.domain.sidecar import (
    UNKNOWN_MODEL,
    SidecarAnswer,
    SidecarCallbacks,
    SidecarDelegation,
    SidecarMetadata,
    SidecarPrompt,
    SidecarSession,
    key_of_repeat,
    metadata_of,
    session_view,
)
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.gateway.awaiting import Prefer, WaitEnd, preferred_wait_s, wait_for_end
from nubabel_workers.gateway.dependencies import GatewayParts, Parts
from nubabel_workers.gateway.foreign_ids import report, report_refused
from nubabel_workers.gateway.identity import Identified
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.problems import MEDIA_TYPE, ProblemError, from_domain, words_about_body
from nubabel_workers.gateway.routes.executions import IdempotencyKey

_CODES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "UNAUTHORIZED",
    HTTPStatus.FORBIDDEN: "FORBIDDEN",
    HTTPStatus.NOT_FOUND: "SESSION_NOT_FOUND",
    HTTPStatus.TOO_MANY_REQUESTS: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
}
_MEANINGS: Mapping[int, str] = {
    400: "VALIDATION_ERROR: the request does not fit; `output` says what to change.",
    401: "No valid token.",
    403: "The token may not do this; its organization is disabled, or is another one than the request names.",
    404: "There is no such session in your organization.",
    429: "Too much at once.",
    500: "EXECUTION_ERROR: the task failed, was stopped, or (of a prompt) took too long.",
    503: "Not now. Send it again.",
    504: "TIMEOUT_ERROR: no answer in time. The task goes on: ask for its session, or send the same request again.",
}


_FITTING = {"load_skills": "is required and must be a list of strings, [] for none"}
_DOES_NOT_FIT = {
    "missing": "is required and must be a string",
    "string_type": "is required and must be a string",
    "string_too_short": "is required and must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


class SidecarError(Exception):
    """An answer that is no success, in the sidecar's form."""

    def __init__(
        self, status: int, output: str, metadata: SidecarMetadata, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(output)
        self.status = status
        self.output = output
        self.metadata = metadata
        self.headers = headers

    def response(self) -> JSONResponse:
        answer = SidecarAnswer(output=self.output, status="failed", metadata=self.metadata)
        return JSONResponse(_body(answer), status_code=self.status, headers=dict(self.headers or {}))


class SidecarRoute(APIRoute):
    """Every error of these routes has the sidecar's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except (SidecarError, RequestValidationError, HTTPException, ProblemError, NubabelError) as error:
                report_refused(request, error)
                return _in_its_form(error, request).response()

        return answered


router = APIRouter(tags=["sidecar"], route_class=SidecarRoute)


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The body's size and pace are judged before a route is found: those answers are problems."""
    sidecar = {"application/json": {"schema": {"$ref": "#/components/schemas/SidecarAnswer"}}}
    own: dict[int | str, dict[str, Any]] = {
        status: {"description": _MEANINGS[status], "content": dict(sidecar)} for status in statuses
    }
    outer = problems(408, 413) if 504 in statuses or 400 in statuses else problems()  # noqa: PLR2004
    own[500] = {
        "description": _MEANINGS[500],
        "content": {**sidecar, MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return {**outer, **own}


SessionName = Annotated[
    str,
    Path(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="OpenCode's id of the session, ours, or your own name for it.",
    ),
]


@router.post(
    "/delegate",
    summary="Hand a task over and wait (sidecar form)",
    response_model_exclude_none=True,
    responses=_responses(400, 401, 403, 429, 503, 504),
)
async def delegate(
    body: SidecarDelegation,
    request: Request,
    who: Identified,
    parts: Parts,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> SidecarAnswer:
    """Continues the conversation of `session_id`. Without an Idempotency-Key, the same request again is the same task
    for as long as that task runs.
    """
    user_id = await who.confirm(body.claims())
    organization_id = who.caller.organization.id
    callbacks = _checked_callbacks(body.callbacks, parts)
    before = await parts.conversations.find(organization_id, body.session_id)
    is_ours = before is not None and before.session_id == body.session_id
    if before is None:  # a name of the caller's own from now on; unless it is meant to be somebody else's id
        report(request, Sought(organization_id, body.session_id))
    content = {"session": body.session_id, "prompt": body.prompt, "category": body.category, "skills": body.skills()}
    asked = checked_submission(
        prompt=body.prompt,
        category=body.category,
        skills=body.skills(),
        session_id=body.session_id if is_ours else None,
        session_key=None if is_ours else body.session_id,
        user_id=user_id,
        idempotency_key=idempotency_key or key_of_repeat(content, before),
    )
    return await _answer(request, parts, who, asked, prefer, callbacks=callbacks)


@router.post(
    "/sessions/{session_id}/prompt",
    summary="Continue a session and wait (sidecar form)",
    response_model_exclude_none=True,
    responses=_responses(400, 401, 403, 404, 429, 503),
)
async def prompt_session(
    session_id: SessionName,
    body: SidecarPrompt,
    request: Request,
    who: Identified,
    parts: Parts,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> SidecarAnswer:
    """A session whose OpenCode session was lost meanwhile is continued all the same, in a new one."""
    user_id = await who.confirm(body.claims())
    before = await _conversation(parts, who, session_id)
    asked = checked_submission(
        prompt=body.prompt,
        session_id=before.session_id,
        user_id=user_id,
        idempotency_key=idempotency_key or key_of_repeat({"session": before.session_id, "prompt": body.prompt}, before),
    )
    try:
        return await _answer(request, parts, who, asked, prefer)
    except SidecarError as error:
        if error.metadata.error == "TIMEOUT_ERROR":  # this call has always said it so
            error.status, error.metadata.error = HTTPStatus.INTERNAL_SERVER_ERROR, "EXECUTION_ERROR"
        if error.metadata.error == "EXECUTION_ERROR":
            error.output = f"Failed to send prompt to session: {error.output}"
        raise


@router.get(
    "/sessions/{session_id}",
    summary="Where a session stands (sidecar form)",
    response_model=SidecarSession,
    responses=_responses(400, 401, 403, 404, 503),
)
async def read_session(session_id: SessionName, who: Identified, parts: Parts) -> JSONResponse:
    await who.confirm({})
    found = await _conversation(parts, who, session_id)
    organization_id = who.caller.organization.id
    execution = await parts.read.by_id(organization_id, found.last_execution_id)
    run = await parts.conversations.last_run(organization_id, execution.id)
    view = session_view(execution, run).model_dump(mode="json", by_alias=True)
    view["metadata"] = {name: value for name, value in view["metadata"].items() if value is not None}
    return JSONResponse(view)


async def _conversation(parts: GatewayParts, who: Identified, name: str) -> Conversation:
    found = await parts.conversations.find(who.caller.organization.id, name)
    if found is None:
        sought = Sought(who.caller.organization.id, name)
        raise NotFoundError("there is no such session", code="session_not_found", sought=sought)
    return found


async def _answer(
    request: Request,
    parts: GatewayParts,
    who: Identified,
    asked: SubmitRequest,
    prefer: str | None,
    *,
    callbacks: CallbacksTarget | None = None,
) -> SidecarAnswer:
    """Store the request, wait for its end. Raises SidecarError for any other end than an answer."""
    organization = who.caller.organization
    request.app.state.streams.check_room(organization.id)
    submitted = await parts.submit.submit(
        organization,
        asked,
        source="api",
        correlation_id=request.state.correlation_id,
        traceparent=request.state.traceparent,
        callbacks=callbacks,
    )
    request.app.state.metrics.submission("api", "accepted" if submitted.created else "repeated")
    at_most_s = min(preferred_wait_s(prefer) or parts.limits.sidecar_wait_s, parts.limits.sidecar_wait_s)
    waited = await wait_for_end(request, parts, organization.id, submitted.execution_id, at_most_s=at_most_s)
    execution = waited.execution or await parts.read.by_id(organization.id, submitted.execution_id)
    run = await parts.conversations.last_run(organization.id, execution.id)
    if waited.execution is None:
        raise _unfinished(waited.why, metadata_of(execution, run), at_most_s)
    if execution.status is not Status.COMPLETED:
        message = execution.error.message if execution.error else f"the task was {execution.status.value}"
        metadata = metadata_of(execution, run, error="EXECUTION_ERROR")
        raise SidecarError(HTTPStatus.INTERNAL_SERVER_ERROR, message, metadata)
    return SidecarAnswer(output=execution.output or "", status="success", metadata=metadata_of(execution, run))


def _unfinished(why: WaitEnd, metadata: SidecarMetadata, at_most_s: float) -> SidecarError:
    if why is WaitEnd.STOPPING:
        metadata.error = "UNAVAILABLE"
        return SidecarError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "this server restarts; the task goes on: send the same request again",
            metadata,
            headers={"retry-after": "1"},
        )
    metadata.error = "TIMEOUT_ERROR"
    output = f"Session completion timeout after {at_most_s * 1000:.0f}ms"
    return SidecarError(HTTPStatus.GATEWAY_TIMEOUT, output, metadata)


def _checked_callbacks(given: SidecarCallbacks | None, parts: GatewayParts) -> CallbacksTarget | None:
    """Raises SidecarError for an address that the egress guard refuses already by its form."""
    if given is None or not given.named():
        return None
    for name, url in given.named().items():
        try:
            parts.check_callback(url)
        except InvalidInputError as error:
            raise _invalid(
                f"callbacks.{name}: {error} (a public https address, unless the operators have made an exception)"
            ) from None
    return CallbacksTarget(given.session_update, given.progress)


def _in_its_form(
    error: SidecarError | RequestValidationError | HTTPException | ProblemError | NubabelError, request: Request
) -> SidecarError:
    match error:
        case SidecarError():
            return error
        case RequestValidationError():
            return _invalid("; ".join(_explained(found, request) for found in error.errors()))
        case HTTPException():  # a body that cannot even be read as text
            return _of_problem(ProblemError(error.status_code, "bad_request", "the body is not JSON"))
        case ProblemError():
            return _of_problem(error)
        case _:
            return _of_problem(from_domain(error))


def _invalid(what: str) -> SidecarError:
    metadata = SidecarMetadata(model=UNKNOWN_MODEL, error="VALIDATION_ERROR")
    return SidecarError(HTTPStatus.BAD_REQUEST, f"Validation error: {what}", metadata)


def _explained(found: Mapping[str, Any], request: Request) -> str:
    """As the sidecar said it, where it did; never with the input."""
    about_body = words_about_body(found, request)
    if about_body is not None:
        return about_body
    name = ".".join(str(part) for part in found["loc"] if part != "body") or "the body"
    if found["type"] in _DOES_NOT_FIT:
        return f"{name} {_FITTING.get(name, _DOES_NOT_FIT[found['type']])}"
    return f"{name}: {found['msg']}"


def _of_problem(problem: ProblemError) -> SidecarError:
    status = problem.status
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return _invalid(problem.detail)
    metadata = SidecarMetadata(model=UNKNOWN_MODEL, error=_CODES.get(status, "EXECUTION_ERROR"))
    return SidecarError(status, problem.detail, metadata, headers=problem.headers)


def _body(answer: SidecarAnswer) -> dict[str, Any]:
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True)
