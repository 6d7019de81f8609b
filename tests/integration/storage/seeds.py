"""Rows that storage tests start from, written with the owner's rights through the system role."""

from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import SecretStr

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.administration import Installation

_BOT_TOKEN = SecretStr("xoxb-1")


async def add_organization(database: Database, organization_id: str, name: str = "") -> str:
    await database.system().execute(
        "INSERT INTO organizations (id, name) VALUES (%(id)s, %(name)s)",
        {"id": organization_id, "name": name or organization_id},
    )
    return organization_id


@dataclass
class ExecutionSeed:
    id: str
    organization_id: str
    status: str = "queued"
    session_id: str = ""
    workspace_id: str | None = None
    instance_id: str | None = None
    prompt: str = "hello"
    columns: dict[str, Any] = field(default_factory=dict)


async def add_execution(database: Database, seed: ExecutionSeed) -> str:
    """With a session of its own unless session_id names one."""
    session_id = seed.session_id or f"ses_of_{seed.id}"
    system = database.system()
    await system.execute(
        """INSERT INTO sessions (id, organization_id, session_key, source)
           VALUES (%(id)s, %(organization)s, %(id)s, 'api') ON CONFLICT DO NOTHING""",
        {"id": session_id, "organization": seed.organization_id},
    )
    values = {
        "id": seed.id,
        "organization_id": seed.organization_id,
        "session_id": session_id,
        "source": "api",
        "status": seed.status,
        "prompt": seed.prompt,
        "workspace_id": seed.workspace_id,
        "instance_id": seed.instance_id,
        "reply": Jsonb({"kind": "none"}),
        "idempotency_key": f"key:{seed.id}",
        "request_hash": "",
        "message_created_ms": 0,
        "answer_by": "2999-01-01T00:00:00Z",
        **seed.columns,
    }
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    await system.execute(f"INSERT INTO executions ({names}) VALUES ({places})", values)
    return seed.id


def installation(
    team_id: str | None = "T1", enterprise_id: str | None = None, *, bot_token: SecretStr = _BOT_TOKEN
) -> Installation:
    return Installation(
        team_id=team_id,
        enterprise_id=enterprise_id,
        team_name="Acme",
        bot_user_id="UBOT",
        bot_token=bot_token,
        bot_id="BBOT",
        scopes=("chat:write", "reactions:write"),
    )
