"""What the plugin inside an OpenCode server calls. Each call is signed with the key of that server.

What it says is a hint: sessions are looked up, organizations follow from them, the end of a run is read from OpenCode.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.gateway.callback_authentication import CallingInstance, signed_route
from nubabel_workers.gateway.callback_models import (
    AcceptedView,
    InvokeBody,
    InvokeView,
    ProgressBody,
    ReachedView,
    ToolsBody,
    ToolsView,
    UpdateBody,
    VitalsBody,
    VitalsView,
)
from nubabel_workers.gateway.dependencies import GatewayParts, Parts
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.services.call_tools_for_session import AskedCall
from nubabel_workers.services.find_callback_session import CallbackSession

small = APIRouter(route_class=signed_route(max_bytes=16_384))
progress = APIRouter(route_class=signed_route(max_bytes=262_144))
invoke = APIRouter(route_class=signed_route(max_bytes=1_048_576))

SessionInPath = Annotated[
    str,
    Path(
        pattern=r"^ses_[A-Za-z0-9_-]{1,80}$",
        description="OpenCode's session or ours.",
        examples=["ses_e04562134ffe0oSJVu2NAsQvXL"],
    ),
]
_ANSWERS = problems(400, 401, 403, 408, 413, 422, 429, 503)


@small.post(
    "/api/sidecar/sessions/{session_id}/update",
    status_code=HTTPStatus.ACCEPTED,
    summary="A session went idle, or failed",
    responses=_ANSWERS,
)
async def session_update(
    session_id: SessionInPath, body: UpdateBody, instance_id: CallingInstance, parts: Parts
) -> AcceptedView:
    """The run is looked at now. Sent twice, late or not at all: its outcome is the same."""
    return await _update(instance_id, [session_id, body.session_id], body, parts)


@small.post(
    "/internal/sessions/complete",
    status_code=HTTPStatus.ACCEPTED,
    summary="The same as update, under its earlier name",
    responses=_ANSWERS,
)
async def session_complete(body: UpdateBody, instance_id: CallingInstance, parts: Parts) -> AcceptedView:
    return await _update(instance_id, [body.session_id], body, parts)


@progress.post(
    "/api/sidecar/sessions/{session_id}/progress",
    status_code=HTTPStatus.ACCEPTED,
    summary="Tools and texts of a run",
    responses=_ANSWERS,
)
async def session_progress(
    session_id: SessionInPath, body: ProgressBody, instance_id: CallingInstance, parts: Parts
) -> AcceptedView:
    """Shown to whoever follows the execution. What is known already is passed over."""
    named = [session_id, *(item.session_id for item in body.items)]
    session = await _session(instance_id, named, body.organization_id, parts)
    news = await parts.callbacks.hear.progress(session, body.of_root(session.opencode_session_id))
    parts.callbacks.hear.refused(session, body.refusals())  # last: a batch that fails is sent again, and listed once
    return AcceptedView(accepted=news)


@invoke.post("/api/sidecar/mcp/invoke", summary="Call a tool of the session's organization", responses=_ANSWERS)
async def invoke_tool(body: InvokeBody, instance_id: CallingInstance, parts: Parts) -> InvokeView:
    """A call that fails is a 200 with `ok: false`, for the agent to read; 4xx say that the plugin is wrong."""
    return await _invoke(instance_id, body, parts)


@invoke.post("/internal/mcp/execute", summary="The same as invoke, under its earlier name", responses=_ANSWERS)
async def execute_tool(body: InvokeBody, instance_id: CallingInstance, parts: Parts) -> InvokeView:
    return await _invoke(instance_id, body, parts)


@small.post("/api/sidecar/mcp/tools", summary="Providers and tools of the session's organization", responses=_ANSWERS)
async def list_tools(body: ToolsBody, instance_id: CallingInstance, parts: Parts) -> ToolsView:
    session = await _session(instance_id, [body.session_id], body.organization_id, parts)
    return ToolsView.of(list(await parts.callbacks.tools.list_tools(session)))


@small.post(
    "/api/sidecar/server",
    summary="How the server's process is doing",
    responses=problems(400, 401, 408, 413, 422, 503),
)
async def server_vitals(body: VitalsBody, instance_id: CallingInstance, parts: Parts) -> VitalsView:
    """Told every quarter of a minute. A server that tells nothing is judged by the rest of what is seen of it."""
    strain = await parts.callbacks.watch.memory(instance_id, process=body.process, resident_bytes=body.resident_bytes)
    return VitalsView(strain=strain)


@small.post(
    "/internal/test-opencode",
    summary="Do we reach the server that calls?",
    responses=problems(401, 408, 413, 503),
)
async def test_opencode(instance_id: CallingInstance, parts: Parts) -> ReachedView:
    try:
        return ReachedView(ok=True, version=await parts.callbacks.reach(instance_id))
    except NubabelError as error:
        return ReachedView(ok=False, detail=str(error))


async def _update(instance_id: str, session_ids: list[str], body: UpdateBody, parts: GatewayParts) -> AcceptedView:
    session = await _session(instance_id, session_ids, body.organization_id, parts)
    return AcceptedView(accepted=await parts.callbacks.hear.ended(session, body.session_id))


async def _invoke(instance_id: str, body: InvokeBody, parts: GatewayParts) -> InvokeView:
    session = await _session(instance_id, [body.session_id], body.organization_id, parts)
    asked = AskedCall(
        opencode_session_id=body.session_id,
        call_id=body.call_id,
        tool_name=body.tool_name,
        arguments=body.arguments,
        provider=body.provider,
        message_id=body.message_id,
    )
    return InvokeView.of(await parts.callbacks.tools.invoke(session, asked))


async def _session(
    instance_id: str, session_ids: list[str], told_organization: str | None, parts: GatewayParts
) -> CallbackSession:
    return await parts.callbacks.find.run(instance_id, session_ids, told_organization=told_organization)


router = APIRouter(tags=["callbacks"])
for _part in (small, progress, invoke):
    router.include_router(_part)
