"""The gateway's application: routes, what surrounds every request, and how errors look."""

from fastapi import FastAPI

from nubabel_workers.gateway.body_limit import BodyLimit
from nubabel_workers.gateway.dependencies import GatewayParts
from nubabel_workers.gateway.metrics import GatewayMetrics, SystemGauges
from nubabel_workers.gateway.openapi import describe
from nubabel_workers.gateway.problems import install_problem_handlers
from nubabel_workers.gateway.readiness import Readiness
from nubabel_workers.gateway.request_context import RequestContext
from nubabel_workers.gateway.routes import connections, dead_letters, docs, events, executions, health, metrics
from nubabel_workers.gateway.routes.slack import SlackEvents, slack_router

_TAGS = [
    {"name": "executions", "description": "Requests and what became of them."},
    {"name": "connections", "description": "Tools of your own providers, by the Model Context Protocol."},
    {"name": "dead letters", "description": "What was set aside: for operators, across organizations."},
    {"name": "operations", "description": "For those who run it."},
]


def create_app(parts: GatewayParts) -> FastAPI:
    """Nothing is connected or started here; the parts are opened and closed by whoever made them."""
    app = api()
    app.include_router(slack_router(parts.slack, secure_cookies=parts.secure_cookies))
    own = GatewayMetrics(parts.registry)
    gauges = SystemGauges(parts.maintenance, parts.queues, parts.breakers, parts.clock)
    parts.registry.register(gauges)
    app.state.parts = parts
    app.state.metrics = own
    app.state.gauges = gauges
    app.state.readiness = Readiness(parts.readiness_checks, parts.clock)
    app.state.streams = events.StreamCounter(
        own, per_organization=parts.limits.streams_per_organization, at_once=parts.limits.streams_at_once
    )
    if parts.slack.events is not None:
        app.add_middleware(SlackEvents, handle=parts.slack.events)
    app.add_middleware(BodyLimit, max_bytes=parts.limits.max_body_bytes, timeout_s=parts.limits.body_timeout_s)
    app.add_middleware(RequestContext, metrics=own, chance=parts.chance)  # added last: the outermost
    return app


def api() -> FastAPI:
    """The routes and their description, without anything behind them."""
    app = FastAPI(
        openapi_tags=_TAGS,
        redirect_slashes=False,
        docs_url=None,  # ours, with a content security policy
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours; asking for it is a tenth of a request
        generate_unique_id_function=lambda route: route.name,
    )
    for router in (
        executions.router,
        events.router,
        connections.router,
        connections.browsers,
        dead_letters.router,
        health.router,
        metrics.router,
        docs.router,
    ):
        app.include_router(router)
    install_problem_handlers(app)
    describe(app)
    return app
