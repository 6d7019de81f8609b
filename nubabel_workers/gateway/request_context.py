"""What surrounds every request: correlation id and trace, one log line, metrics, security headers, the last catch."""

import os
import re
import time
from http import HTTPStatus

import structlog
from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nubabel_workers.domain.ports import Chance
from nubabel_workers.domain.trace import SPAN_ID_BYTES, TRACE_ID_BYTES, TraceContext
from nubabel_workers.gateway.metrics import GatewayMetrics
from nubabel_workers.gateway.problems import internal_error, problem_response

CORRELATION_HEADER = "x-correlation-id"
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:\-]{8,128}")
_QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
_GONE = 499  # nginx's word for "the client left"; never sent
_UNMATCHED = "unmatched"

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_HSTS = "max-age=31536000"

log = structlog.get_logger(__name__)


class RequestContext:
    """ASGI middleware, the outermost of ours: nothing that happens inside reaches the server as an exception."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics, chance: Chance) -> None:
        self._app = app
        self._metrics = metrics
        self._chance = chance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        correlation_id = self._correlation_id(headers)
        trace = _trace(headers)
        state = scope.setdefault("state", {})
        state["correlation_id"] = correlation_id
        state["traceparent"] = str(trace)
        answer = _Answer(send, correlation_id, str(trace), secure=scope.get("scheme") == "https")
        with structlog.contextvars.bound_contextvars(correlation_id=correlation_id, trace_id=trace.trace_id):
            await self._serve(scope, receive, answer)

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        started = time.perf_counter()
        try:
            await self._app(scope, receive, answer.send)
        except (ClientDisconnect, SendTimeoutError):
            answer.status = _GONE
        except Exception:
            log.exception("http.request_crashed")
            if not answer.started:
                await problem_response(scope, internal_error())(scope, receive, answer.send)
            answer.status = HTTPStatus.INTERNAL_SERVER_ERROR
        finally:
            self._record(scope, answer, time.perf_counter() - started)

    def _record(self, scope: Scope, answer: "_Answer", duration_s: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        self._metrics.request(scope["method"], route, answer.status, duration_s)
        write = log.debug if scope["path"] in _QUIET_PATHS and answer.status < HTTPStatus.BAD_REQUEST else log.info
        write(
            "http.request",
            method=scope["method"],
            route=route,
            status=int(answer.status),
            duration_ms=round(duration_s * 1000, 1),
        )

    def _correlation_id(self, headers: Headers) -> str:
        given = headers.get(CORRELATION_HEADER, "")
        return given if _CORRELATION_ID.fullmatch(given) else self._chance.new_id("req")


class _Answer:
    """The way out: adds the headers that every response has, remembers what was sent."""

    def __init__(self, send: Send, correlation_id: str, traceparent: str, *, secure: bool) -> None:
        self._send = send
        self._headers = {**_SECURITY_HEADERS, CORRELATION_HEADER: correlation_id, "traceparent": traceparent}
        if secure:
            self._headers["strict-transport-security"] = _HSTS
        self.status = 0
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)


def _trace(headers: Headers) -> TraceContext:
    """The caller's trace, one step further; a new one if there is none to continue."""
    parent = TraceContext.parse(headers.get("traceparent"))
    if parent is None:
        return TraceContext.new(os.urandom(TRACE_ID_BYTES + SPAN_ID_BYTES))
    return parent.child(os.urandom(SPAN_ID_BYTES))
