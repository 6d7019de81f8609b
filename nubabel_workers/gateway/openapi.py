"""What the OpenAPI document says beyond what FastAPI derives: problems, the headers of every response, the stream.

`docs/schemas/openapi.json` is this document; a test keeps it fresh.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from nubabel_workers.gateway.models import EXECUTION_EXAMPLE
from nubabel_workers.gateway.problems import MEDIA_TYPE, Problem

TITLE = "Nubabel"
VERSION = "1"
DESCRIPTION = """\
Submit requests to Nubabel's AI agent, follow them, read their answers.

**Accepted means stored.** A `202` is sent after the request is in the database; it will get exactly one outcome.

**Idempotency.** Send an `Idempotency-Key` with every submission and repeat it freely: the same key with the same body
is the same request. Keys are remembered for 24 hours.

**Errors** are `application/problem+json` (RFC 9457); their `code` is stable. Quote `correlation_id` to the operators.
A header of one value (`Authorization`, `Idempotency-Key`, `Last-Event-ID`, …) that is sent twice is refused: 400
`repeated_header`.
"""

_HEADERS: dict[str, Any] = {
    "X-Correlation-ID": {
        "description": "Names this request in the operators' logs; the one you sent, if you sent one.",
        "schema": {"type": "string"},
    },
    "traceparent": {
        "description": "W3C trace context of this request; continues the one you sent.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "`Bearer`, RFC 6750.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "RateLimit-Policy": {
        "description": 'The limit of your organization that refused it, `"queued";q=50`; where it is counted over a '
        "time, with that in seconds: `;w=60`.",
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'What is left of it, `"requests_per_minute";r=0;t=12`; `t`: seconds until there is more.',
        "schema": {"type": "string"},
    },
}
_EVERYWHERE = ("X-Correlation-ID", "traceparent")
_HEADERS_OF_STATUS: Mapping[str, Sequence[str]] = {
    "401": ("WWW-Authenticate",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}
_PARAMETERS: dict[str, Any] = {
    "X-Correlation-ID": {
        "name": "X-Correlation-ID",
        "in": "header",
        "description": "Your name for this request; 8 to 128 letters, digits or `._:-`. Anything else is replaced.",
        "schema": {"type": "string"},
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context to continue.",
        "schema": {"type": "string"},
    },
}
_MEANINGS = {
    400: "The body is not JSON.",
    401: "No valid token.",
    403: "The token may not do this, or its organization is disabled.",
    404: "There is no such thing in your organization.",
    409: "It is settled already.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "The request does not fit; `errors` names the parts, or `code` the reason.",
    429: "Too much at once; `code` says of what.",
    503: "Not now; nothing was done. Send it again.",
}

_ALWAYS = (500,)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problems. Any of them may fail inside as well."""
    return {
        status: {
            "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (*statuses, *_ALWAYS)
    }


def refused_by_limit() -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that an organization's own limits may refuse."""
    answer = problems(429)[429]
    return {429: {**answer, "headers": _references(("RateLimit-Policy", "RateLimit"))}}


def describe(app: FastAPI) -> None:
    """Make app.openapi() return the completed document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend the document


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=TITLE, version=VERSION, description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
    )
    schemas = document["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    schemas["ExecutionView"]["example"] = EXECUTION_EXAMPLE  # FastAPI leaves out nulls, also of examples
    document["components"]["headers"] = _HEADERS
    document["components"]["parameters"] = _PARAMETERS
    for path in document["paths"].values():
        for operation in path.values():
            _complete(operation)
    for unused in ("HTTPValidationError", "ValidationError"):  # of FastAPI's own answers, which are never sent
        schemas.pop(unused, None)
    return document


def _complete(operation: dict[str, Any]) -> None:
    """Add what every request may carry and every response does carry."""
    if "422" in operation["responses"] and "application/json" in operation["responses"]["422"]["content"]:
        del operation["responses"]["422"]  # FastAPI's guess, where a route has a form of its own for it
    references = [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
    operation["parameters"] = [*operation.get("parameters", []), *references]
    for status, response in operation["responses"].items():
        own = _HEADERS_OF_STATUS.get(status, ()), response.get("headers", {})
        response["headers"] = {**_references(_EVERYWHERE), **_references(own[0]), **own[1]}


def _references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
