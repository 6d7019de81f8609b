"""What was used, as JSON or CSV: of a token's own organization, or of any for operators, who also allow more."""

from datetime import date
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.usage_report import Dimension, UsageReport, as_csv
from nubabel_workers.gateway.authentication import Authenticated
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.models import ExecutionView
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.operators import Operator
from nubabel_workers.gateway.problems import ProblemError
from nubabel_workers.gateway.routes.executions import ExecutionId
from nubabel_workers.gateway.usage_models import UsageReportView
from nubabel_workers.services.keep_budgets import NOT_WAITING

router = APIRouter(tags=["usage"])

_CSV = "text/csv"


class ReportFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


def _one_dimension(value: object) -> object:
    """Several in one parameter are refused with how they are written; nothing of what was sent is repeated."""
    if isinstance(value, str) and value not in set(Dimension):
        raise PydanticCustomError("enum", "by is one of {names}; for several repeat it: by=user&by=day", _NAMES)
    return value


_NAMES = {"names": ", ".join(Dimension)}
By = Annotated[
    list[Annotated[Dimension, BeforeValidator(_one_dimension)]],
    Query(
        max_length=len(Dimension),
        description="What lines are told apart by, once each, `by=user&by=day`; none: one line in all.",
    ),
]
FirstDay = Annotated[date | None, Query(alias="from", description="First day (UTC); without it, that of the month.")]
LastDay = Annotated[date | None, Query(alias="to", description="Last day (UTC), included; without it, today.")]
Format = Annotated[ReportFormat | None, Query(alias="format", description="Instead of the Accept header.")]
Bom = Annotated[
    bool, Query(description="CSV begins with the mark by which spreadsheets know UTF-8; false leaves it out.")
]
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
    bom: Bom = True,
    accept: Accept = "application/json",
) -> Response:
    report = await parts.usage.run(organization_id=caller.organization.id, by=by, first=first, last=last)
    return _answer(report, wanted, accept, bom=bom)


class ResumeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    organization_id: str = Field(min_length=1, max_length=200, description="Whose it is.")
    cost_usd: float = Field(gt=0, le=1_000_000, description="What it may cost more, whatever the caps say.")


@router.post(
    "/v1/operator/executions/{execution_id}/resume",
    status_code=HTTPStatus.ACCEPTED,
    summary="Let an execution go on that waits for its budget",
    responses={202: {"description": "It is queued again."}, **problems(401, 404, 409, 400, 408, 413, 422, 503)},
)
async def resume_execution(
    execution_id: ExecutionId, operator: Operator, parts: Parts, body: ResumeBody
) -> ExecutionView:
    """Its own ceiling then counts instead of the organization's caps: what it has cost so far, and that much more."""
    await parts.read.by_id(body.organization_id, execution_id)
    try:
        await parts.budgets.allow(body.organization_id, execution_id, cost=body.cost_usd, actor=operator)
    except InvalidInputError as error:
        if error.code != NOT_WAITING:
            raise
        raise ProblemError(HTTPStatus.CONFLICT, error.code, str(error)) from error
    return ExecutionView.of(await parts.read.by_id(body.organization_id, execution_id))


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
    bom: Bom = True,
    accept: Accept = "application/json",
) -> Response:
    """Divide by `organization` to tell them apart."""
    report = await parts.usage.run(organization_id=organization_id, by=by, first=first, last=last)
    return _answer(report, wanted, accept, bom=bom)


def _answer(report: UsageReport, wanted: ReportFormat | None, accept: str, *, bom: bool) -> Response:
    prefers_csv = _CSV in accept and "application/json" not in accept
    if wanted is ReportFormat.CSV or (wanted is None and prefers_csv):
        return Response(
            as_csv(report, bom=bom),
            media_type=_CSV,
            headers={"content-disposition": 'attachment; filename="usage.csv"'},
        )
    return Response(UsageReportView.of(report).model_dump_json(by_alias=True), media_type="application/json")
