"""One workspace from the settings: set three variables, start, and it answers."""

import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.bootstrap import open_services
from nubabel_workers.domain.errors import PermanentError
from nubabel_workers.gateway.configured_workspace import install_configured_workspace
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.integration.pipeline.conftest import ORGANIZATION, TEAM

pytestmark = pytest.mark.integration


@pytest.fixture
def with_workspace(settings: Settings, slack: SlackSimulator) -> Settings:
    return settings.model_copy(
        update={
            "slack_bot_token": SecretStr(slack.workspace(TEAM).bot_token),
            "slack_team_id": TEAM,
            "slack_organization": ORGANIZATION,
        }
    )


async def test_the_workspace_of_the_settings_is_installed_once(with_workspace: Settings) -> None:
    async with open_services(with_workspace, application_name="tests") as services:
        await services.database.system().execute(
            "INSERT INTO organizations (id, name) VALUES (%(id)s, 'One')", {"id": ORGANIZATION}
        )

        await install_configured_workspace(services)
        await install_configured_workspace(services)

        audited = await services.database.system().all("SELECT actor FROM audit_log")
        assert audited == [{"actor": "settings"}]
        workspace = await services.tenants.workspace_by_installation(None, TEAM)
        assert workspace is not None
        assert workspace.organization_id == ORGANIZATION


async def test_an_organization_that_does_not_exist_is_said_clearly(with_workspace: Settings) -> None:
    async with open_services(with_workspace, application_name="tests") as services:
        with pytest.raises(PermanentError, match="nubabel orgs create"):
            await install_configured_workspace(services)


async def test_without_the_settings_nothing_is_done(settings: Settings) -> None:
    async with open_services(settings, application_name="tests") as services:
        await install_configured_workspace(services)

        assert await services.database.system().all("SELECT id FROM workspaces") == []
