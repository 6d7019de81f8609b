"""Metrics in Prometheus's text format."""

from fastapi import APIRouter, Request, Response

from nubabel_workers.gateway.metrics import CONTENT_TYPE, GatewayMetrics, SystemGauges, exposition
from nubabel_workers.gateway.openapi import problems

router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Text exposition format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(),
    },
)
async def metrics(request: Request) -> Response:
    """Holds no tenant's data. Rows and queues are read at most every few seconds."""
    gauges: SystemGauges = request.app.state.gauges
    own: GatewayMetrics = request.app.state.metrics
    await gauges.refresh()
    return Response(exposition(own), headers={"content-type": CONTENT_TYPE})
