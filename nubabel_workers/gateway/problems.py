"""Every error of the gateway as problem+json (RFC 9457, https://www.rfc-editor.org/rfc/rfc9457).

`code` is the stable machine-readable word; `type` is a URN made of it. What goes wrong inside is told to the log
alone: the caller gets the correlation id to quote.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from nubabel_workers.domain.admission import MINUTE_S, REQUESTS, LimitReachedError, Refusal
from nubabel_workers.domain.errors import (
    ConnectionLostError,
    CredentialsError,
    LeaseLostError,
    NotFoundError,
    NubabelError,
    PermanentError,
    ProviderAwayError,
    RateLimitedError,
    TransientError,
    UncertainError,
)
from nubabel_workers.gateway.browser_pages import refusal_page, wants_page

MEDIA_TYPE = "application/problem+json"
_MALFORMED = "malformed_json"
_DEFAULT_RETRY_AFTER_S = 1
_NO_OBJECT = frozenset({"missing", "model_attributes_type", "model_type", "dict_type"})
_CODES = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
}

_STATUS_OF_PERMANENT: Mapping[type[PermanentError], HTTPStatus] = {
    NotFoundError: HTTPStatus.NOT_FOUND,
    CredentialsError: HTTPStatus.FORBIDDEN,
}

log = structlog.get_logger(__name__)


class FieldError(BaseModel):
    """One thing that is wrong with one part of the request."""

    location: list[str | int] = Field(description="Where: first `body`, `query`, `path` or `header`, then the names.")
    message: str
    type: str = Field(description="Stable word for the kind of error, e.g. `missing`, `extra_forbidden`.")


class Problem(BaseModel):
    """Problem details for HTTP APIs, RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:nubabel:problem:invalid-request",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "the request does not fit its schema",
                "instance": "/v1/executions",
                "code": "invalid_request",
                "correlation_id": "req_01kahmz7p1h0v5v6m6bqz0x3ja",
                "errors": [{"location": ["body", "prompt"], "message": "Field required", "type": "missing"}],
            }
        }
    )

    type: str = Field(description="URN that names the kind of problem.")
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What happened and, where the caller can do something, what.")
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="Stable machine-readable word for the kind of problem.")
    correlation_id: str = Field(description="Quote it to the operators: their logs have it.")
    errors: list[FieldError] = Field(default_factory=list, description="The parts of the request that are wrong.")


class ProblemError(Exception):
    """A refusal by the gateway itself; everything in it is shown to the caller."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.errors = errors


def problem_response(scope: Scope, problem: ProblemError) -> Response:
    correlation_id = scope.get("state", {}).get("correlation_id", "")
    if wants_page(scope):
        return refusal_page(
            problem.detail, status=problem.status, correlation_id=correlation_id, headers=problem.headers
        )
    body = Problem(
        type=f"urn:nubabel:problem:{problem.code.replace('_', '-')}",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        instance=scope.get("path", ""),
        code=problem.code,
        correlation_id=correlation_id,
        errors=list(problem.errors),
    )
    return JSONResponse(
        body.model_dump(mode="json", exclude_defaults=True),
        status_code=problem.status,
        headers=dict(problem.headers or {}),
        media_type=MEDIA_TYPE,
    )


def from_domain(error: NubabelError) -> ProblemError:
    """The error tree in HTTP's words. Messages of domain errors hold no secrets; those about our insides stay here."""
    if isinstance(error, PermanentError):
        status = _STATUS_OF_PERMANENT.get(type(error), HTTPStatus.UNPROCESSABLE_ENTITY)
        return ProblemError(status, error.code, str(error))
    if isinstance(error, LimitReachedError):
        headers = _retry_after(error) | rate_limit_fields(error.refusal)
        return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, error.code, str(error), headers=headers)
    if isinstance(error, RateLimitedError):
        return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", str(error), headers=_retry_after(error))
    if isinstance(error, TransientError | UncertainError | LeaseLostError):
        return _not_now(error)
    return internal_error()


def _not_now(error: NubabelError) -> ProblemError:
    match error:
        case UncertainError() | ConnectionLostError():
            code = "outcome_unknown"
            detail = "whether the request took effect is unknown; ask, or send it again with the same Idempotency-Key"
        case ProviderAwayError():
            code, detail = "provider_unavailable", f"{error}: nothing was done; send it again later"
        case _:
            code = "temporarily_unavailable"
            detail = "the request could not be handled now and nothing was done; send it again later"
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, headers=_retry_after(error))


def internal_error() -> ProblemError:
    return ProblemError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        "something went wrong on our side; the operators find it by the correlation id",
    )


def install_problem_handlers(app: FastAPI, *, before: Callable[[Request, Exception], None]) -> None:
    """Errors of routing, validation and services; what no handler knows is caught by `RequestContext`.

    before: sees the errors of services before they are answered.
    """

    async def answer_domain_error(request: Request, error: Exception) -> Response:
        before(request, error)
        return await _answer_domain_error(request, error)

    app.add_exception_handler(ProblemError, _answer_refusal)
    app.add_exception_handler(NubabelError, answer_domain_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_exception)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101 - registered for this class
    return problem_response(request.scope, error)


async def _answer_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NubabelError)  # noqa: S101 - registered for this class
    problem = from_domain(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("http.request_failed", error_type=type(error).__name__, error=str(error), code=problem.code)
    return problem_response(request.scope, problem)


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    about_body = [words for found in error.errors() if (words := words_about_body(found, request)) is not None]
    errors = [_field_error(found, request) for found in error.errors()]
    if any(found.type == "json_invalid" for found in errors):
        refusal = ProblemError(HTTPStatus.BAD_REQUEST, _MALFORMED, "the body is not JSON", errors=errors)
    else:
        refusal = ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            next(iter(about_body), "the request does not fit its schema"),
            errors=errors,
        )
    return problem_response(request.scope, refusal)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    if isinstance(error.__cause__, UnicodeDecodeError | RecursionError):  # what FastAPI met when it read the body
        words = "the body cannot be read as JSON in UTF-8; one that is compressed is not read"
        return problem_response(request.scope, ProblemError(HTTPStatus.BAD_REQUEST, _MALFORMED, words))
    status = HTTPStatus(error.status_code)
    code = _CODES.get(status, status.name.lower())
    return problem_response(
        request.scope, ProblemError(status, code, _sentence(status, error.detail), headers=error.headers)
    )


def _sentence(status: HTTPStatus, detail: str) -> str:
    if status is HTTPStatus.NOT_FOUND and detail == status.phrase:
        return "there is nothing at this path"
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        return "this path does not know this method; the Allow header names the ones it knows"
    return detail


def words_about_body(found: Mapping[str, Any], request: Request) -> str | None:
    """What to change where the whole body was not read as an object; None for any other error.

    A body without a JSON media type is never read as JSON: other web pages could send one in a user's name.
    """
    if tuple(found["loc"]) != ("body",) or found["type"] not in _NO_OBJECT:
        return None
    if not _is_json(request.headers.get("content-type", "")):
        return "the body must be a JSON object, sent with the header Content-Type: application/json"
    return "the body must be a JSON object"


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _field_error(found: Mapping[str, Any], request: Request) -> FieldError:
    """Without the input that was refused: it may hold anything."""
    message = words_about_body(found, request) or str(found["msg"]).removeprefix("Value error, ")
    return FieldError(location=list(found["loc"]), message=message, type=str(found["type"]))


def rate_limit_fields(refusal: Refusal) -> dict[str, str]:
    """RateLimit and RateLimit-Policy, structured fields (draft-ietf-httpapi-ratelimit-headers-10)."""
    window = f";w={MINUTE_S}" if refusal.limit == REQUESTS else ""
    reset = "" if refusal.frees_in_s is None else f";t={math.ceil(refusal.frees_in_s)}"
    return {
        "ratelimit-policy": f'"{refusal.limit}";q={refusal.allowed}{window}',
        "ratelimit": f'"{refusal.limit}";r=0{reset}',
    }


def _retry_after(error: NubabelError) -> dict[str, str]:
    asked_s = error.retry_after_s if isinstance(error, TransientError) else None
    return {"retry-after": str(max(_DEFAULT_RETRY_AFTER_S, math.ceil(asked_s or 0)))}
