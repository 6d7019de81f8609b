"""The wired services in one process on real PostgreSQL and Valkey, with simulated OpenCode and Slack beside them.

No worker runs: a test takes each step itself, so that it can stand between any two of them.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap import Services, manage_dead_letters, open_services
from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.dead_letters import Replayed
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.slack.model import Message
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.waiting import eventually_true

TEAM = "T0ONE"
CHANNEL = "C0GENERAL"
ORGANIZATION = "org_pipeline"


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator() as running:
        yield running


@pytest.fixture
async def opencode() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig()) as running:
        yield running


@pytest.fixture
def settings(
    slack: SlackSimulator,
    database_url: str,
    clean_redis: RedisServer,
) -> Settings:
    return pipeline_settings(slack, database_url, clean_redis)


def pipeline_settings(slack: SlackSimulator, database_url: str, redis: RedisServer, **changes: Any) -> Settings:
    """Waits between tries are next to nothing."""
    values: dict[str, Any] = {
        "_env_file": None,
        "environment": "development",
        "database_url": SecretStr(database_url),
        "broker_url": SecretStr(redis.broker_url),
        "cache_url": SecretStr(redis.cache_url),
        "encryption_keys": (generate_key(),),
        "slack_api_base_url": slack.api_url,
        "slack_progress_interval_s": 0.01,
        "database_pool_min": 0,
        "egress_allow": ("127.0.0.1",),
        "retry_orchestration_first_wait_s": 0.01,
        "retry_orchestration_max_wait_s": 0.01,
        "retry_notifications_first_wait_s": 0.01,
        "retry_notifications_max_wait_s": 0.01,
    }
    return Settings(**values | changes)


class Steps:
    """One organization with one Slack workspace and one OpenCode server: what happens, step by step."""

    def __init__(self, services: Services, slack: SlackSimulator) -> None:
        self.services = services
        self.slack = slack

    async def receive(self, body: Mapping[str, object]) -> None:
        """An event as it arrives at the door."""
        await self.services.accept_slack_event.accept(body)

    async def mention(self, text: str, *, thread_ts: str | None = None, team: str = TEAM) -> Message:
        """A person mentions the bot, and the event is accepted."""
        bot = self.slack.workspace(team).bot_user_id
        return await self.say(f"<@{bot}> {text}", thread_ts=thread_ts, kind="app_mention", team=team)

    async def say(
        self,
        text: str,
        *,
        thread_ts: str | None = None,
        kind: str = "message",
        channel: str = CHANNEL,
        team: str = TEAM,
    ) -> Message:
        message = self.slack.say(text, team=team, channel=channel, thread_ts=thread_ts)
        await self.receive(self.envelope({"type": kind, **message.wire(team), "channel": channel}, team=team))
        return message

    def envelope(
        self, event: Mapping[str, object], *, event_id: str | None = None, team: str = TEAM
    ) -> dict[str, object]:
        bot = self.slack.workspace(team).bot_user_id
        return {
            "type": "event_callback",
            "event_id": event_id or self.services.chance.new_id("Ev"),
            "team_id": team,
            "authorizations": [{"team_id": team, "enterprise_id": None, "user_id": bot, "is_bot": True}],
            "event": {"channel_type": "channel", **event},
        }

    async def install(self, bot_token: str | None = None, *, team: str = TEAM) -> None:
        """Install the app in Slack, or install it again, with another token if need be."""
        workspace = self.slack.workspace(team)
        installation = Installation(
            team_id=team,
            enterprise_id=None,
            team_name=workspace.name,
            bot_user_id=workspace.bot_user_id,
            bot_token=SecretStr(bot_token or workspace.bot_token),
            bot_id=workspace.bot_id,
            scopes=("chat:write",),
        )
        workspaces = PostgresWorkspaces(self.services.database, self.services.cipher)
        known = await workspaces.installed(installation.key)
        workspace_id = known.id if known is not None else self.services.chance.new_id("wsp")
        assert await workspaces.save(ORGANIZATION, workspace_id, installation, actor="tests") is not None

    async def set_webhook_secret(self, secret: SecretStr) -> None:
        organizations = PostgresOrganizations(self.services.database, self.services.cipher)
        assert await organizations.set_webhook_secret(ORGANIZATION, secret, overlap_s=0, actor="tests") is not None

    async def take_events(self) -> str:
        return await self.services.process_slack_events.run(None)

    async def dispatch(self) -> str:
        return await self.services.dispatch_executions.run()

    async def complete(self) -> str:
        return await self.services.complete_executions.run(None)

    async def deliver(self) -> str:
        return await self.services.deliver_notifications.run(None)

    async def late_threads_are_told(self) -> None:
        """As if two minutes had passed since everything was asked."""
        system = self.services.database.system()
        for table in ("sessions", "executions"):
            await system.execute(f"UPDATE {table} SET created_at = created_at - interval '2 minutes'")
        await self.services.maintain.keep_deadlines()

    async def replay(self, dead_letter_id: str) -> Replayed:
        return await manage_dead_letters(self.services).replay_one(dead_letter_id, dry_run=False, actor="tests")

    async def suspect(self, table: str) -> None:
        """As after the end of workers that held every row of the table, when their leases are over."""
        await self.services.database.system().execute(f"UPDATE {table} SET suspect = true")

    async def run_ends(self) -> None:
        """Wait until nothing runs on OpenCode, and tell the rows as the listener would."""
        await eventually_true(self._nothing_runs, what="the end of every run")
        await self.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")

    async def run_ends_on(self, instance_id: str) -> None:
        """The same where there are several servers, of one of them."""
        await eventually_true(lambda: self._nothing_runs(instance_id), what="the end of every run there")
        await self.services.database.system().execute(
            "UPDATE executions SET check_at = now() WHERE status = 'running' AND instance_id = %(id)s",
            {"id": instance_id},
        )

    async def _nothing_runs(self, instance_id: str | None = None) -> bool:
        (instance,) = [one for one in await self.services.instances.loads() if instance_id in {None, one.id}]
        server = self.services.servers.server(instance)
        everywhere = [None, *await self.services.keep_directories.loaded_on(instance)]
        return not any([await server.busy_sessions(directory) for directory in everywhere])

    async def answer_everything(self) -> None:
        """From stored events to told answers, each step once."""
        await self.take_events()
        await self.dispatch()
        await self.run_ends()
        await self.complete()
        await self.deliver()

    def replies(self, question: Message, *, channel: str = CHANNEL, team: str = TEAM) -> list[str]:
        """What the bot says in the thread of that message now."""
        found = self.slack.workspace(team).channels[channel]
        return [one.body for one in found.thread(question.root_ts) if one.bot_id is not None]

    async def statuses(self) -> list[str]:
        rows = await self.services.database.system().all("SELECT status FROM executions ORDER BY position")
        return [row["status"] for row in rows]

    async def one(self, statement: str) -> dict[str, object]:
        row = await self.services.database.system().one(statement)
        assert row is not None
        return row


class Pipeline(Steps):
    """With a simulated OpenCode server, which can be told to misbehave."""

    def __init__(self, services: Services, slack: SlackSimulator, opencode: RunningSimulator) -> None:
        super().__init__(services, slack)
        self.opencode = opencode


@pytest.fixture
async def pipeline(settings: Settings, slack: SlackSimulator, opencode: RunningSimulator) -> AsyncIterator[Pipeline]:
    async with wired_pipeline(settings, slack, opencode) as wired:
        yield wired


@asynccontextmanager
async def wired_pipeline(
    settings: Settings, slack: SlackSimulator, opencode: RunningSimulator
) -> AsyncIterator[Pipeline]:
    agents = ("Sisyphus - ultraworker", "build")
    async with open_services(settings, application_name="tests") as services:
        await found_organization(services, Instance(InstanceId("ins_1"), opencode.url, "", None, agents=agents))
        pipeline = Pipeline(services, slack, opencode)
        await pipeline.install()
        yield pipeline


async def gives_each_its_directory(services: Services, *, most: int = 20) -> None:
    """The server has just been heard of to make directories for organizations, and carries so many."""
    await services.database.system().execute(
        "UPDATE instances SET directories_path = '/srv/opencode/directories', max_directories = %(most)s",
        {"most": most},
    )


async def found_organization(services: Services, instance: Instance) -> None:
    """The organization, and an OpenCode server for it that has just been heard of."""
    await services.database.system().execute(
        "INSERT INTO organizations (id, name) VALUES (%(id)s, 'Pipeline')", {"id": ORGANIZATION}
    )
    await services.instances.add(instance, actor="tests")
    await services.instances.report_health(instance.id, healthy=True, detail="", version="", agents=instance.agents)
