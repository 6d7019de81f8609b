"""Whether the process lives, and whether it can do its work. Load balancers ask by HEAD too, and get no body then."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.readiness import Readiness, Report, State

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class CheckView(BaseModel):
    state: State
    latency_ms: float
    detail: str = Field(description="What was found.")


class ReadyView(BaseModel):
    """Each dependency with its state. Any one that fails makes the whole not ready."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "not_ready",
                "checks": {
                    "database": {"state": "ok", "latency_ms": 1.3, "detail": "PostgreSQL 18.4"},
                    "broker": {"state": "failed", "latency_ms": 2000.4, "detail": "no answer within 2 s"},
                },
            }
        }
    )

    status: Literal["ready", "not_ready"]
    checks: dict[str, CheckView]

    @classmethod
    def of(cls, report: Report) -> "ReadyView":
        checks = {
            name: CheckView(state=finding.state, latency_ms=finding.latency_ms, detail=finding.detail)
            for name, finding in report.findings.items()
        }
        return cls(status="ready" if report.ready else "not_ready", checks=checks)


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="Is the process alive?", responses=problems())
async def health() -> Health:
    """Asks nothing of anybody else: a failing dependency is no reason to restart this process."""
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    summary="Can it do its work?",
    responses={503: {"description": "Something that is needed fails.", "model": ReadyView}, **problems()},
)
async def ready(request: Request, response: Response) -> ReadyView:
    readiness: Readiness = request.app.state.readiness
    report = await readiness.report()
    if not report.ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return ReadyView.of(report)
