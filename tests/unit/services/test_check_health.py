"""The doctor's findings: each dependency apart, with what to do."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import cast

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.administration import RotationReport
from nubabel_workers.domain.circuit_breaker import BreakerState, Gate
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ids import InstanceId, OrganizationId, WorkspaceId
from nubabel_workers.domain.ports import OpenCodeServer
from nubabel_workers.domain.rollout import EVERYTHING_ON_OPENCODE, Rollout
from nubabel_workers.domain.tenants import Instance, Organization, ServersPolicy, Workspace
from nubabel_workers.services.check_health import CheckHealth, Finding, Probe
from nubabel_workers.services.find_unserved import FindUnserved
from nubabel_workers.services.manage_instances import ManageInstances
from nubabel_workers.services.manage_keys import ManageKeys
from nubabel_workers.services.manage_workspaces import ManageWorkspaces
from tests.fakes.administration import (
    FakeAudit,
    FakeBot,
    FakeInstances,
    FakeOrganizations,
    FakeRotation,
    FakeSlackIdentity,
    FakeWorkspaceCanceller,
    FakeWorkspaces,
)
from tests.fakes.breakers import FakeBreakers
from tests.fakes.clock import START, FakeChance, FakeClock
from tests.fakes.tenants import FakeTenants
from tests.integration.storage.seeds import installation


async def _well() -> str:
    return "it answers"


async def _away() -> str:
    raise UnavailableError("connection refused")


async def _hangs() -> str:
    await asyncio.Event().wait()
    return "never"


@dataclass
class Server:
    agent_names: tuple[str, ...] = ("Sisyphus - ultraworker",)

    async def version(self) -> str:
        return "1.18.33"

    async def directories_path(self) -> str | None:
        return "/srv/opencode/directories"

    async def agents(self, directory: str | None) -> list[str]:
        return list(self.agent_names)


@dataclass
class Servers:
    every: Server = field(default_factory=Server)

    def server(self, instance: Instance) -> OpenCodeServer:
        return cast("OpenCodeServer", self.every)


@dataclass
class Bench:
    probes: list[Probe] = field(default_factory=list)
    organizations: FakeOrganizations = field(default_factory=FakeOrganizations)
    instances: FakeInstances = field(default_factory=FakeInstances)
    servers: Servers = field(default_factory=Servers)
    breakers: FakeBreakers = field(default_factory=FakeBreakers)
    workspaces: FakeWorkspaces = field(default_factory=FakeWorkspaces)
    tenants: FakeTenants = field(default_factory=FakeTenants)
    slack: FakeSlackIdentity = field(default_factory=FakeSlackIdentity)
    canceller: FakeWorkspaceCanceller = field(default_factory=FakeWorkspaceCanceller)
    rollout: Rollout = EVERYTHING_ON_OPENCODE

    async def run(self) -> dict[str, Finding]:
        manage = ManageInstances(
            self.instances, self.instances, self.servers, self.breakers, FakeChance(), main_agent="Sisyphus - "
        )
        health = CheckHealth(
            self.probes,
            frozenset({"PostgreSQL"}),
            self.instances,
            manage,
            FindUnserved(self.organizations, self.instances, self.rollout),
            self.workspaces,
            ManageWorkspaces(self.workspaces, self.slack, self.canceller, FakeChance()),
            self.tenants,
            self.slack,
            self.rollout,
            FakeClock(),
            timeout_s=0.05,
        )
        return {finding.name: finding for finding in await health.run()}

    def add_instance(self) -> None:
        self.instances.rows["ins_1"] = Instance(InstanceId("ins_1"), "http://oc", "opencode", None)

    async def add_workspace(self) -> None:
        await self.workspaces.save("org_a", "wsp_1", installation(), actor="t")
        self.tenants.workspaces["wsp_1"] = Workspace(
            WorkspaceId("wsp_1"),
            OrganizationId("org_a"),
            "T1",
            None,
            "Acme",
            "UBOT",
            "BBOT",
            SecretStr("xoxb-1"),
            installed=True,
            installed_at=self.workspaces.rows["wsp_1"].installed_at,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_what_is_well_has_its_words_and_no_advice(bench: Bench) -> None:
    bench.probes = [Probe("PostgreSQL", _well, "start it")]
    bench.add_instance()

    found = await bench.run()

    assert found["PostgreSQL"] == Finding("PostgreSQL", ok=True, detail="it answers")
    assert found["OpenCode ins_1"].ok
    assert "version 1.18.33" in found["OpenCode ins_1"].detail


async def test_a_strained_server_is_told_with_what_is_wrong_and_what_to_do(bench: Bench) -> None:
    bench.add_instance()
    bench.instances.rows["ins_1"] = replace(bench.instances.rows["ins_1"], strain="its events come 14 s late")

    found = (await bench.run())["OpenCode ins_1"]

    assert (found.ok, found.detail) == (False, "its events come 14 s late")
    assert "start the server at http://oc anew" in found.advice


async def test_what_a_missing_key_hides_is_not_blamed_on_others(bench: Bench) -> None:
    rotation = FakeRotation(RotationReport(current=2, unreadable=(("instances", "ins_1"), ("workspaces", "wsp_1"))))
    bench.probes = [Probe("encryption keys", ManageKeys(rotation, rotation, FakeAudit()).check, "put that key back")]
    bench.add_instance()
    bench.instances.rows["ins_1"] = replace(
        bench.instances.rows["ins_1"], unreadable=True, healthy=False, health_detail="cannot be decrypted"
    )
    await bench.add_workspace()
    bench.tenants.unreadable_workspaces.add("wsp_1")

    found = await bench.run()

    keys = found.pop("encryption keys")
    assert keys.detail == "2 of 4 stored secrets were encrypted with a key that is not in NUBABEL_ENCRYPTION_KEYS"
    assert keys.advice == "put that key back"
    assert {(one.name, one.detail, one.advice) for one in found.values()} == {
        ("OpenCode ins_1", "not looked at: its stored secret cannot be decrypted", ""),
        ("Slack Acme", "not looked at: its stored secret cannot be decrypted", ""),
    }


@pytest.mark.parametrize("servers", list(ServersPolicy))
async def test_no_opencode_server_is_wanted_where_another_orchestrator_answers_everything(
    bench: Bench, servers: ServersPolicy
) -> None:
    bench.organizations.put(Organization(OrganizationId("org_a"), "Acme", servers=servers))
    bench.rollout = Rollout.parse("fallback:100")

    found = await bench.run()

    words = "no active OpenCode server is registered, and none is needed: fallback answers everything (NUBABEL_ROLLOUT)"
    assert [(one.name, one.ok, one.detail) for one in found.values()] == [("OpenCode", True, words)]


async def test_an_opencode_server_is_wanted_where_opencode_answers_a_part(bench: Bench) -> None:
    bench.organizations.put(Organization(OrganizationId("org_a"), "Acme"))
    bench.rollout = Rollout.parse("fallback:99.99")

    assert not (await bench.run())["OpenCode"].ok


async def test_an_open_circuit_breaker_is_told(bench: Bench) -> None:
    bench.add_instance()
    bench.breakers.at["ins_1"] = Gate(BreakerState.OPEN, wait_s=12.3)

    found = await bench.run()

    assert found["OpenCode ins_1"].detail.endswith("circuit breaker open, next try in 12 s")


async def test_what_is_broken_has_the_reason_and_the_advice(bench: Bench) -> None:
    bench.probes = [Probe("cache", _away, "start it")]

    found = await bench.run()

    assert found["cache"] == Finding("cache", ok=False, detail="connection refused", advice="start it")


async def test_what_hangs_fails_in_time(bench: Bench) -> None:
    bench.probes = [Probe("broker", _hangs, "start it"), Probe("cache", _well, "")]

    found = await bench.run()

    assert found["broker"].detail == "no answer within 0.05 s"
    assert found["cache"].ok


async def test_what_needs_a_broken_thing_is_not_looked_at(bench: Bench) -> None:
    bench.probes = [Probe("schema", _well, "migrate", needs="PostgreSQL"), Probe("PostgreSQL", _away, "start it")]
    bench.add_instance()

    found = await bench.run()

    assert list(found) == ["schema", "PostgreSQL"]  # nothing that would have to be read from the database
    assert (found["schema"].ok, found["schema"].detail) == (False, "not looked at, because of: PostgreSQL")
    assert found["schema"].advice == ""


async def test_nor_is_what_needs_that(bench: Bench) -> None:
    looked_at = []

    async def look() -> str:
        looked_at.append("plans")
        return "known"

    bench.probes = [
        Probe("plans", look, "describe them", needs="schema"),
        Probe("schema", _well, "migrate", needs="PostgreSQL"),
        Probe("PostgreSQL", _away, "start it"),
    ]

    found = await bench.run()

    assert found["plans"].detail == "not looked at, because of: schema"
    assert looked_at == []


async def test_no_registered_server_is_a_failure_with_the_command_that_helps(bench: Bench) -> None:
    found = await bench.run()

    assert not found["OpenCode"].ok
    assert "nubabel instances add" in found["OpenCode"].advice


async def test_when_all_servers_are_drained_the_command_that_brings_one_back_is_told(bench: Bench) -> None:
    bench.add_instance()
    bench.instances.rows["ins_1"] = replace(bench.instances.rows["ins_1"], status="draining")

    assert "nubabel instances activate ins_1" in (await bench.run())["OpenCode"].advice


async def test_an_organization_without_a_server_of_its_own_that_takes_work_is_a_failure(bench: Bench) -> None:
    bench.add_instance()
    bench.organizations.put(Organization(OrganizationId("org_a"), "Acme", servers=ServersPolicy.DEDICATED))
    without = (await bench.run())["servers of Acme"]

    own = replace(bench.instances.rows["ins_1"], id=InstanceId("ins_2"), organization_id=OrganizationId("org_a"))
    bench.instances.rows["ins_2"] = replace(own, status="draining")
    drained = (await bench.run())["servers of Acme"]

    bench.instances.rows["ins_2"] = own

    assert (without.ok, drained.ok) == (False, False)
    assert without.detail.startswith("Acme runs only on servers of its own, and there is none")
    assert "nubabel instances add URL --org org_a" in without.advice
    assert "ins_2 draining" in drained.detail
    assert drained.advice.startswith("nubabel instances activate ins_2; or: ")
    assert "servers of Acme" not in await bench.run()


async def test_organizations_on_shared_servers_of_which_there_are_none_are_a_failure(bench: Bench) -> None:
    bench.organizations.put(Organization(OrganizationId("org_a"), "Acme"))
    only_one_line = await bench.run()  # there is no server at all: that is told once

    bench.add_instance()
    bench.instances.rows["ins_1"] = replace(bench.instances.rows["ins_1"], organization_id=OrganizationId("org_b"))
    found = await bench.run()

    assert "shared servers" not in only_one_line
    assert found["shared servers"].detail.startswith("Acme runs on shared servers, and there is none")
    assert found["shared servers"].advice == "nubabel instances add URL"


async def test_a_workspace_is_checked_with_its_stored_token(bench: Bench) -> None:
    await bench.add_workspace()
    bench.slack.bots["xoxb-1"] = FakeBot()

    assert (await bench.run())["Slack Acme"].ok


async def test_a_refused_slack_token_is_a_failure_with_the_command_that_helps(bench: Bench) -> None:
    await bench.add_workspace()

    found = (await bench.run())["Slack Acme"]

    assert "invalid_auth" in found.detail
    assert "nubabel workspaces add org_a" in found.advice
    assert bench.workspaces.rows["wsp_1"].active  # a wrong address of Slack's API would be answered so as well


@pytest.mark.parametrize("code", ["token_revoked", "account_inactive"])
async def test_a_workspace_whose_token_slack_took_back_is_ended_by_whoever_hears_of_it(bench: Bench, code: str) -> None:
    await bench.add_workspace()
    bench.slack.refusal = code
    bench.canceller.open_executions["wsp_1"] = ["exe_1"]

    found = (await bench.run())["Slack Acme"]

    assert not found.ok
    assert f"{code}: the workspace is ended now, 1 of its executions are cancelled" in found.detail
    assert (bench.workspaces.rows["wsp_1"].active, bench.workspaces.rows["wsp_1"].ended_reason) == (False, code)


async def test_an_app_that_is_installed_again_while_slack_refuses_its_old_token_goes_on(bench: Bench) -> None:
    await bench.add_workspace()
    bench.slack.refusal = "token_revoked"
    bench.canceller.open_executions["wsp_1"] = ["exe_1"]
    again = replace(bench.workspaces.rows["wsp_1"], installed_at=START + timedelta(days=300))
    bench.slack.on_refusal = lambda: bench.workspaces.rows.update(wsp_1=again)

    found = (await bench.run())["Slack Acme"]

    assert not found.ok
    assert "ended" not in found.detail
    assert bench.workspaces.rows["wsp_1"] == again
    assert bench.canceller.open_executions == {"wsp_1": ["exe_1"]}


async def test_a_workspace_that_ended_lately_is_named_with_the_reason_and_is_no_failure(bench: Bench) -> None:
    await bench.add_workspace()
    ended = replace(bench.workspaces.rows["wsp_1"], active=False, ended_reason="token_revoked")

    bench.workspaces.rows["wsp_1"] = replace(ended, revoked_at=START - timedelta(days=1))
    lately = (await bench.run())["Slack Acme"]
    bench.workspaces.rows["wsp_1"] = replace(ended, revoked_at=START - timedelta(days=8))
    long_ago = await bench.run()

    assert lately.ok
    assert lately.detail.startswith("ended 2026-11-20 12:00 UTC (token_revoked)")
    assert "nubabel workspaces add org_a" in lately.detail
    assert "Slack Acme" not in long_ago


async def test_a_token_of_another_workspace_is_found_out(bench: Bench) -> None:
    await bench.add_workspace()
    bench.slack.bots["xoxb-1"] = FakeBot(team_id="T2")

    assert "belongs to the workspace T2" in (await bench.run())["Slack Acme"].detail


async def test_a_server_without_the_agent_that_works_by_default_is_told_with_the_setting_that_names_it(
    bench: Bench,
) -> None:
    bench.add_instance()
    bench.servers.every = Server(agent_names=("build",))

    found = (await bench.run())["OpenCode ins_1"]

    assert not found.ok
    assert "it has: build" in found.detail
    assert "NUBABEL_OPENCODE_AGENT_PREFIX" in found.advice
    assert "nubabel instances drain ins_1" in found.advice
