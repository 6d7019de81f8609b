"""Sums over what was used."""

from datetime import date
from decimal import Decimal

import pytest

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.usage_reports import PostgresUsageReports
from nubabel_workers.domain.usage_report import Dimension, UsageQuery
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

FIRST, SECOND = date(2026, 11, 1), date(2026, 11, 2)
NOVEMBER = UsageQuery(FIRST, date(2026, 11, 30))


async def used(
    database: Database,
    execution_id: str,
    model: str,
    *,
    day: date = FIRST,
    tokens: int = 10,
    cost: str = "1",
    marks: str = "",
) -> None:
    await database.system().execute(
        """INSERT INTO usage (execution_id, model, organization_id, day, input_tokens, output_tokens, reasoning_tokens,
             cache_read_tokens, cache_write_tokens, cost, lower_bound, cost_computed)
           SELECT id, %(model)s, organization_id, %(day)s, %(tokens)s, 1, 2, 3, 4, %(cost)s::numeric,
             'more' = %(marks)s, 'computed' = %(marks)s
           FROM executions WHERE id = %(id)s""",
        {"id": execution_id, "model": model, "day": day, "tokens": tokens, "cost": cost, "marks": marks},
    )


@pytest.fixture
async def reports(database: Database) -> PostgresUsageReports:
    for organization_id in ("org_a", "org_b"):
        await add_organization(database, organization_id)
    for execution_id, organization_id, user, session in (
        ("exe_1", "org_a", "anna", "ses_1"),
        ("exe_2", "org_a", "ben", "ses_1"),
        ("exe_3", "org_a", None, "ses_2"),
        ("exe_4", "org_b", "anna", "ses_3"),
    ):
        await add_execution(
            database,
            ExecutionSeed(execution_id, organization_id, "completed", session, columns={"user_id": user}),
        )
    await used(database, "exe_1", "m/big", cost="0.000000001")
    await used(database, "exe_1", "m/small", tokens=100, marks="computed")
    await used(database, "exe_2", "m/big", day=SECOND, marks="more")
    await used(database, "exe_3", "m/free", cost="0")
    await used(database, "exe_4", "m/big", tokens=1000)
    await used(database, "exe_4", "m/small", day=date(2026, 12, 1))
    return PostgresUsageReports(database)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ((), {(): 1130}),
        ((Dimension.ORGANIZATION,), {("org_a",): 130, ("org_b",): 1000}),
        ((Dimension.USER,), {("anna",): 1110, ("ben",): 10, ("",): 10}),
        ((Dimension.SESSION,), {("ses_1",): 120, ("ses_2",): 10, ("ses_3",): 1000}),
        ((Dimension.MODEL,), {("m/big",): 1020, ("m/small",): 100, ("m/free",): 10}),
        ((Dimension.DAY,), {("2026-11-01",): 1120, ("2026-11-02",): 10}),
        ((Dimension.DAY, Dimension.USER, Dimension.MODEL), None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
async def test_input_tokens_by_every_dimension(
    reports: PostgresUsageReports, by: tuple[Dimension, ...], expected: dict[tuple[str, ...], int] | None
) -> None:
    lines = await reports.lines(UsageQuery(NOVEMBER.first, NOVEMBER.last, by), limit=100)

    found = {tuple(line.of(one) for one in by): line.input_tokens for line in lines}
    assert sum(found.values()) == 1130
    assert len(found) == len(lines)
    if expected is not None:
        assert found == expected


async def test_executions_are_counted_once_and_money_exactly(reports: PostgresUsageReports) -> None:
    (line,) = await reports.lines(UsageQuery(FIRST, FIRST, (), "org_a"), limit=100)

    assert (line.executions, line.cost) == (2, Decimal("1.000000001"))
    assert (line.output_tokens, line.reasoning_tokens, line.cache_read_tokens, line.cache_write_tokens) == (3, 6, 9, 12)


async def test_marks_belong_to_the_lines_that_hold_such_rows(reports: PostgresUsageReports) -> None:
    by_user = UsageQuery(NOVEMBER.first, NOVEMBER.last, (Dimension.USER,), "org_a")

    lines = {line.user_id: line for line in await reports.lines(by_user, limit=100)}

    assert {user: line.lower_bound for user, line in lines.items()} == {"anna": False, "ben": True, None: False}
    assert {user: line.cost_computed for user, line in lines.items()} == {"anna": True, "ben": False, None: False}
    assert {user: line.unpriced_tokens for user, line in lines.items()} == {"anna": 0, "ben": 0, None: 20}


async def test_an_organization_sees_its_own_only(reports: PostgresUsageReports) -> None:
    lines = await reports.lines(UsageQuery(NOVEMBER.first, NOVEMBER.last, (Dimension.ORGANIZATION,), "org_b"), limit=9)

    assert [(line.organization_id, line.input_tokens) for line in lines] == [("org_b", 1000)]


async def test_nothing_used_is_no_line_or_one_of_zeros(reports: PostgresUsageReports) -> None:
    by_day = UsageQuery(date(2020, 1, 1), date(2020, 1, 2), (Dimension.DAY,))
    in_all = UsageQuery(date(2020, 1, 1), date(2020, 1, 2))

    assert await reports.lines(by_day, limit=9) == []
    (line,) = await reports.lines(in_all, limit=9)
    assert (line.executions, line.total_tokens, line.lower_bound) == (0, 0, False)
