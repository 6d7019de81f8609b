"""The API's description as a page for people: Swagger UI, served from here, so that it works without the internet."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_KEEP = "public, max-age=86400"


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url=request.app.openapi_url,
        title="Nubabel API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    policy = _policy_for(bytes(page.body).decode())
    return HTMLResponse(page.body, headers={"content-security-policy": policy})


@router.get("/docs/swagger-ui-bundle.js")
async def script() -> Response:
    return _asset("swagger-ui-bundle.js")


@router.get("/docs/swagger-ui.css")
async def style() -> Response:
    return _asset("swagger-ui.css")


@cache
def _content(name: str) -> bytes:
    return (files("fastapi_swagger") / "resources" / name).read_bytes()


def _asset(name: str) -> Response:
    return Response(_content(name), media_type=_ASSETS[name], headers={"cache-control": _KEEP})


def _policy_for(page: str) -> str:
    """What this very page needs: Swagger UI from here, its inline script by hash, our document."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(page))
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
    )
