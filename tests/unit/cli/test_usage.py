"""nubabel usage."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from nubabel_workers.domain.usage_report import Dimension, UsageLine, UsageQuery
from tests.fakes.clock import START
from tests.unit.cli.bench import ACME, Bench, fails_with

LINE = UsageLine(
    organization_id=ACME.id,
    user_id="=cmd()",
    session_id=None,
    model="stub/echo",
    day=date(2026, 11, 21),
    executions=2,
    input_tokens=22,
    output_tokens=6,
    reasoning_tokens=0,
    cache_read_tokens=800,
    cache_write_tokens=0,
    cost=Decimal("0.5"),
    lower_bound=False,
    cost_computed=False,
    unpriced_tokens=0,
)


def test_the_present_month_of_every_organization_is_shown(bench: Bench) -> None:
    bench.usage.found = [LINE]

    result = bench.type("usage")

    assert bench.usage.asked == [UsageQuery(START.date().replace(day=1), START.date(), (Dimension.ORGANIZATION,), None)]
    for words in (ACME.id, "828", "0.5000"):
        assert words in result.stdout
    assert ">=" not in result.stdout


def test_an_organization_is_told_by_name(bench: Bench) -> None:
    bench.usage.found = [replace(LINE, organization_name="누바벨")]

    assert f"누바벨 ({ACME.id})" in bench.type("usage").stdout
    assert bench.json("usage")["lines"][0]["organization_name"] == "누바벨"
    assert f"{ACME.id},누바벨," in bench.type("usage", "--csv").stdout


def test_csv_is_for_spreadsheets_unless_a_program_asks(bench: Bench) -> None:
    bench.usage.found = [LINE]

    assert bench.type("usage", "--csv").stdout_bytes.startswith(b"\xef\xbb\xbforganization,")
    assert bench.type("usage", "--csv", "--no-bom").stdout_bytes.startswith(b"organization,")
    fails_with(bench.type("usage", "--no-bom"), 2, "--no-bom belongs to --csv")


def test_a_cost_of_less_than_a_hundredth_of_a_cent_is_not_rounded(bench: Bench) -> None:
    bench.usage.found = [replace(LINE, cost=Decimal("0.00005"))]

    assert "0.00005" in bench.type("usage").stdout.split()


def test_what_was_asked_for_is_asked_for(bench: Bench) -> None:
    bench.type("usage", "--org", "acme", "--by", "user, model,day", "--from", "2026-10-01", "--to", "2026-10-31")

    by = (Dimension.USER, Dimension.MODEL, Dimension.DAY)
    assert bench.usage.asked == [UsageQuery(date(2026, 10, 1), date(2026, 10, 31), by, ACME.id)]


@pytest.mark.parametrize("form", ["--csv", "--json", ""])
def test_lower_bounds_computed_costs_and_unknown_prices_are_marked_in_every_form(bench: Bench, form: str) -> None:
    bench.usage.found = [replace(LINE, lower_bound=True, cost_computed=True, unpriced_tokens=7)]

    result = bench.type("usage", "--by", "user", *([form] if form else []))

    said = {
        "--csv": ("'=cmd(),", ",true,true,7"),
        "--json": ('"lower_bound": true', '"cost_computed": true', '"unpriced_tokens": 7'),
        "": (">=828", ">=~0.5000"),
    }
    for words in said[form]:
        assert words in result.stdout
    if not form:
        assert "7 tokens are of models without a known price" in result.stderr


def test_nothing_used_is_one_sentence(bench: Bench) -> None:
    assert bench.type("usage").stdout == "nothing was used\n"


def test_an_unknown_division_names_those_there_are(bench: Bench) -> None:
    fails_with(bench.type("usage", "--by", "team"), 2, "organization, user, session, model, day")


def test_a_range_that_ends_before_it_begins_is_refused(bench: Bench) -> None:
    fails_with(bench.type("usage", "--from", "2026-10-02", "--to", "2026-10-01"), 2, "ends before it begins")


def test_too_many_lines_say_what_to_change(bench: Bench) -> None:
    bench.usage.found = [LINE] * 10_001

    fails_with(bench.type("usage"), 2, "fewer days, or divide by less")
