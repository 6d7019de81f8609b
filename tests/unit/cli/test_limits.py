"""`nubabel limits`, and where else an organization's plan shows."""

from dataclasses import replace

from tests.unit.cli.bench import ACME, Bench, fails_with


def test_limits_are_shown_with_where_they_come_from(bench: Bench) -> None:
    bench.organizations.put(replace(ACME, plan="trial", limits={"in_flight": None}))

    result = bench.type("limits", "show", "acme")

    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert lines["in_flight"] == ["none", "own"]
    assert lines["queued"] == ["50", "plan", "trial"]


def test_limits_are_set_and_go_back_to_the_plan(bench: Bench) -> None:
    bench.json("limits", "set", "acme", "in_flight=20", "queued=none")
    report = bench.json("limits", "set", "acme", "queued=unset", "weight=2")

    assert report["own"] == {"in_flight": 20, "weight": 2.0}
    assert report["limits"]["in_flight"] == 20
    assert bench.organizations.actors == ["cli:anna", "cli:anna"]


def test_a_limit_that_does_not_exist_is_one_line(bench: Bench) -> None:
    fails_with(bench.type("limits", "set", "acme", "speed=1"), 2, "there is no limit 'speed'", "in_flight")


def test_a_plan_that_nobody_described_is_said_when_it_is_given(bench: Bench) -> None:
    changed = bench.type("orgs", "set-policy", "acme", "--plan", "gold")
    created = bench.type("orgs", "create", "Other", "--plan", "gold")
    other_policy = bench.type("orgs", "set-policy", "acme", "--busy", "reject")
    known = bench.type("orgs", "set-policy", "acme", "--plan", "trial")

    for told in (changed, created):
        assert "nobody described the plan 'gold': `default` serves it" in told.stderr
        assert told.exit_code == 0
    assert other_policy.stderr == known.stderr == ""


def test_a_plan_that_nobody_described_is_said(bench: Bench) -> None:
    bench.organizations.put(replace(ACME, plan="gold"))

    assert "gold (not described: served as `default`)" in bench.type("orgs", "show", "acme").stdout
    assert "nobody described the plan 'gold'" in bench.type("limits", "show", "acme").output
