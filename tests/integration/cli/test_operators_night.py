"""The command line on a real PostgreSQL and a real Valkey, wired as in production."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
import psycopg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from nubabel_workers.cli import command_settings
from nubabel_workers.cli.main import app
from tests.conftest import RedisServer

pytestmark = pytest.mark.integration


class Shell:
    """Types commands with an installation's settings in the environment."""

    def __init__(self, database_url: str, redis: RedisServer) -> None:
        self.database_url = database_url
        key = CliRunner().invoke(app, ["keys", "generate"]).stdout.strip()
        self.environment = {
            "NUBABEL_ENVIRONMENT": "development",
            "NUBABEL_DATABASE_URL": database_url,
            "NUBABEL_TENANT_DATABASE_URL": _as("nubabel_tenant", database_url),
            "NUBABEL_SYSTEM_DATABASE_URL": _as("nubabel_system", database_url),
            "NUBABEL_BROKER_URL": redis.broker_url,
            "NUBABEL_CACHE_URL": redis.cache_url,
            "NUBABEL_ENCRYPTION_KEYS": key,
        }

    def type(self, *words: str, typed: str | None = None) -> Result:
        with capture_logs():
            return CliRunner().invoke(app, list(words), input=typed, env=self.environment, prog_name="nubabel")

    def json(self, *words: str) -> Any:
        result = self.type(*words, "--json")
        assert result.exit_code == 0, result.output
        return orjson.loads(result.stdout)


def _as(role: str, url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:p%40ss@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of a developer
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)  # the test run has its own


@pytest.fixture
def shell(empty_database_url: str, clean_redis: RedisServer) -> Shell:
    return Shell(empty_database_url, clean_redis)


@pytest.fixture
def acme(database_url: str, clean_redis: RedisServer) -> Shell:
    """An installation with one organization. The tables are there already; `migrate` gives the roles passwords."""
    shell = Shell(database_url, clean_redis)
    assert shell.type("migrate").exit_code == 0
    assert shell.type("orgs", "create", "Acme").exit_code == 0
    return shell


def test_an_installation_is_set_up_from_nothing_with_the_doctors_help(shell: Shell) -> None:
    before = {one["name"]: one["ok"] for one in orjson.loads(shell.type("doctor", "--json").stdout)}

    assert shell.json("migrate")["passwords_set"] == ["nubabel_tenant", "nubabel_system"]
    after = {one["name"]: one["ok"] for one in orjson.loads(shell.type("doctor", "--json").stdout)}

    assert not before["schema"]
    assert [name for name, ok in after.items() if not ok] == ["OpenCode"]  # no server is registered yet
    assert after["tenant isolation"]
    assert after["broker memory"]


def test_a_schema_of_the_past_is_a_finding(acme: Shell) -> None:
    with psycopg.connect(acme.database_url) as connection:
        connection.execute("DELETE FROM alembic_version")

    result = acme.type("doctor")

    assert result.exit_code == 1
    assert "the schema is at revision none" in result.stdout
    assert "→ run: nubabel migrate" in result.stdout


def test_going_down_to_nothing_leaves_nothing(acme: Shell) -> None:
    acme.type("migrate", "down", "--to", "base", "--yes")

    assert acme.type("migrate", "status").stdout.startswith("the schema is at revision none")
    with psycopg.connect(acme.database_url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert rows == [("alembic_version",)]


def test_a_request_is_enqueued_shown_and_cancelled(acme: Shell) -> None:
    execution_id = acme.json("enqueue", "왜 이렇게 오래 걸리나요?", "--org", "acme")["execution_id"]

    shown = acme.type("executions", "show", execution_id)
    cancelled = acme.type("executions", "cancel", execution_id)

    assert "waited for its turn" in shown.stdout
    assert "왜 이렇게 오래 걸리나요?" in acme.type("executions", "list", "--org", "acme").stdout
    assert acme.type("tool-calls", "list", "--org", "acme", "--execution", execution_id).stdout == "no tool calls\n"
    assert cancelled.stdout == f"cancelled {execution_id}\n"
    assert "cancelled by an operator" in acme.type("executions", "show", execution_id).stdout


def test_credentials_are_created_listed_and_revoked(acme: Shell) -> None:
    issued = acme.json("tokens", "create", "ci", "--org", "acme", "--days", "1")
    key = acme.json("submit-keys", "create", "etl", "--org", "acme")

    acme.type("tokens", "revoke", issued["token"]["id"])
    acme.type("submit-keys", "revoke", key["key"]["id"])

    assert "revoked" in acme.type("tokens", "list").stdout
    assert "revoked" in acme.type("submit-keys", "list", "--org", "acme").stdout
    actions = [entry["action"] for entry in acme.json("audit", "--org", "acme")]
    assert actions == [
        "submit_key.revoked",
        "token.revoked",
        "submit_key.created",
        "token.created",
        "organization.created",
    ]


def test_keys_are_replaced_while_secrets_stay_readable(acme: Shell) -> None:
    acme.type("webhooks", "secret", "acme")
    new = acme.type("keys", "generate").stdout.strip()
    acme.environment["NUBABEL_ENCRYPTION_KEYS"] = f"{new},{acme.environment['NUBABEL_ENCRYPTION_KEYS']}"

    assert acme.json("keys", "rotate")["rotated"] == 1
    acme.environment["NUBABEL_ENCRYPTION_KEYS"] = new

    again = acme.json("keys", "rotate")
    assert (again["rotated"], again["current"], again["unreadable"]) == (0, 1, [])


def test_a_server_is_registered_although_it_does_not_answer_yet(acme: Shell) -> None:
    added = acme.type("instances", "add", "http://127.0.0.1:9", "--password-stdin", typed="pw\n")

    assert added.exit_code == 1  # added, and told that it is unfit
    assert "unfit" in acme.type("instances", "list").stdout
    instance_id = acme.json("instances", "list")[0]["id"]
    assert acme.type("instances", "remove", instance_id).exit_code == 0


@pytest.fixture
def failed(acme: Shell) -> Callable[[str], str]:
    """fail(status) makes an execution that ended so, with a dead letter; the dead letter's id."""

    def fail(status: str) -> str:
        execution_id = acme.json("enqueue", "hello", "--org", "acme")["execution_id"]
        with psycopg.connect(acme.database_url) as connection:
            connection.execute(
                "UPDATE executions SET status = %s, finished_at = now() WHERE id = %s", (status, execution_id)
            )
            connection.execute(
                """INSERT INTO dead_letters (id, organization_id, queue, task, reason, error, subject_kind, subject_id)
                   SELECT 'dlq_' || id, organization_id, 'orchestration', 'orchestration.dispatch',
                          'attempts-exhausted', 'HTTP 503', 'execution', id FROM executions WHERE id = %s""",
                (execution_id,),
            )
        return f"dlq_{execution_id}"

    return fail


def test_what_was_set_aside_is_looked_at_and_replayed(acme: Shell, failed: Callable[[str], str]) -> None:
    dead_letter_id = failed("failed")
    grouped = acme.type("dead-letters", "list").stdout

    replayed = acme.type("dead-letters", "replay", "--reason", "attempts-exhausted")

    assert "1  attempts-exhausted" in grouped
    assert replayed.stdout == "replayed 1\n"
    assert acme.type("dead-letters", "list").stdout == "no open dead letters\n"
    story = acme.type("executions", "show", dead_letter_id.removeprefix("dlq_")).stdout
    assert "replayed by cli:" in story
    assert "queued" in story


def test_what_succeeded_since_is_not_replayed(acme: Shell, failed: Callable[[str], str]) -> None:
    dead_letter_id = failed("completed")

    assert "nothing to do" in acme.type("dead-letters", "replay", dead_letter_id).stdout

    assert acme.json("executions", "list")[0]["status"] == "completed"


def test_a_broker_that_is_away_stops_no_request(acme: Shell) -> None:
    acme.environment["NUBABEL_BROKER_URL"] = "redis://127.0.0.1:9/0"

    accepted = acme.type("enqueue", "hello", "--org", "acme")

    assert accepted.exit_code == 0  # stored; the scheduler publishes the hint later
    assert "the broker cannot be reached" in acme.type("doctor").stdout


def test_a_key_that_is_missing_is_told_once_and_nothing_else_is_blamed(acme: Shell) -> None:
    acme.type("instances", "add", "http://127.0.0.1:9", "--password-stdin", typed="pw\n")
    right = acme.environment["NUBABEL_ENCRYPTION_KEYS"]
    acme.environment["NUBABEL_ENCRYPTION_KEYS"] = acme.type("keys", "generate").stdout.strip()

    told = acme.type("doctor").stdout
    rotated = acme.type("keys", "rotate")

    assert "1 of 1 stored secrets were encrypted with a key that is not in NUBABEL_ENCRYPTION_KEYS" in told
    assert told.count("put that key back") == 1
    assert "not looked at: its stored secret cannot be decrypted" in told
    assert "password" not in told
    assert (rotated.exit_code, rotated.stderr.count("put that key back")) == (1, 1)
    acme.environment["NUBABEL_ENCRYPTION_KEYS"] += f",{right}"
    assert acme.json("keys", "rotate")["rotated"] == 1
