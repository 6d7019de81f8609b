"""The gateway's application: routes, what surrounds every request, and how errors look."""

import asyncio
from collections.abc import Sequence
from functools import cache
from http import HTTPStatus

from fastapi import Depends, FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from nubabel_workers.gateway.body_limit import BodyLimit
from nubabel_workers.gateway.dependencies import GatewayParts
from nubabel_workers.gateway.foreign_ids import report_refused
from nubabel_workers.gateway.known_query import known_query
from nubabel_workers.gateway.metrics import GatewayMetrics, SystemGauges
from nubabel_workers.gateway.openapi import describe
from nubabel_workers.gateway.problems import ProblemError, install_problem_handlers, problem_response
from nubabel_workers.gateway.readiness import Readiness
from nubabel_workers.gateway.request_context import RequestContext
from nubabel_workers.gateway.routes import (
    batches,
    bridge,
    callbacks,
    connections,
    dead_letters,
    docs,
    events,
    executions,
    health,
    limits,
    metrics,
    policies,
    sidecar_form,
    usage,
)
from nubabel_workers.gateway.routes.slack import SlackEvents, slack_router
from nubabel_workers.gateway.single_headers import SingleHeaders
from nubabel_workers.gateway.streams import StreamCounter

_BROWSERS_SEND = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-mode"})
_STRICT = [Depends(known_query)]  # in this order: the paths are described in it
_TAGS = [
    {"name": "executions", "description": "Requests and what became of them."},
    {"name": "batches", "description": "Several requests at once, told in one reply."},
    {"name": "bridge", "description": "Hand a task over and wait for its result."},
    {"name": "sidecar", "description": "The form that callers of the old OpenCode sidecar speak."},
    {"name": "usage", "description": "Tokens and cost."},
    {"name": "limits", "description": "What organizations may use: for operators."},
    {"name": "policies", "description": "How organizations are served: for operators."},
    {"name": "connections", "description": "Tools of your own providers, by the Model Context Protocol."},
    {"name": "callbacks", "description": "What the plugin inside an OpenCode server calls."},
    {"name": "dead letters", "description": "What was set aside: for operators, across organizations."},
    {"name": "operations", "description": "For those who run it."},
]


def create_app(parts: GatewayParts) -> FastAPI:
    """Nothing is connected or started here; the parts are opened and closed by whoever made them."""
    app = api()
    app.include_router(slack_router(parts.slack, secure_cookies=parts.secure_cookies))
    own = GatewayMetrics(parts.registry)
    gauges = SystemGauges(
        parts.maintenance,
        parts.queues,
        parts.breakers,
        parts.servers,
        parts.clock,
        organizations=parts.limits.metrics_organizations,
    )
    parts.registry.register(gauges)
    app.state.parts = parts
    app.state.private_organization = None
    app.state.stopping = asyncio.Event()  # set when the process ends: whoever waits is told now
    app.state.metrics = own
    app.state.gauges = gauges
    app.state.readiness = Readiness(parts.readiness_checks, parts.clock)
    app.state.streams = StreamCounter(
        own, per_organization=parts.limits.streams_per_organization, at_once=parts.limits.streams_at_once
    )
    if parts.slack.events is not None:
        app.add_middleware(SlackEvents, handle=parts.slack.events)
    app.add_middleware(BodyLimit, max_bytes=parts.limits.max_body_bytes, timeout_s=parts.limits.body_timeout_s)
    app.add_middleware(SingleHeaders)
    app.add_middleware(RequestContext, metrics=own, chance=parts.chance)  # added last: the outermost
    return app


def create_private_app(public: FastAPI, organization_id: str) -> FastAPI:
    """The bridge alone, for callers without a token on an address that nobody else reaches: they act for one tenant.

    public: the gateway of the same process, whose parts and counters it shares.
    """
    app = _bare()
    for router in (bridge.router, sidecar_form.router):
        app.include_router(router)
    app.add_api_route("/health", health.health)
    app.add_api_route("/health", health.health, methods=["HEAD"], include_in_schema=False)
    install_problem_handlers(app, before=report_refused)
    parts: GatewayParts = public.state.parts
    for shared in ("parts", "stopping", "metrics", "streams"):
        setattr(app.state, shared, getattr(public.state, shared))
    app.state.private_organization = organization_id
    app.add_middleware(NoBrowsers)
    app.add_middleware(BodyLimit, max_bytes=parts.limits.max_body_bytes, timeout_s=parts.limits.body_timeout_s)
    app.add_middleware(SingleHeaders)
    app.add_middleware(RequestContext, metrics=public.state.metrics, chance=parts.chance)
    return app


class NoBrowsers:
    """ASGI middleware for an address without tokens: a page that somebody on this machine visits must not use it.

    Browsers name themselves by these headers, services don't send them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _BROWSERS_SEND.isdisjoint(name for name, _ in scope["headers"]):
            refusal = ProblemError(HTTPStatus.FORBIDDEN, "browser_refused", "browsers may not use this address")
            await problem_response(scope, refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def api() -> FastAPI:
    """The routes and their description, without anything behind them."""
    app = _bare()
    app.router.routes.extend(_routes())
    install_problem_handlers(app, before=report_refused)
    describe(app)
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """Those of every gateway. What FastAPI finds out about them is found out once in a process."""
    app = _bare()
    own = len(app.routes)
    for router in (executions.router, batches.router):
        app.include_router(router, dependencies=_STRICT)
    for router in (events.router, bridge.router, sidecar_form.router, events.sessions, callbacks.router):
        app.include_router(router)
    app.include_router(connections.router, dependencies=_STRICT)
    app.include_router(connections.browsers)
    for router in (usage.router, limits.router, policies.router, dead_letters.router):
        app.include_router(router, dependencies=_STRICT)
    for router in (health.router, metrics.router, docs.router):
        app.include_router(router)
    return app.routes[own:]


def _bare() -> FastAPI:
    return FastAPI(
        openapi_tags=_TAGS,
        redirect_slashes=False,
        docs_url=None,  # ours, with a content security policy
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours; asking for it is a tenth of a request
        generate_unique_id_function=lambda route: route.name,
    )
