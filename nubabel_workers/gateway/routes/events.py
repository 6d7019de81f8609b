"""Progress and end of one execution as server-sent events.

Source of the form: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message, Receive, Scope, Send

from nubabel_workers.domain.executions import Execution
from nubabel_workers.gateway.authentication import Authenticated
from nubabel_workers.gateway.dependencies import GatewayParts, Parts
from nubabel_workers.gateway.event_stream import (
    END_ID,
    FROM_THE_BEGINNING,
    ExecutionEvents,
    StreamEvent,
    StreamPace,
    is_resumable,
)
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.problems import ProblemError
from nubabel_workers.gateway.routes.callbacks import SessionInPath
from nubabel_workers.gateway.routes.executions import ExecutionId
from nubabel_workers.gateway.streams import StreamCounter

router = APIRouter(prefix="/v1/executions", tags=["executions"])
sessions = APIRouter(prefix="/api/sidecar/sessions", tags=["executions"])

LastEventId = Annotated[
    str, Header(alias="Last-Event-ID", max_length=96, description="The last id you saw; resumes after it.")
]

_LINE_END = "\n"
_OF = "/"  # between execution and place, in the ids of a session's stream
_EXAMPLE = """\
event: state
data: {"type":"state","status":"running"}

id: 1795224041907-0
event: tool
data: {"type":"tool","tool":"bash","status":"running","title":"Runs the tests"}

id: end
event: done
data: {"id":"exe_01kahmz7p1h0v5v6m6bqz0x3ja","status":"completed","final":true,"output":"..."}

"""
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`state` (where it stands, at first and whenever that changes; with `waiting_for` while it "
        "waits), `tool` (a tool began or ended), `text` (what is being written), and "
        "at the end `done` with the execution as GET shows it. Other events may be added: ignore those you don't "
        "know. Comments keep a quiet stream open. A stream that ends without `done` is to be resumed.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    204: {"description": "Last-Event-ID is that of `done`: you have seen everything."},
}


class _EventStream(EventSourceResponse):
    """Counted while it is open, and ended properly when the server stops."""

    def __init__(self, content: Any, counter: StreamCounter, organization_id: str, **options: Any) -> None:
        super().__init__(content, sep=_LINE_END, ping_message_factory=_heartbeat, **options)
        self._counter = counter
        self._organization_id = organization_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more_to_come = False

        async def watched(message: Message) -> None:
            nonlocal more_to_come
            await send(message)
            more_to_come = message["type"] == "http.response.start" or message.get("more_body", False)

        with self._counter.counted(self._organization_id):
            await super().__call__(scope, receive, watched)
            if more_to_come:  # the server stops: an unfinished response would look like a crash
                await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get(
    "/{execution_id}/events",
    summary="Follow an execution (server-sent events)",
    response_class=Response,
    responses={**_STREAM, **problems(401, 403, 404, 422, 429, 503)},
)
async def follow_execution(
    execution_id: ExecutionId,
    request: Request,
    caller: Authenticated,
    parts: Parts,
    last_event_id: LastEventId = FROM_THE_BEGINNING,
) -> Response:
    """Begins with where the execution stands, then what is known of its progress, then live until `done`."""
    execution = await parts.read.by_id(caller.organization.id, execution_id)
    return await _follow(request, parts, execution, last_event_id)


@sessions.get(
    "/{session_id}/stream",
    summary="Follow what a session works on (server-sent events)",
    response_class=Response,
    responses={**_STREAM, **problems(401, 403, 404, 422, 429, 503)},
)
async def follow_session(
    session_id: SessionInPath,
    request: Request,
    caller: Authenticated,
    parts: Parts,
    last_event_id: LastEventId = FROM_THE_BEGINNING,
) -> Response:
    """The running execution of the session, else its newest, as `/v1/executions/{id}/events` shows it. Ids name the
    execution too: who comes back follows the same one to its end, and after that the next one.
    """
    organization_id = caller.organization.id
    execution = await parts.read.by_session(organization_id, session_id)
    followed, _, seen = last_event_id.rpartition(_OF)
    if followed and followed != execution.id:
        if seen == END_ID:  # that one was seen to its end, this is the next
            seen = FROM_THE_BEGINNING
        else:
            execution = await parts.read.of_session(organization_id, execution.session_id, followed)
    return await _follow(request, parts, execution, seen, prefix=f"{execution.id}{_OF}")


async def _follow(
    request: Request, parts: GatewayParts, execution: Execution, last_event_id: str, *, prefix: str = ""
) -> Response:
    """prefix: of the ids that the client gets, and gives back without it."""
    if last_event_id == END_ID:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if not is_resumable(last_event_id):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "bad_last_event_id", "Last-Event-ID must be an id that a stream gave you"
        )
    organization_id = execution.organization_id
    counter: StreamCounter = request.app.state.streams
    counter.check_room(organization_id)
    limits = parts.limits
    events = ExecutionEvents(
        execution,
        parts.waiting,
        parts.read,
        parts.progress,
        parts.clock,
        StreamPace(row_check_s=limits.stream_row_check_s, max_s=limits.stream_max_s),
    )
    return _EventStream(
        _wire(events.after(last_event_id), prefix),
        counter,
        organization_id,
        ping=limits.stream_heartbeat_s,
        send_timeout=limits.stream_send_timeout_s,
    )


async def _wire(events: AsyncGenerator[StreamEvent, None], prefix: str) -> AsyncGenerator[ServerSentEvent, None]:
    async with aclosing(events):
        async for event in events:
            event_id = f"{prefix}{event.id}" if event.id is not None else None
            yield ServerSentEvent(event.data, event=event.event, id=event_id, sep=_LINE_END)


def _heartbeat() -> ServerSentEvent:
    return ServerSentEvent(comment="heartbeat", sep=_LINE_END)
