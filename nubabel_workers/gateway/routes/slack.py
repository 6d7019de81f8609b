"""What Slack calls (events), and where a browser installs the app into a workspace."""

import html
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Cookie, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from nubabel_workers.gateway.dependencies import SlackParts
from nubabel_workers.gateway.problems import ProblemError
from nubabel_workers.services.install_workspace import InstallWorkspace

_COOKIE = "nubabel_install"
_COOKIE_S = 600
_PAGE = "<!doctype html><html lang=en><title>Nubabel</title><p>Nubabel is installed in {name}.</html>"

Signed = Annotated[str, Query(min_length=1, max_length=2048)]


def slack_router(slack: SlackParts) -> APIRouter:
    """Not part of the published API: Slack and its browsers are the only callers."""
    router = APIRouter(prefix="/slack", include_in_schema=False)
    if slack.events is not None:
        _add_events(router, slack.events)
    if slack.install is not None:
        _add_installation(router, slack.install, secure_cookies=slack.secure_cookies)
    return router


def _add_events(router: APIRouter, handle: Callable[[Request], Awaitable[Response]]) -> None:
    @router.post("/events")
    async def receive_event(request: Request) -> Response:
        return await handle(request)


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
        name = html.escape(workspace.team_name or workspace.team_id)
        answer = HTMLResponse(_PAGE.format(name=name))
        answer.delete_cookie(_COOKIE, path="/slack")
        return answer
