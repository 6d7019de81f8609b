"""An organization's connections to MCP servers: what `nubabel connections` does, by the same services."""

import hashlib
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.oauth import AUTHORIZATION_S
from nubabel_workers.gateway.authentication import Authenticated, Caller
from nubabel_workers.gateway.browser_pages import PAGE_HEADERS, BrowserRoute, page
from nubabel_workers.gateway.connection_models import (
    AllowedToolsBody,
    AuthorizationLinkView,
    ConnectionCheckView,
    ConnectionList,
    ConnectionView,
    CredentialsBody,
    DefaultBody,
    NewConnectionBody,
    ProviderList,
    RepeatableToolsBody,
)
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.problems import ProblemError
from nubabel_workers.services.authorize_connection import AUTHORIZE_PATH, CALLBACK_PATH

router = APIRouter(prefix="/v1", tags=["connections"])
# Not part of the published API: people's browsers are the only callers.
browsers = APIRouter(include_in_schema=False, route_class=BrowserRoute)

Named = Annotated[
    str,
    Path(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$",
        description="Its id, or its provider name.",
        examples=["mcp_01kahmz7p1h0v5v6m6bqz0x3ja"],
    ),
]
State = Annotated[str, Query(min_length=1, max_length=128)]
_BODY = (400, 408, 413)
_COOKIE_PATH = "/connections"


@router.get("/tool-providers", summary="What can be connected by name", responses=problems(401, 403, 422, 503))
async def list_tool_providers(_caller: Authenticated, parts: Parts) -> ProviderList:
    return ProviderList.of(parts.connections.catalogue)


@router.get("/connections", summary="List connections", responses=problems(401, 403, 422, 503))
async def list_connections(caller: Authenticated, parts: Parts) -> ConnectionList:
    found = await parts.connections.manage.list(caller.organization.id)
    return ConnectionList(data=[ConnectionView.of(one) for one in found])


@router.post(
    "/connections",
    status_code=HTTPStatus.CREATED,
    summary="Add a connection",
    responses=problems(401, 403, 409, *_BODY, 422, 503),
)
async def add_connection(body: NewConnectionBody, caller: Authenticated, parts: Parts) -> ConnectionView:
    """One that authenticates by oauth waits for `…/authorize`; the others are active at once."""
    try:
        added = await parts.connections.manage.add(caller.organization.id, body.asked(), actor=_actor(caller))
    except InvalidInputError as error:
        if error.code != "connection_exists":
            raise
        raise ProblemError(HTTPStatus.CONFLICT, error.code, str(error)) from error
    return ConnectionView.of(added)


@router.get("/connections/{connection}", summary="Read a connection", responses=problems(401, 403, 404, 422, 503))
async def read_connection(connection: Named, caller: Authenticated, parts: Parts) -> ConnectionView:
    return ConnectionView.of(await parts.connections.manage.find(caller.organization.id, connection))


@router.delete(
    "/connections/{connection}",
    status_code=HTTPStatus.NO_CONTENT,
    summary="Remove a connection with its credentials",
    responses=problems(401, 403, 404, 422, 503),
)
async def remove_connection(connection: Named, caller: Authenticated, parts: Parts) -> None:
    """A provider that offers it (RFC 7009) is told to end the access, for seconds at most; it is removed anyway."""
    await parts.connections.manage.remove(caller.organization.id, connection, actor=_actor(caller))


@router.put(
    "/connections/{connection}/allowed-tools",
    summary="Say which tools may be used",
    responses=problems(401, 403, 404, *_BODY, 422, 503),
)
async def allow_tools(connection: Named, body: AllowedToolsBody, caller: Authenticated, parts: Parts) -> ConnectionView:
    manage = parts.connections.manage
    return ConnectionView.of(
        await manage.allow(caller.organization.id, connection, body.allowed_tools, actor=_actor(caller))
    )


@router.put(
    "/connections/{connection}/repeatable-tools",
    summary="Say which calls may be made again",
    responses=problems(401, 403, 404, *_BODY, 422, 503),
)
async def set_repeatable_tools(
    connection: Named, body: RepeatableToolsBody, caller: Authenticated, parts: Parts
) -> ConnectionView:
    """When nobody knows whether a call took effect. Of all others the agent is told, and nothing is repeated."""
    manage = parts.connections.manage
    return ConnectionView.of(
        await manage.set_repeatable(caller.organization.id, connection, body.repeatable_tools, actor=_actor(caller))
    )


@router.put(
    "/connections/{connection}/default",
    summary="Make it the one that serves names which several have",
    responses=problems(401, 403, 404, *_BODY, 422, 503),
)
async def set_default_connection(
    connection: Named, body: DefaultBody, caller: Authenticated, parts: Parts
) -> ConnectionView:
    """The one that was it before is it no more."""
    manage = parts.connections.manage
    return ConnectionView.of(
        await manage.set_default(caller.organization.id, connection, default=body.default, actor=_actor(caller))
    )


@router.put(
    "/connections/{connection}/credentials",
    summary="Replace its token or variables",
    responses=problems(401, 403, 404, *_BODY, 422, 503),
)
async def replace_credentials(
    connection: Named, body: CredentialsBody, caller: Authenticated, parts: Parts
) -> ConnectionView:
    manage = parts.connections.manage
    return ConnectionView.of(
        await manage.replace_secrets(caller.organization.id, connection, body.secrets(), actor=_actor(caller))
    )


@router.post(
    "/connections/{connection}/authorize",
    summary="Get a link for somebody who may agree",
    responses=problems(401, 403, 404, 422, 429, 503),
)
async def authorize_connection(connection: Named, caller: Authenticated, parts: Parts) -> AuthorizationLinkView:
    """Asks the provider's authorization server how it authorizes. Again, to authorize a refused connection."""
    return AuthorizationLinkView.of(
        await parts.connections.authorize.begin(caller.organization.id, connection, actor=_actor(caller))
    )


@router.post(
    "/connections/{connection}/check",
    summary="Ask its server for its tools",
    responses=problems(401, 403, 404, 422, 503),
)
async def check_connection(connection: Named, caller: Authenticated, parts: Parts) -> ConnectionCheckView:
    return ConnectionCheckView.of(await parts.connections.manage.check(caller.organization.id, connection))


@router.post("/connections/{connection}/disable", summary="Stop its use", responses=problems(401, 403, 404, 422, 503))
async def disable_connection(connection: Named, caller: Authenticated, parts: Parts) -> ConnectionView:
    return ConnectionView.of(
        await parts.connections.manage.disable(caller.organization.id, connection, actor=_actor(caller))
    )


@router.post("/connections/{connection}/enable", summary="Use it again", responses=problems(401, 403, 404, 422, 503))
async def enable_connection(connection: Named, caller: Authenticated, parts: Parts) -> ConnectionView:
    return ConnectionView.of(
        await parts.connections.manage.enable(caller.organization.id, connection, actor=_actor(caller))
    )


@browsers.get(AUTHORIZE_PATH)
async def begin_in_browser(state: State, parts: Parts) -> Response:
    """The link was opened: on to the provider. The cookie says that this browser may end what it began."""
    answer = RedirectResponse(await parts.connections.authorize.start(state), status_code=HTTPStatus.FOUND)
    answer.set_cookie(
        _cookie(state),
        state,
        max_age=int(AUTHORIZATION_S),
        path=_COOKIE_PATH,
        secure=parts.secure_cookies,
        httponly=True,
        samesite="lax",  # the way back begins at the provider
    )
    answer.headers.update(PAGE_HEADERS)
    return answer


@browsers.get(CALLBACK_PATH)
async def complete_in_browser(
    request: Request,
    state: State,
    parts: Parts,
    code: Annotated[str, Query(max_length=4096)] = "",
    iss: Annotated[str | None, Query(max_length=2048)] = None,
    error: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    details = await parts.connections.authorize.complete(
        state=state, browser_state=request.cookies.get(_cookie(state), ""), code=code, issuer=iss, error=error
    )
    answer = page(f"{details.connection.provider} is connected. You can close this page.")
    answer.delete_cookie(_cookie(state), path=_COOKIE_PATH)
    return answer


def _cookie(state: str) -> str:
    """One for each authorization: two may be under way in one browser."""
    return f"nubabel_connect_{hashlib.sha256(state.encode()).hexdigest()[:8]}"


def _actor(caller: Caller) -> str:
    return f"token:{caller.token_id}"
