"""What Slack calls (events), and where a browser installs the app into a workspace."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Cookie, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nubabel_workers.gateway.browser_pages import BrowserRoute, page
from nubabel_workers.gateway.dependencies import SlackParts
from nubabel_workers.gateway.problems import ProblemError, problem_response
from nubabel_workers.services.install_workspace import InstallWorkspace

_COOKIE = "nubabel_install"
_COOKIE_S = 600

_MEANINGS = {
    HTTPStatus.BAD_REQUEST: "nothing that Slack sends",
    HTTPStatus.UNAUTHORIZED: "not signed with this app's signing secret, or too long ago",
    HTTPStatus.SERVICE_UNAVAILABLE: "the event could not be stored now; send it again",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the event could not be stored; send it again",
}

Signed = Annotated[str, Query(min_length=1, max_length=2048)]


def slack_router(slack: SlackParts, *, secure_cookies: bool) -> APIRouter:
    """Not part of the published API: browsers that come from Slack are the only callers."""
    router = APIRouter(prefix="/slack", include_in_schema=False, route_class=BrowserRoute)
    if slack.install is not None:
        _add_installation(router, slack.install, secure_cookies=secure_cookies)
    return router


class SlackEvents:
    """ASGI middleware: what Slack posts goes straight to its handler.

    Three of these requests come with every mention; FastAPI's routing costs each a fifth of its CPU.
    """

    path = "/slack/events"

    def __init__(self, app: ASGIApp, *, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._app = app
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self  # its path is what logs and metrics call the request
        response = await self._handle(Request(scope, receive))
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            status = HTTPStatus(response.status_code)
            response = problem_response(scope, ProblemError(status, status.name.lower(), _MEANINGS.get(status, "")))
        await response(scope, receive, send)


def _add_installation(router: APIRouter, install: InstallWorkspace, *, secure_cookies: bool) -> None:
    @router.get("/install")
    async def begin_installation(link: Signed) -> Response:
        started = await install.start(link)
        answer = RedirectResponse(started.authorize_url, status_code=HTTPStatus.FOUND)
        answer.set_cookie(
            _COOKIE,
            started.nonce,
            max_age=_COOKIE_S,
            path="/slack",
            secure=secure_cookies,
            httponly=True,
            samesite="lax",  # the way back begins at Slack
        )
        return answer

    @router.get("/oauth_redirect")
    async def complete_installation(
        state: Signed,
        code: Annotated[str, Query(max_length=512)] = "",
        error: Annotated[str, Query(max_length=100)] = "",
        nonce: Annotated[str, Cookie(alias=_COOKIE, max_length=100)] = "",
    ) -> Response:
        if error or not code:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST, "installation_declined", "Slack installed nothing: it was declined there"
            )
        workspace = await install.complete(state=state, nonce=nonce, code=code)
        answer = page(f"Nubabel is installed in {workspace.team_name or workspace.team_id}.")
        answer.delete_cookie(_COOKIE, path="/slack")
        return answer
