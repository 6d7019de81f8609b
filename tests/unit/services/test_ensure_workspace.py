"""The Slack workspace that stands in the settings."""

from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, NotFoundError
from nubabel_workers.domain.ids import OrganizationId, WorkspaceId
from nubabel_workers.domain.tenants import Organization, Workspace
from nubabel_workers.services.ensure_workspace import EnsureWorkspace
from nubabel_workers.services.manage_workspaces import ManageWorkspaces
from tests.fakes.administration import FakeBot, FakeSlackIdentity, FakeWorkspaceCanceller, FakeWorkspaces
from tests.fakes.clock import START, FakeChance
from tests.fakes.tenants import FakeTenants

TOKEN = SecretStr("xoxb-1")


@dataclass
class Bench:
    tenants: FakeTenants = field(default_factory=FakeTenants)
    workspaces: FakeWorkspaces = field(default_factory=FakeWorkspaces)
    slack: FakeSlackIdentity = field(default_factory=lambda: FakeSlackIdentity({"xoxb-1": FakeBot()}))

    async def ensure(self, organization_id: str = "org_a") -> None:
        manage = ManageWorkspaces(self.workspaces, self.slack, FakeWorkspaceCanceller(), FakeChance())
        await EnsureWorkspace(self.tenants, manage).ensure(organization_id, "T1", TOKEN)

    def is_known(self, *, token: SecretStr = TOKEN, enterprise_id: str | None = None) -> None:
        self.tenants.workspaces["wsp_1"] = Workspace(
            WorkspaceId("wsp_1"),
            OrganizationId("org_a"),
            "T1",
            enterprise_id,
            "Acme",
            "UBOT",
            "BBOT",
            token,
            installed=True,
            installed_at=START,
        )


@pytest.fixture
def bench() -> Bench:
    prepared = Bench()
    prepared.tenants.add_organization(Organization(OrganizationId("org_a"), "Acme"))
    return prepared


async def test_the_first_start_installs_the_workspace(bench: Bench) -> None:
    await bench.ensure()

    assert [(one.organization_id, one.team_id) for one in bench.workspaces.rows.values()] == [("org_a", "T1")]
    assert bench.workspaces.actors == ["settings"]


async def test_later_starts_do_not_even_ask_slack(bench: Bench) -> None:
    bench.is_known()
    bench.slack.bots.clear()

    await bench.ensure()

    assert bench.workspaces.rows == {}


async def test_a_new_token_in_the_settings_replaces_the_old_one(bench: Bench) -> None:
    bench.is_known(token=SecretStr("xoxb-old"))

    await bench.ensure()

    assert list(bench.workspaces.tokens.values()) == [TOKEN]


async def test_an_enterprises_workspace_is_recognised_after_asking_slack(bench: Bench) -> None:
    bench.is_known(enterprise_id="E1")
    bench.slack.bots["xoxb-1"] = FakeBot(enterprise_id="E1")

    await bench.ensure()

    assert bench.workspaces.rows == {}


async def test_settings_that_do_not_fit_together_are_refused(bench: Bench) -> None:
    bench.slack.bots["xoxb-1"] = FakeBot(team_id="T2")

    with pytest.raises(InvalidInputError, match="belongs to T2, not to"):
        await bench.ensure()
    with pytest.raises(NotFoundError, match="org_none does not exist"):
        await bench.ensure("org_none")


async def test_a_token_that_slack_refuses_is_the_administrators_business(bench: Bench) -> None:
    bench.slack.bots.clear()

    with pytest.raises(CredentialsError):
        await bench.ensure()
