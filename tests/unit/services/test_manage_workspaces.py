"""Slack workspaces: installed by the token's own word, never moved between organizations, ended cleanly."""

from dataclasses import dataclass, field, replace

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, NotFoundError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.manage_workspaces import ManageWorkspaces
from tests.fakes.administration import NOW, FakeBot, FakeSlackIdentity, FakeWorkspaceCanceller, FakeWorkspaces
from tests.fakes.clock import FakeChance

ACME = Organization(OrganizationId("org_a"), "Acme")
BETA = Organization(OrganizationId("org_b"), "Beta")
TOKEN = SecretStr("xoxb-1")


@dataclass
class Bench:
    workspaces: FakeWorkspaces = field(default_factory=FakeWorkspaces)
    slack: FakeSlackIdentity = field(default_factory=lambda: FakeSlackIdentity({"xoxb-1": FakeBot()}))
    canceller: FakeWorkspaceCanceller = field(default_factory=FakeWorkspaceCanceller)

    def manage(self) -> ManageWorkspaces:
        return ManageWorkspaces(self.workspaces, self.slack, self.canceller, FakeChance())


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_token_installs_the_workspace_it_belongs_to(bench: Bench) -> None:
    added = await bench.manage().add(ACME, TOKEN, actor="cli:anna")

    assert added.id.startswith("wsp_")
    assert (added.organization_id, added.team_id, added.team_name, added.active) == ("org_a", "T1", "Acme", True)
    assert bench.workspaces.tokens[added.id] == TOKEN
    assert bench.workspaces.actors == ["cli:anna"]


async def test_installing_again_keeps_the_workspaces_id(bench: Bench) -> None:
    bench.slack.bots["xoxb-2"] = FakeBot(team_name="Acme Inc")
    first = await bench.manage().add(ACME, TOKEN, actor="cli:anna")

    second = await bench.manage().add(ACME, SecretStr("xoxb-2"), actor="cli:anna")

    assert (second.id, second.team_name) == (first.id, "Acme Inc")
    assert bench.workspaces.tokens[first.id] == SecretStr("xoxb-2")


async def test_another_organizations_workspace_is_refused(bench: Bench) -> None:
    await bench.manage().add(ACME, TOKEN, actor="cli:anna")

    with pytest.raises(InvalidInputError, match="belongs to another organization") as refused:
        await bench.manage().add(BETA, TOKEN, actor="cli:eve")

    assert ACME.id not in str(refused.value)
    assert ACME.name not in str(refused.value).removeprefix("the Slack workspace 'Acme'")

    assert [one.organization_id for one in bench.workspaces.rows.values()] == ["org_a"]


@pytest.mark.parametrize(
    ("token", "says"),
    [("xapp-1", "app-level token"), ("xoxp-1", "begins with xoxb-"), ("", "begins with xoxb-")],
)
async def test_a_token_of_another_kind_is_refused_before_slack_is_asked(token: str, says: str, bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match=says):
        await bench.manage().add(ACME, SecretStr(token), actor="cli:anna")


async def test_a_token_that_slack_refuses_installs_nothing(bench: Bench) -> None:
    with pytest.raises(CredentialsError, match="invalid_auth"):
        await bench.manage().add(ACME, SecretStr("xoxb-bad"), actor="cli:anna")

    assert bench.workspaces.rows == {}


async def test_a_token_without_workspace_or_bot_is_refused(bench: Bench) -> None:
    bench.slack.bots["xoxb-1"] = FakeBot(bot_user_id="")

    with pytest.raises(InvalidInputError, match="is it a bot's"):
        await bench.manage().add(ACME, TOKEN, actor="cli:anna")


async def test_a_disabled_organization_gets_no_workspace(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="disabled"):
        await bench.manage().add(replace(ACME, disabled_at=NOW), TOKEN, actor="cli:anna")


async def test_an_installation_of_nobody_is_refused(bench: Bench) -> None:
    nobody = Installation(team_id=None, enterprise_id=None, team_name="", bot_user_id="U", bot_token=TOKEN)

    with pytest.raises(InvalidInputError, match="belongs to a Slack workspace"):
        await bench.manage().install(ACME, nobody, actor="slack")


async def test_removing_a_workspace_cancels_what_it_asked_for(bench: Bench) -> None:
    workspace = await bench.manage().add(ACME, TOKEN, actor="cli:anna")
    bench.canceller.open_executions[workspace.id] = ["exe_1", "exe_2"]

    ended = await bench.manage().remove(workspace.id, actor="cli:anna", reason="contract ended")
    again = await bench.manage().remove(workspace.id, actor="cli:anna", reason="contract ended")

    assert (ended.cancelled, again.cancelled) == (("exe_1", "exe_2"), ())
    assert not bench.workspaces.rows[workspace.id].active
    assert bench.canceller.reasons[0] == "contract ended"


async def test_an_unknown_workspace_cannot_be_removed(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="nubabel workspaces list"):
        await bench.manage().remove("wsp_none", actor="cli:anna", reason="x")
