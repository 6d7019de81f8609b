"""What people's browsers are shown on their way through another site: words on a page, refusals as well."""

import html
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.types import Scope

_PAGE: Final = "<!doctype html><html lang=en><title>Nubabel</title><p>{words}</html>"
PAGE_HEADERS: Final = {"referrer-policy": "no-referrer", "cache-control": "no-store"}  # its address holds the code
_WANTED: Final = "wants_page"


class BrowserRoute(APIRoute):
    """A route whose refusals are pages for whoever asks for one, as every browser does; others get problem+json."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_for_person(request: Request) -> Response:
            setattr(request.state, _WANTED, "text/html" in request.headers.get("accept", ""))
            return await handle(request)

        return handle_for_person


def wants_page(scope: Scope) -> bool:
    return bool(scope.get("state", {}).get(_WANTED))


def page(words: str, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """words: plain text, of which nothing becomes markup."""
    return HTMLResponse(
        _PAGE.format(words=html.escape(words)), status_code=status, headers=PAGE_HEADERS | dict(headers or {})
    )


def refusal_page(
    detail: str, *, status: int, correlation_id: str, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """What happened and what can be done, and what to quote to the operators."""
    sentence = f"{detail[:1].upper()}{detail[1:]}."
    reference = f" Reference: {correlation_id}" if correlation_id else ""
    return page(f"{sentence}{reference}", status=status, headers=headers)
