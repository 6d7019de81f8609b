"""Two organizations on one installation. One attacks; everything of the other bears a word that nobody else knows."""

import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import redis.asyncio as redis
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.administration import AuditAction, AuditEntry, Installation
from nubabel_workers.domain.credentials import hash_token
from nubabel_workers.domain.limits import checked_change
from nubabel_workers.domain.progress import ProgressSource, ToolProgress
from nubabel_workers.gateway.dependencies import GatewayLimits
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.services.manage_tokens import ManageSubmitKeys
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from tests.conftest import RedisServer
from tests.fakes.callbacks import signed_headers
from tests.integration.gateway.conftest import Gateway, served
from tests.integration.mcp.tool_server import HttpToolServer
from tests.waiting import eventually_true

ATTACKER = "org_attacker"
VICTIM = "org_victim"
CANARY = "kanarienvogel-7f3a9c"  # in everything that the victim says, is told, or is called

_ID = re.compile(r"(?:exe|bat|ses|tc|ntf|dlq|mcp|mca|wsp|tok|key|inb|msg|prt|ins)_[0-9A-Za-z_-]{6,}")
_LIMITS = GatewayLimits(stream_row_check_s=0.2, delegate_wait_s=0.01, sidecar_wait_s=0.01)
_REFUSALS = {
    AuditAction.FOREIGN_ID_NAMED,
    AuditAction.IDENTITY_REFUSED,
    AuditAction.CALLBACK_REFUSED,
    AuditAction.FOREIGN_SESSION,
}
_BEHIND_THE_SCENES = frozenset({"audit_log"})  # what is tried against an organization is written down there


@dataclass
class Side:
    """One organization, its server and what it has. Sessions and executions by what they are doing."""

    id: str
    server: str
    token: str = ""
    actor: str = ""  # as the audit log says it of whoever has that token
    callback_key: SecretStr | None = None
    submit_key_id: str = ""
    submit_secret: SecretStr | None = None
    executions: dict[str, str] = field(default_factory=dict)  # completed, running, queued -> id
    sessions: dict[str, str] = field(default_factory=dict)
    opencode_sessions: dict[str, str] = field(default_factory=dict)
    connection: str = ""
    provider: str = ""
    call: str = ""
    dead_letter: str = ""
    batch: str = ""
    team: str = ""

    def word(self, what: str) -> str:
        """What this organization says; the victim's is unmistakable."""
        return f"{CANARY}-{what}" if self.id == VICTIM else f"harmless-{what}"

    @property
    def key(self) -> str:
        """Its own name for a request."""
        return self.word("key")


@dataclass(frozen=True)
class Belongings:
    """Everything of one organization, as it is stored."""

    rows: frozenset[str]
    cached: frozenset[tuple[bytes, bytes]]


class World:
    """raw_cache: the gateway's own cache, whose values are taken as they are."""

    def __init__(
        self, gateway: Gateway, http: httpx.AsyncClient, raw_cache: "redis.Redis", attacker: Side, victim: Side
    ) -> None:
        self.gateway = gateway
        self._raw_cache = raw_cache
        self.services: Services = gateway.services
        self.http = http
        self.attacker = attacker
        self.victim = victim
        self._secrets: frozenset[str] = frozenset()
        self._attackers_own: list[str] = []

    async def learn(self) -> None:
        """What must not be seen: the word, and every id of the victim."""
        rows = [row async for row in self._rows(VICTIM, TENANT_TABLES)]
        self._secrets = frozenset({CANARY, VICTIM, *(one for row in rows for one in _ID.findall(row))})
        own = self.attacker
        self._attackers_own = [*own.executions.values(), *own.sessions.values(), own.connection, own.batch]

    async def belongings(self) -> Belongings:
        tables = [table for table in TENANT_TABLES if table not in _BEHIND_THE_SCENES]
        rows = frozenset([row async for row in self._rows(VICTIM, tables)])
        keys = [key async for key in self._raw_cache.scan_iter("nubabel:*") if self._is_victims(key)]
        return Belongings(rows, frozenset([(key, bytes(await self._raw_cache.dump(key) or b"")) for key in keys]))

    def _is_victims(self, key: bytes) -> bool:
        return VICTIM.encode() in key and b":window:" not in key

    async def _rows(self, organization_id: str, tables: Collection[str]) -> AsyncIterator[str]:
        every = " UNION ALL ".join(
            f"SELECT '{table} ' || to_jsonb(t)::text AS row FROM {table} t"
            f" WHERE {'id' if table == 'organizations' else 'organization_id'} = %(id)s"
            for table in tables
        )
        for row in await self.services.database.system().all(every, {"id": organization_id}):
            yield row["row"]

    async def tables_of(self, organization_id: str) -> set[str]:
        return {row.partition(" ")[0] async for row in self._rows(organization_id, TENANT_TABLES)}

    async def audited(self) -> list[tuple[str, str, str]]:
        """Who did what, and whose it was: also what is looked up behind the answers."""
        await self.services.foreign_ids.settled()
        found = await self.services.database.system().all(
            "SELECT actor, action, organization_id FROM audit_log ORDER BY id"
        )
        return [(row["actor"], row["action"], row["organization_id"]) for row in found]

    async def refusals(self) -> list[AuditEntry]:
        """What was refused to somebody for whom he is, or whose it is; the oldest first."""
        await self.services.foreign_ids.settled()
        entries = await PostgresAuditTrail(self.services.database).list(organization_id=None, limit=10_000)
        return [entry for entry in reversed(entries) if entry.action in _REFUSALS]

    def leaks(self, text: str, *, sent: Collection[str] = ()) -> list[str]:
        """What of the victim's stands in this text, apart from what the attacker had said himself."""
        for one in sorted(sent, key=len, reverse=True):
            text = text.replace(one, "")
        return [one for one in self._secrets if one in text]

    async def clean_up(self) -> None:
        """What earlier attempts left behind with the attacker, so that each is the first; and how many there were."""
        left = {"organization": ATTACKER, "own": self._attackers_own}
        for table in ("executions", "sessions", "mcp_connections", "execution_groups"):
            await self.services.database.system().execute(
                f"DELETE FROM {table} WHERE organization_id = %(organization)s AND NOT id = ANY(%(own)s)", left
            )
        patterns = ("nubabel:window:*", f"nubabel:progress:{ATTACKER}:*")
        keys = [key for pattern in patterns async for key in self._raw_cache.scan_iter(pattern)]
        if keys:
            await self._raw_cache.delete(*keys)

    async def callback(
        self, path: str, body: Any, *, key: SecretStr | None, instance: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """As the plugin of an OpenCode server sends it."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        assert key is not None
        nonce = secrets.token_hex(12)
        signed = signed_headers(path, raw, key, now_s=int(time.time()), instance=instance, nonce=nonce)
        return await self.http.post(self.gateway.url + path, content=raw, headers={**signed, **(headers or {})})


def strings_of(value: Any) -> Iterator[str]:
    """Every text in it, keys too."""
    match value:
        case str():
            yield value
        case Mapping():
            for key, one in value.items():
                yield from strings_of(key)
                yield from strings_of(one)
        case list() | tuple():
            for one in value:
                yield from strings_of(one)


@asynccontextmanager
async def open_world(database_url: str, stores: RedisServer) -> AsyncIterator[World]:
    tools = HttpToolServer(tokens={f"token-of-{ATTACKER}", f"{CANARY}-token"})
    async with (
        tools.running(),
        simulator(SimulatorConfig()) as attackers,
        simulator(SimulatorConfig()) as victims,
        open_services(_settings(database_url, stores), application_name="tests") as services,
        served(services, _LIMITS) as gateway,
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
        redis.Redis.from_url(stores.cache_url) as raw_cache,
    ):
        world = World(gateway, http, raw_cache, Side(ATTACKER, "ins_attacker"), Side(VICTIM, "ins_victim"))
        for side, server in ((world.victim, victims), (world.attacker, attackers)):
            await _furnish(world, side, server, tools)
        await world.learn()
        yield world


def _settings(database_url: str, stores: RedisServer) -> Settings:
    return Settings(
        _env_file=None,
        environment="development",
        database_url=SecretStr(database_url),
        broker_url=SecretStr(stores.broker_url),
        cache_url=SecretStr(stores.cache_url),
        encryption_keys=(generate_key(),),
        database_pool_min=0,
        egress_allow=("127.0.0.1",),
        public_url="https://nubabel.example.com",
    )


async def _furnish(world: World, side: Side, server: RunningSimulator, tools: HttpToolServer) -> None:
    """Everything that an organization can have, by the ways by which it comes to have it."""
    services = world.services
    side.token = await world.gateway.organization(side.id)
    token = await services.tenants.token(hash_token(side.token))
    assert token is not None
    side.actor = f"token:{token.id}"
    organizations = PostgresOrganizations(services.database, services.cipher)
    await organizations.set_limits(side.id, checked_change({"cost_per_day": 1000.0}), actor="tests")
    services.tenants._organizations.clear()  # heard of at once
    await services.database.system().execute(
        "INSERT INTO instances (id, organization_id, url, agents) VALUES (%(id)s, %(o)s, %(url)s, %(agents)s)",
        {"id": side.server, "o": side.id, "url": server.url, "agents": '["Sisyphus - ultraworker", "build"]'},
    )
    await services.database.system().execute(
        "UPDATE organizations SET servers = 'dedicated' WHERE id = %(o)s", {"o": side.id}
    )
    services.executions._turns._good_until = 0.0  # heard of at once as well
    side.callback_key = await ManageCallbackKeys(services.instances, secrets.token_bytes).create(
        side.server, actor="tests"
    )
    organization = await services.tenants.organization(side.id)
    assert organization is not None
    access = PostgresAccess(services.database, services.cipher)
    issued = await ManageSubmitKeys(access, services.chance, secrets.token_bytes).create(
        "tests", organization=organization, actor="tests"
    )
    side.submit_key_id, side.submit_secret = issued.key.id, issued.text
    await organizations.set_webhook_secret(side.id, SecretStr(side.word("secret")), overlap_s=0, actor="tests")
    await _connect_tools(world, side, tools)
    await _run_executions(world, side)
    await _call_a_tool(world, side)
    await _set_the_rest(world, side)


async def _connect_tools(world: World, side: Side, tools: HttpToolServer) -> None:
    side.provider = side.word("tools")
    token = f"{CANARY}-token" if side.id == VICTIM else f"token-of-{side.id}"
    answer = await world.http.post(
        f"{world.gateway.url}/v1/connections",
        json={"url": tools.url, "provider": side.provider, "authentication": "token", "token": token},
        headers=bearer(side.token),
    )
    assert answer.status_code == 201, answer.text
    side.connection = answer.json()["id"]


async def _run_executions(world: World, side: Side) -> None:
    """One that has ended, one that goes on, and one that waits behind it."""
    for what, prompt in (("completed", ""), ("running", "[[hang]] "), ("queued", "")):
        key = side.key if what == "completed" else f"{side.key}-{what}"
        asked = {
            "prompt": f"{prompt}{side.word('prompt')} {what}",
            "session_key": side.word(f"conversation-{'running' if what == 'queued' else what}"),
            "user_id": side.word("user"),
            "metadata": {"note": side.word("metadata")},
            "callback_url": f"https://127.0.0.1:1/{side.word('callback')}",
        }
        answer = await world.http.post(
            f"{world.gateway.url}/v1/executions",
            json=asked,
            headers=bearer(side.token) | {"idempotency-key": key},
        )
        assert answer.status_code == 202, answer.text
        side.executions[what] = answer.json()["id"]
        side.sessions[what] = answer.json()["session_id"]
        if what != "queued":
            await world.services.dispatch_executions.run()
        if what == "completed":
            await _ends(world, side)
    await world.services.database.system().execute(
        "UPDATE executions SET check_at = '9999-01-01Z' WHERE id = %(id)s", {"id": side.executions["running"]}
    )
    for what in ("completed", "running"):
        row = await world.services.database.system().one(
            "SELECT opencode_session_id FROM sessions WHERE id = %(id)s", {"id": side.sessions[what]}
        )
        assert row is not None
        side.opencode_sessions[what] = row["opencode_session_id"]
    await world.services.progress.tell(
        side.id,
        side.executions["running"],
        [ToolProgress(side.opencode_sessions["running"], "call_1", "bash", "running", side.word("title"))],
        ProgressSource.LISTENER,
    )


async def _ends(world: World, side: Side) -> None:
    async def completed() -> bool:
        await world.services.database.system().execute(
            "UPDATE executions SET check_at = now() WHERE id = %(id)s AND status = 'running'",
            {"id": side.executions["completed"]},
        )
        await world.services.complete_executions.run(side.executions["completed"])
        found = await world.services.read_execution.by_id(side.id, side.executions["completed"])
        return found.status.value == "completed"

    await eventually_true(completed, what="the first answer")


async def _call_a_tool(world: World, side: Side) -> None:
    side.call = side.word("call")
    answer = await world.callback(
        "/api/sidecar/mcp/invoke",
        {
            "session_id": side.opencode_sessions["running"],
            "call_id": side.call,
            "tool_name": "look",
            "arguments": {"name": side.word("argument")},
        },
        key=side.callback_key,
        instance=side.server,
    )
    assert answer.json()["ok"], answer.text


async def _set_the_rest(world: World, side: Side) -> None:
    """What only Slack, browsers and failures bring about, written as they leave it."""
    new_id = world.services.chance.new_id
    workspace, side.dead_letter, side.batch = new_id("wsp"), new_id("dlq"), new_id("bat")
    side.team = side.word("team")
    values = {
        "o": side.id,
        "server": side.server,
        "workspace": workspace,
        "event": new_id("inb"),
        "dead_letter": side.dead_letter,
        "batch": side.batch,
        "key": f"key:{side.key}",
        "authorization": new_id("mca"),
        "connection": side.connection,
        "execution": side.executions["completed"],
        "queued": side.executions["queued"],
        "notification": new_id("ntf"),
        "text": side.word("text"),
        "json": json.dumps({"text": side.word("text")}),
    }
    installation = Installation(
        team_id=side.team,
        enterprise_id=None,
        team_name=side.word("workspace"),
        bot_user_id="UBOT",
        bot_token=SecretStr(f"xoxb-{side.word('token')}"),
        bot_id="BBOT",
        scopes=("chat:write",),
    )
    workspaces = PostgresWorkspaces(world.services.database, world.services.cipher)
    assert await workspaces.save(side.id, workspace, installation, actor="tests") is not None
    for statement in (
        """INSERT INTO inbound_events (id, organization_id, workspace_id, provider_event_id, dedupe_key,
                                       conversation_key, kind, event, status)
           VALUES (%(event)s, %(o)s, %(workspace)s, %(event)s, %(text)s::text, %(text)s::text, 'mention',
                   %(json)s::jsonb, 'done')""",
        """INSERT INTO dead_letters (id, organization_id, queue, task, reason, error, subject_kind, payload)
           VALUES (%(dead_letter)s, %(o)s, 'q', 't', 'invalid', %(text)s::text, 'message', %(text)s::text)""",
        """INSERT INTO mcp_authorizations (id, organization_id, connection_id, state_hash, terms, secrets, actor,
                                           expires_at)
           VALUES (%(authorization)s, %(o)s, %(connection)s, convert_to(%(text)s::text, 'UTF8'), %(json)s::jsonb, '',
                   %(text)s::text,
                   now() + interval '1 hour')""",
        """INSERT INTO notifications (id, organization_id, execution_id, kind, dedupe, destination, payload, status)
           VALUES (%(notification)s, %(o)s, %(execution)s, 'progress', %(text)s::text, %(json)s::jsonb, %(json)s::jsonb,
                   'sent')""",
        """INSERT INTO execution_groups (id, organization_id, reply, idempotency_key, request_hash)
           VALUES (%(batch)s, %(o)s, %(json)s::jsonb, %(key)s, %(text)s::text)""",
        """INSERT INTO instance_directories (instance_id, organization_id, path, state)
           VALUES (%(server)s, %(o)s, %(text)s::text, 'disposed')""",
        "UPDATE executions SET group_id = %(batch)s WHERE id IN (%(execution)s, %(queued)s)",
    ):
        await world.services.database.system().execute(statement, values)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
