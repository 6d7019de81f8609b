"""The one Slack workspace that the settings may name: installed when a process that receives events starts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from nubabel_workers.bootstrap import Services, manage_workspaces
from nubabel_workers.domain.errors import NubabelError, PermanentError
from nubabel_workers.services.ensure_workspace import EnsureWorkspace

log = structlog.get_logger(__name__)

_FIRST_WAIT_S = 2.0
_MAX_WAIT_S = 60.0


@asynccontextmanager
async def configured_workspace(services: Services) -> AsyncIterator[None]:
    """Install it in the background while the block runs; an outage of Slack or the database is waited out."""
    installing = asyncio.create_task(_install_at_last(services), name="configured-workspace")
    try:
        yield
    finally:
        installing.cancel()
        with suppress(asyncio.CancelledError):
            await installing


async def _install_at_last(services: Services) -> None:
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            await install_configured_workspace(services)
        except PermanentError as error:
            log.error("slack.configured_workspace_refused", error=str(error))  # noqa: TRY400 - no bug, no traceback
            return
        except NubabelError as error:
            log.warning("slack.configured_workspace_waits", error=str(error), again_in_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(_MAX_WAIT_S, 2 * wait_s)
        else:
            return


async def install_configured_workspace(services: Services) -> None:
    """Does nothing without the settings, or when this very token is installed already."""
    settings = services.settings
    if settings.slack_bot_token is None or settings.slack_team_id is None or settings.slack_organization is None:
        return
    ensure = EnsureWorkspace(services.tenants, manage_workspaces(services))
    await ensure.ensure(settings.slack_organization, settings.slack_team_id, settings.slack_bot_token)
