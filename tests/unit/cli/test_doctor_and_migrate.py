"""nubabel doctor, migrate, audit."""

from dataclasses import replace

import pytest
from rich.cells import cell_len

from nubabel_workers.cli.wiring import rollout_probes, sidecar_probes
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import InvalidInputError, UnavailableError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.ports.orchestrators import Call, CallAnswer
from nubabel_workers.domain.rollout import Orchestrator, Rollout
from nubabel_workers.services.check_health import Probe
from tests.fakes.clock import START
from tests.unit.cli.bench import ACME, Bench, fails_with


async def _well() -> str:
    return "it answers"


async def _away() -> str:
    raise UnavailableError("connection refused")


def test_a_well_system_is_all_ok(bench: Bench) -> None:
    bench.probes = [Probe("PostgreSQL", _well, "start it")]
    bench.type("instances", "add", "http://oc:4096")

    result = bench.type("doctor")

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["OK", "OK", "OK"]
    assert lines[-1] == "all 3 are well"


def test_what_fails_is_named_with_what_to_do(bench: Bench) -> None:
    bench.probes = [Probe("broker", _away, "start Valkey")]

    result = bench.type("doctor")

    assert result.exit_code == 1
    assert "connection refused" in result.stdout
    assert "→ start Valkey" in result.stdout
    assert "2 of 3 failed" in result.stdout  # no OpenCode server either


def test_settings_that_are_not_valid_are_a_finding_too(bench: Bench) -> None:
    bench.opening_fails = InvalidInputError("encryption key number 1 is not a valid key")

    result = bench.type("doctor")

    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert "encryption key number 1" in result.stdout
    assert ".env.example" in result.stdout


def test_the_doctor_speaks_json(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")

    assert [one["name"] for one in bench.json("doctor") if one["ok"]][:1] == ["settings"]


class _Other:
    """An orchestrator that is there, or not."""

    def __init__(self, *, well: bool) -> None:
        self.check = _well if well else _away

    async def answer(self, call: Call, *, timeout_s: float) -> CallAnswer:
        raise AssertionError("it is not asked for an answer")


@pytest.mark.parametrize(
    ("share", "name", "setting"),
    [
        ("delegate:10", "delegate service", "NUBABEL_DELEGATE_URL"),
        ("fallback:0.5:organization", "fallback API", "NUBABEL_FALLBACK_API_KEY"),
    ],
)
def test_who_gets_a_share_besides_opencode_is_tried(bench: Bench, share: str, name: str, setting: str) -> None:
    rollout = Rollout.parse(share)
    bench.probes = list(rollout_probes(rollout, {rollout.orchestrator: _Other(well=False)}))
    bench.type("instances", "add", "http://oc:4096")

    away = bench.type("doctor")
    bench.probes = list(rollout_probes(rollout, {rollout.orchestrator: _Other(well=True)}))
    well = bench.type("doctor")

    failed = next(line for line in away.stdout.splitlines() if name in line)
    assert failed.startswith("FAIL")
    assert (away.exit_code, well.exit_code) == (1, 0)
    assert setting in away.stdout
    assert "NUBABEL_ROLLOUT=opencode" in away.stdout
    assert f"{rollout.percent:g} % by {rollout.by}, OpenCode the rest" in away.stdout


def test_who_gets_no_share_is_not_tried(bench: Bench) -> None:
    bench.probes = list(rollout_probes(Rollout.parse("delegate:0"), {Orchestrator.DELEGATE: _Other(well=False)}))
    bench.type("instances", "add", "http://oc:4096")

    assert "OpenCode answers everything" in bench.type("doctor").stdout


def test_a_private_address_for_an_organization_that_is_not_there_is_a_failure(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    bench.tenants.organizations["org_acme"] = ACME
    bench.tenants.organizations["org_off"] = replace(ACME, id=OrganizationId("org_off"), disabled_at=START)

    answers = {}
    for named in ("org_acme", "org_typo", "org_off", None):
        bench.probes = [Probe("schema", _well, ""), *sidecar_probes(named, bench.tenants)]
        answers[named] = bench.type("doctor")

    assert [answer.exit_code for answer in answers.values()] == [0, 1, 1, 0]
    assert "callers without a token act for Acme (org_acme)" in answers["org_acme"].stdout
    assert "NUBABEL_SIDECAR_ORGANIZATION names org_typo, which does not exist" in answers["org_typo"].stdout
    assert "nubabel orgs list" in answers["org_typo"].stdout
    assert "names Acme, which is disabled" in answers["org_off"].stdout
    assert "sidecar" not in answers[None].stdout


# --- migrate ---------------------------------------------------------------------------------------------------------


def test_migrating_goes_up_and_sets_the_roles_passwords(bench: Bench) -> None:
    result = bench.type("migrate")

    assert result.stdout == "the schema is at revision 0002\n"
    assert "nubabel_tenant" in result.stderr


def test_status_fails_while_the_schema_is_not_this_versions(bench: Bench) -> None:
    bench.migrations.revision = "0001"

    behind = bench.type("migrate", "status")
    bench.type("migrate", "up")

    assert (behind.exit_code, behind.stdout) == (1, "the schema is at revision 0001, the newest is 0002\n")
    assert bench.json("migrate", "status") == {"revision": "0002", "newest": "0002", "passwords_set": []}


def test_going_down_has_to_be_meant(bench: Bench) -> None:
    bench.type("migrate")

    fails_with(bench.type("migrate", "down"), 2, "--to base")
    fails_with(bench.type("migrate", "down", "--to", "base"), 2, "--yes")
    assert bench.migrations.revision == "0002"
    assert bench.type("migrate", "down", "--to", "base", "--yes").exit_code == 0
    assert bench.migrations.revision is None


def test_a_database_that_is_away_is_one_line(bench: Bench) -> None:
    bench.migrations.error = UnavailableError("the database cannot be reached")

    fails_with(bench.type("migrate", "status"), 1, "the database cannot be reached")


# --- audit -----------------------------------------------------------------------------------------------------------


def test_changes_are_listed_with_who_made_them(bench: Bench) -> None:
    assert bench.type("audit").stdout == "nothing was changed yet\n"
    bench.audit.entries.append(
        AuditEntry("cli:ben", AuditAction.TOKEN_REVOKED, "org_acme", "tok_1", {"why": "leaked", "no": None}, START)
    )

    listed = bench.type("audit", "--org", "acme").stdout

    assert "2026-11-21 12:00:00  cli:ben  token.revoked  tok_1    org_acme      why leaked" in listed


def test_what_an_entry_says_of_numbers_and_lists_is_json(bench: Bench) -> None:
    detail = {"rows": {"executions": 3, "usage": 7}, "unset": ["in_flight"], "forced": True, "cost_usd": 0.5}
    bench.audit.entries.append(
        AuditEntry("cli:ben", AuditAction.ORGANIZATION_ERASED, "org_acme", "org_acme", detail, START)
    )

    listed = bench.type("audit").stdout

    assert 'rows {"executions":3,"usage":7}, unset ["in_flight"], forced true, cost_usd 0.5' in listed


def test_after_a_restore_what_may_have_been_told_is_put_in_doubt(bench: Bench) -> None:
    assert bench.type("restored").stdout == "2 open executions and 3 untold messages are looked up first\n"
    assert bench.json("restored") == {"executions": 2, "notifications": 3}


def test_what_was_found_stands_in_one_column_also_behind_names_in_hangul(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    bench.probes = [Probe("cache", _well, ""), Probe("Slack 누바벨", _well, "")]

    lines = bench.type("doctor").stdout.splitlines()

    columns = {cell_len(line.partition("it answers")[0]) for line in lines if "it answers" in line}
    assert len(columns) == 1
