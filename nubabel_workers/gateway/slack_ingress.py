"""The Bolt app that both ways in of Slack share: the Events API in `web`, Socket Mode in `slack`."""

from slack_bolt.async_app import AsyncApp

from nubabel_workers.adapters.slack.ingress import InstalledBot, slack_app
from nubabel_workers.bootstrap import Services


def build_slack_app(services: Services) -> AsyncApp:
    """Verifies what comes in and stores it before anything is acknowledged."""

    async def find_bot(enterprise_id: str | None, team_id: str | None) -> InstalledBot | None:
        workspace = await services.tenants.workspace_by_installation(enterprise_id, team_id)
        if workspace is None or not workspace.active:
            return None
        return InstalledBot(workspace.bot_user_id, workspace.bot_id)

    return slack_app(
        signing_secret=services.settings.slack_signing_secret,
        find_bot=find_bot,
        accept=services.accept_slack_event.accept,
    )
