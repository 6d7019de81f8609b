"""Reports of usage as values and as CSV."""

import csv
import io
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.usage_report import Dimension, UsageLine, UsageQuery, UsageReport, as_csv

DAY = date(2026, 11, 21)
LINE = UsageLine(
    organization_id=None,
    user_id="anna",
    session_id=None,
    model="stub/echo",
    day=None,
    executions=2,
    input_tokens=22,
    output_tokens=6,
    reasoning_tokens=1,
    cache_read_tokens=800,
    cache_write_tokens=3,
    cost=Decimal("0.000000015"),
    lower_bound=True,
    cost_computed=False,
    unpriced_tokens=0,
)
BY = (Dimension.USER, Dimension.MODEL)


def written(*lines: UsageLine) -> list[dict[str, str]]:
    report = UsageReport(UsageQuery(DAY, DAY, BY), lines)
    return list(csv.DictReader(io.StringIO(as_csv(report).encode().decode("utf-8-sig"))))


def test_a_line_is_written_exactly_and_says_that_it_was_more() -> None:
    (row,) = written(LINE)

    assert row == {
        "user": "anna",
        "model": "stub/echo",
        "executions": "2",
        "input_tokens": "22",
        "output_tokens": "6",
        "reasoning_tokens": "1",
        "cache_read_tokens": "800",
        "cache_write_tokens": "3",
        "total_tokens": "832",
        "cost_usd": "0.000000015",
        "lower_bound": "true",
        "cost_computed": "false",
        "unpriced_tokens": "0",
    }


def test_spreadsheets_know_it_as_utf8_and_programs_can_do_without_the_mark() -> None:
    report = UsageReport(UsageQuery(DAY, DAY, BY), [LINE])

    assert as_csv(report).encode().startswith(b"\xef\xbb\xbfuser,model,")
    assert as_csv(report, bom=False).startswith("user,model,")


def test_an_organization_has_its_name_beside_its_id() -> None:
    report = UsageReport(
        UsageQuery(DAY, DAY, (Dimension.ORGANIZATION, Dimension.MODEL)),
        [replace(LINE, organization_id="org_1", organization_name="=누바벨")],
    )

    titles, row = as_csv(report, bom=False).splitlines()

    assert titles.startswith("organization,organization_name,model,executions,")
    assert row.startswith("org_1,'=누바벨,stub/echo,2,")


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", '=HYPERLINK("https://a.b","x")', "|calc"]
)
def test_no_cell_begins_as_a_formula(name: str) -> None:
    (row,) = written(replace(LINE, user_id=name, model=name))

    assert row["user"] == f"'{name}"
    assert row["model"] == f"'{name}"


@pytest.mark.parametrize("name", ['a,b"c', "a\nb", "U0ANNA", "이름"])
def test_any_other_name_comes_back_as_it_was(name: str) -> None:
    assert written(replace(LINE, user_id=name))[0]["user"] == name


@pytest.mark.parametrize(
    ("first", "last", "by", "says"),
    [
        (date(2026, 11, 2), date(2026, 11, 1), (), "ends before"),
        (date(2025, 1, 1), date(2026, 1, 2), (), "366 days"),
        (DAY, DAY, (Dimension.USER, Dimension.USER), "once"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(first: date, last: date, by: tuple[Dimension, ...], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        UsageQuery(first, last, by)
