"""The bridge contract: hand a task over and wait for its result; what can be asked for."""

from datetime import datetime
from http import HTTPStatus
from typing import Self

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from nubabel_workers.domain.delegation import DelegateRequest
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.executions import FINAL, Execution, Status
from nubabel_workers.gateway.awaiting import Prefer, preferred_wait_s, wait_for_end
from nubabel_workers.gateway.dependencies import GatewayParts, Parts
from nubabel_workers.gateway.identity import Identified
from nubabel_workers.gateway.models import EXECUTION_EXAMPLE, ErrorView, ExecutionView, UsageView
from nubabel_workers.gateway.openapi import problems, refused_by_limit
from nubabel_workers.gateway.routes.executions import IdempotencyKey
from nubabel_workers.services.read_capabilities import Capabilities, ServerCapabilities
from nubabel_workers.services.submit_execution import Submitted

router = APIRouter(tags=["bridge"])

_BODY = (400, 408, 413)
_EXECUTION_ID, _SESSION_ID = EXECUTION_EXAMPLE["id"], EXECUTION_EXAMPLE["session_id"]
_LATER = {
    "Location": {"description": "Path of the execution.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before looking.", "schema": {"type": "integer"}},
}
_APPLIED = {"Preference-Applied": {"description": "The wait that you asked for.", "schema": {"type": "string"}}}


class DelegatedView(BaseModel):
    """The task has ended."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "session_id": _SESSION_ID,
                "result": "Two transactions take the same locks in opposite orders: ...",
                "usage": EXECUTION_EXAMPLE["usage"],
                "execution_id": _EXECUTION_ID,
                "status": "completed",
            }
        }
    )

    session_id: str = Field(description="Name it in the next request to continue the conversation.")
    result: str = Field(description="The answer, in Markdown; with `errors` what there was of it, maybe nothing.")
    usage: UsageView | None = Field(None, description="Left out when nothing was used.")
    errors: list[ErrorView] | None = Field(None, description="Left out when there is an answer.")
    notes: list[str] | None = Field(None, description="What should be known beside the answer. Left out if nothing.")
    execution_id: str
    status: Status

    @classmethod
    def of(cls, execution: Execution) -> Self:
        view = ExecutionView.of(execution)
        return cls(
            session_id=view.session_id,
            result=view.output or "",
            usage=view.usage,
            errors=None if view.error is None else [view.error],
            notes=view.notes or None,
            execution_id=view.id,
            status=view.status,
        )


class DelegationPending(BaseModel):
    """The task goes on; it is stored, and will get its outcome."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "session_id": _SESSION_ID,
                "execution_id": _EXECUTION_ID,
                "status": "running",
                "status_url": f"/v1/executions/{_EXECUTION_ID}",
            }
        }
    )

    session_id: str
    execution_id: str
    status: Status = Field(description="As it is at the time of this answer.")
    status_url: str = Field(description="Path at which to look; `…/events` follows it.")

    @classmethod
    def of(cls, submitted: Submitted, status: Status) -> Self:
        return cls(
            session_id=submitted.session_id,
            execution_id=submitted.execution_id,
            status=status,
            status_url=f"/v1/executions/{submitted.execution_id}",
        )


@router.post(
    "/delegate_task",
    summary="Hand a task over and wait for its result",
    response_model=DelegatedView,
    response_model_exclude_none=True,
    responses={
        200: {"description": "It has ended: with an answer, or with `errors`.", "headers": _APPLIED},
        202: {
            "description": "Not within the wait; or there is no more room for waiting. Look at `status_url`.",
            "model": DelegationPending,
            "headers": _LATER | _APPLIED,
        },
        **problems(401, 403, 404, *_BODY, 422, 503),
        **refused_by_limit(),
    },
)
async def delegate_task(
    body: DelegateRequest,
    request: Request,
    response: Response,
    who: Identified,
    parts: Parts,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> DelegatedView | JSONResponse:
    """Stored before anything else, like POST /v1/executions. Who disconnects loses nothing: the same request with the
    same Idempotency-Key waits for the same task.
    """
    user_id = await who.confirm(body.claims())
    organization = who.caller.organization
    submitted = await parts.submit.submit(
        organization,
        body.as_submission(idempotency_key=idempotency_key, user_id=user_id),
        source="api",
        correlation_id=request.state.correlation_id,
        traceparent=request.state.traceparent,
    )
    request.app.state.metrics.submission("api", "accepted" if submitted.created else "repeated")
    asked_s = preferred_wait_s(prefer)
    at_most_s = parts.limits.delegate_wait_s if asked_s is None else min(asked_s, parts.limits.delegate_wait_s)
    applied = {} if asked_s is None else {"preference-applied": f"wait={at_most_s:g}"}
    status = submitted.status
    if at_most_s > 0 and request.app.state.streams.has_room(organization.id):
        waited = await wait_for_end(request, parts, organization.id, submitted.execution_id, at_most_s=at_most_s)
        execution = waited.execution or await _as_it_is_now(parts, organization.id, submitted.execution_id)
        if execution is not None and execution.status in FINAL:
            response.headers.update(applied)
            return DelegatedView.of(execution)
        status = status if execution is None else execution.status
    pending = DelegationPending.of(submitted, status)
    return JSONResponse(
        pending.model_dump(mode="json"),
        status_code=HTTPStatus.ACCEPTED,
        headers={"location": pending.status_url, "retry-after": "1", **applied},
    )


async def _as_it_is_now(parts: GatewayParts, organization_id: str, execution_id: str) -> Execution | None:
    """None while the database is away: it is stored, and its caller learns where to look all the same."""
    try:
        return await parts.read.by_id(organization_id, execution_id)
    except TransientError:
        return None


class NamedView(BaseModel):
    name: str
    meaning: str


class ServerView(BaseModel):
    """An OpenCode server that your requests may run on."""

    id: str
    answered: bool = Field(description="false: it did not answer in time; version and agents are the last known ones.")
    healthy: bool = Field(description="false: new sessions go elsewhere.")
    draining: bool = Field(description="true: it ends what it has, and takes nothing new.")
    version: str
    agents: list[str]
    categories: list[str] | None = Field(description="That its agents delegate by; null: it does not tell.")
    checked_at: datetime | None = Field(description="When it was last heard of.")

    @classmethod
    def of(cls, server: ServerCapabilities) -> Self:
        return cls(
            id=server.instance_id,
            answered=server.answered,
            healthy=server.healthy,
            draining=server.draining,
            version=server.version,
            agents=list(server.agents),
            categories=None if server.categories is None else list(server.categories),
            checked_at=server.checked_at,
        )


class CapabilitiesView(BaseModel):
    """What a task may name, and where it would run; some seconds old at most."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "categories": [{"name": "ultrabrain", "meaning": "hard logic only"}],
                "skills": [{"name": "debugging", "meaning": "crashes, wrong answers, leaks, stuck processes"}],
                "agents": ["Sisyphus - ultraworker"],
                "versions": ["1.18.33"],
                "servers": [
                    {
                        "id": "ins_01kahmz7p1h0v5v6m6bqz0x3ja",
                        "answered": True,
                        "healthy": True,
                        "draining": False,
                        "version": "1.18.33",
                        "agents": ["Sisyphus - ultraworker"],
                        "categories": ["quick", "ultrabrain"],
                        "checked_at": "2026-11-21T01:20:00.120000Z",
                    }
                ],
            }
        }
    )

    categories: list[NamedView] = Field(
        description="Of the rules, without those that no server has; all of them where a server does not tell."
    )
    skills: list[NamedView]
    agents: list[str] = Field(description="Of the servers that take new sessions.")
    versions: list[str] = Field(description="Of OpenCode, on those servers.")
    servers: list[ServerView]

    @classmethod
    def of(cls, found: Capabilities) -> Self:
        return cls(
            categories=[NamedView(name=one.name, meaning=one.meaning) for one in found.categories],
            skills=[NamedView(name=one.name, meaning=one.meaning) for one in found.skills],
            agents=found.agents,
            versions=found.versions,
            servers=[ServerView.of(server) for server in found.servers],
        )


@router.get("/capabilities", summary="What can be asked for", responses=problems(401, 403, 422, 503))
async def read_capabilities(who: Identified, parts: Parts) -> CapabilitiesView:
    """Categories, agents and versions as the OpenCode servers say just now; skills, and what categories mean, of the
    rules.
    """
    await who.confirm({})
    return CapabilitiesView.of(await parts.capabilities.of(who.caller.organization.id))
