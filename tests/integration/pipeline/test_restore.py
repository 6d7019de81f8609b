"""A backup by pg_dump, a lost database, a restore: the system goes on, and repeats nothing that it can look up."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from config.settings import Settings
from nubabel_workers.adapters.storage.restore import PostgresRestore
from nubabel_workers.bootstrap import open_services
from nubabel_workers.embedded.postgres import client_programs
from nubabel_workers.simulators.opencode.running import RunningSimulator
from nubabel_workers.simulators.slack.model import Message
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import PostgresServer, RedisServer
from tests.integration.pipeline.conftest import Pipeline

pytestmark = pytest.mark.integration


def run(program: str, *arguments: str) -> None:
    """As docs/operations.md says."""
    subprocess.run([client_programs() / program, *arguments], check=True, capture_output=True, env={**os.environ})


async def asked(pipeline: Pipeline, text: str) -> Message:
    question = await pipeline.mention(text)
    await pipeline.take_events()
    return question


async def work_for_a_while(pipeline: Pipeline) -> None:
    """Rounds of everything, as if the waits of all rows were over."""
    for _ in range(4):
        await pipeline.services.database.system().execute("UPDATE notifications SET not_before = now()")
        await pipeline.services.maintain.publish_overdue()
        await pipeline.services.maintain.reconcile()
        await pipeline.dispatch()
        await pipeline.run_ends()
        await pipeline.complete()
        await pipeline.deliver()


async def test_a_restored_system_goes_on_and_doubles_nothing(
    pipeline: Pipeline,
    settings: Settings,
    slack: SlackSimulator,
    opencode: RunningSimulator,
    postgres_server: PostgresServer,
    clean_redis: RedisServer,
    tmp_path: Path,
) -> None:
    finished = await asked(pipeline, "[[text=one]] finished before the backup")
    await work_for_a_while(pipeline)
    untold = await asked(pipeline, "[[text=two]] answered, not told")
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    running = await asked(pipeline, "[[text=three]] running")
    await pipeline.dispatch()
    waiting = await asked(pipeline, "[[text=four]] waiting")
    url = settings.database_url.get_secret_value()
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'backup'}", url)

    await work_for_a_while(pipeline)  # everything is answered after the backup
    lost = await asked(pipeline, "[[text=five]] came after the backup")
    await work_for_a_while(pipeline)
    postgres_server.drop_database(url)
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{urlsplit(url).path[1:]}"')
    run("pg_restore", "--exit-on-error", f"--dbname={url}", str(tmp_path / "backup"))
    clean_redis.flush()

    async with open_services(settings, application_name="tests") as services:
        restored = Pipeline(services, slack, opencode)
        report = await PostgresRestore(services.database).mark(actor="tests")
        await work_for_a_while(restored)

        assert (report.executions, report.notifications) == (2, 1)
        assert await restored.statuses() == ["completed"] * 4
    answers = [pipeline.replies(question) for question in (finished, untold, running, waiting, lost)]
    assert answers == [["one"], ["two"], ["three"], ["four"], ["five"]]
    runs = list(opencode.simulator.store.model_runs.values())
    assert sum(runs) == 6  # the waiting one ran again: nothing in the backup says that it had begun


async def test_isolation_survives_a_restore(
    settings: Settings,
    pipeline: Pipeline,
    postgres_server: PostgresServer,
    database_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'backup'}", settings.database_url.get_secret_value())
    copy = database_factory(template="template0")
    run("pg_restore", "--exit-on-error", f"--dbname={copy}", str(tmp_path / "backup"))

    name = urlsplit(copy).path.removeprefix("/")
    with psycopg.connect(postgres_server.url(name, user="nubabel_tenant")) as tenant:
        unscoped = tenant.execute("SELECT count(*) FROM organizations").fetchone()
    with psycopg.connect(postgres_server.url(name, user="nubabel_system")) as system:
        everything = system.execute("SELECT count(*) FROM organizations").fetchone()

    assert (unscoped, everything) == ((0,), (1,))
