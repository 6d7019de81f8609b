"""What the API shows of usage."""

from datetime import date
from typing import Self

from pydantic import BaseModel, Field

from nubabel_workers.domain.usage_report import Dimension, UsageLine, UsageReport


class UsageLineView(BaseModel):
    """One line; what the report is not divided by is null."""

    organization_id: str | None
    organization_name: str | None
    user_id: str | None = Field(description="null: not divided by it, or nobody was named.")
    session_id: str | None
    model: str | None = Field(description="provider/model.")
    day: date | None = Field(description="UTC.")
    executions: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    total_tokens: int
    cost_usd: float
    lower_bound: bool = Field(description="true: it was more; a run that broke off did not tell all it used.")
    cost_computed: bool = Field(description="true: some of the cost is tokens times our price of the model.")
    unpriced_tokens: int = Field(description="Tokens of models that nobody knows a price of; they cost nothing here.")

    @classmethod
    def of(cls, line: UsageLine) -> Self:
        return cls(
            organization_id=line.organization_id,
            organization_name=line.organization_name,
            user_id=line.user_id,
            session_id=line.session_id,
            model=line.model,
            day=line.day,
            executions=line.executions,
            input_tokens=line.input_tokens,
            output_tokens=line.output_tokens,
            reasoning_tokens=line.reasoning_tokens,
            cache_read_tokens=line.cache_read_tokens,
            cache_write_tokens=line.cache_write_tokens,
            total_tokens=line.total_tokens,
            cost_usd=float(line.cost),
            lower_bound=line.lower_bound,
            cost_computed=line.cost_computed,
            unpriced_tokens=line.unpriced_tokens,
        )


class UsageReportView(BaseModel):
    """`from` and `to` are both included."""

    by: list[Dimension]
    first: date = Field(serialization_alias="from")
    last: date = Field(serialization_alias="to")
    data: list[UsageLineView]

    @classmethod
    def of(cls, report: UsageReport) -> Self:
        query = report.query
        return cls(
            by=list(query.by),
            first=query.first,
            last=query.last,
            data=[UsageLineView.of(line) for line in report.lines],
        )
