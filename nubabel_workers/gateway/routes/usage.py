"""What was used: a service token's own organization, or any for operators. JSON or CSV."""

from datetime import date
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from nubabel_workers.domain.usage_report import Dimension, UsageReport, as_csv
from nubabel_workers.gateway.authentication import Authenticated
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.operators import Operator
from nubabel_workers.gateway.usage_models import UsageReportView

router = APIRouter(tags=["usage"])

_CSV = "text/csv"


class ReportFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


By = Annotated[
    list[Dimension],
    Query(max_length=len(Dimension), description="What lines are told apart by, once each; none: one line in all."),
]
FirstDay = Annotated[date | None, Query(alias="from", description="First day (UTC); without it, that of the month.")]
LastDay = Annotated[date | None, Query(alias="to", description="Last day (UTC), included; without it, today.")]
Format = Annotated[ReportFormat | None, Query(alias="format", description="Instead of the Accept header.")]
Accept = Annotated[str, Header(description="application/json or text/csv.", max_length=200)]
_REPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Lower bounds and computed costs are marked in each line.",
        "model": UsageReportView,
        "content": {_CSV: {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/v1/usage", summary="Tokens and cost of your organization", responses=_REPORT | problems(401, 403, 422, 503)
)
async def read_usage(
    caller: Authenticated,
    parts: Parts,
    by: By = [],  # noqa: B006 - FastAPI copies it
    first: FirstDay = None,
    last: LastDay = None,
    wanted: Format = None,
    accept: Accept = "application/json",
) -> Response:
    report = await parts.usage.run(organization_id=caller.organization.id, by=by, first=first, last=last)
    return _answer(report, wanted, accept)


@router.get(
    "/v1/operator/usage",
    summary="Tokens and cost of one organization, or of all",
    responses=_REPORT | problems(401, 422, 503),
)
async def read_everybodys_usage(
    _operator: Operator,
    parts: Parts,
    organization_id: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    by: By = [],  # noqa: B006 - FastAPI copies it
    first: FirstDay = None,
    last: LastDay = None,
    wanted: Format = None,
    accept: Accept = "application/json",
) -> Response:
    """Divide by `organization` to tell them apart."""
    report = await parts.usage.run(organization_id=organization_id, by=by, first=first, last=last)
    return _answer(report, wanted, accept)


def _answer(report: UsageReport, wanted: ReportFormat | None, accept: str) -> Response:
    prefers_csv = _CSV in accept and "application/json" not in accept
    if wanted is ReportFormat.CSV or (wanted is None and prefers_csv):
        return Response(
            as_csv(report), media_type=_CSV, headers={"content-disposition": 'attachment; filename="usage.csv"'}
        )
    return Response(UsageReportView.of(report).model_dump_json(by_alias=True), media_type="application/json")
