"""Fixtures shared by all tests: a real Valkey and a real PostgreSQL, started once per run, only if a test asks.

NUBABEL_TEST_REDIS_URL and NUBABEL_TEST_DATABASE_URL let the tests use servers from outside instead: the Redis
databases of that URL's number and the next one are FLUSHED before each test, and the PostgreSQL user must be a
superuser (tests create and drop databases named nubabel_test_*).
"""

import gc
import itertools
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from psycopg import sql

from nubabel_workers.adapters.storage import schema
from nubabel_workers.embedded.postgres import EmbeddedPostgres
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.reused_database import ReusedDatabase
from tests.tenancy.matrix import table, tried

_SHARED_NAMES = pytest.StashKey[set[str]]()
_database_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing of what is collected is garbage, and there is much to look through, which took a quarter of the time
    of unit tests. From then on only what a test makes is looked through.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True)
class RedisServer:
    """Broker and cache of the tests: two databases of one server."""

    broker_url: str
    cache_url: str

    def flush(self) -> None:
        for url in (self.broker_url, self.cache_url):
            with redis.Redis.from_url(url) as client:
                client.flushdb()


@dataclass(frozen=True)
class PostgresServer:
    """The cluster of the tests, by a superuser's URL."""

    admin_url: str

    def url(self, database: str, *, user: str | None = None) -> str:
        """The URL of a database, optionally for another role (trusted without a password when embedded)."""
        parts = urlsplit(self.admin_url)
        netloc = parts.netloc if user is None else f"{user}@{parts.netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    def create_database(self, *, template: str = "template1") -> str:
        """A new database's URL. The template must have no open sessions."""
        name = f"nubabel_test_{os.getpid()}_{next(_database_numbers)}"
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database of that URL and end the sessions that use it."""
        name = urlsplit(url).path.removeprefix("/")
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = Counter(item.nodeid for item in items)
    config.stash[_SHARED_NAMES] = {name for name, tests in names.items() if tests > 1}
    if not config.getoption("loadscopereorder", default=True):  # xdist's own order was not wanted
        items[:] = _longest_first(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    attempts = tried(report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ()))
    if attempts:
        terminalreporter.section("attempts to reach another organization: door, position of the id, seen, methods")
        for line in table(attempts):
            terminalreporter.write_line(line)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.nodeid in item.config.stash[_SHARED_NAMES]:
        pytest.fail("several tests have this name, of which xdist would run only one: give them a parameter")


def _longest_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """By file: those that may take longest, then those with most tests.

    One that takes long and is begun last has a core to itself, and the other one rests.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    return list(chain(*sorted(files.values(), key=lambda tests: (-max(map(_time_limit_s, tests)), -len(tests)))))


def _time_limit_s(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    seconds = limit.args[0] if limit is not None else item.config.getini("timeout")
    return float(seconds) or math.inf  # 0: no limit


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary directory with a short path, as unix sockets need it, that other users can walk through."""
    directory = Path(tempfile.mkdtemp(prefix="nbt-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """Where the session's servers keep their data."""
    directory = Path(tempfile.mkdtemp(prefix="nbt-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    outside = os.environ.get("NUBABEL_TEST_REDIS_URL")
    if outside:
        parts = urlsplit(outside)
        number = int(parts.path.removeprefix("/") or 0)
        yield RedisServer(
            urlunsplit(parts._replace(path=f"/{number}")), urlunsplit(parts._replace(path=f"/{number + 1}"))
        )
        return
    with EmbeddedValkey(request.getfixturevalue("server_dir") / "valkey") as valkey:
        yield RedisServer(valkey.broker_url, valkey.cache_url)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    outside = os.environ.get("NUBABEL_TEST_DATABASE_URL")
    if outside:
        yield PostgresServer(outside)
        return
    postgres = EmbeddedPostgres(request.getfixturevalue("server_dir") / "pg", durable=False)
    postgres.start()
    try:
        yield PostgresServer(postgres.url())
    finally:
        postgres.destroy()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with all tables, to make others from."""
    url = postgres_server.create_database()
    schema.upgrade(url)
    yield urlsplit(url).path.removeprefix("/")
    postgres_server.drop_database(url)


@pytest.fixture
def clean_redis(redis_server: RedisServer) -> RedisServer:
    """Broker and cache, both empty."""
    redis_server.flush()
    return redis_server


@pytest.fixture
def broker_url(clean_redis: RedisServer) -> str:
    return clean_redis.broker_url


@pytest.fixture
def cache_url(clean_redis: RedisServer) -> str:
    return clean_redis.cache_url


@pytest.fixture
def database_factory(postgres_server: PostgresServer) -> Iterator[Callable[..., str]]:
    """create(template=...) gives the URL of a new database, dropped after the test."""
    created: list[str] = []

    def create(*, template: str = "template1") -> str:
        created.append(postgres_server.create_database(template=template))
        return created[-1]

    yield create
    for url in created:
        postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def reused_database(postgres_server: PostgresServer, migrated_template: str) -> Iterator[ReusedDatabase]:
    reused = ReusedDatabase(
        lambda: postgres_server.create_database(template=migrated_template), postgres_server.drop_database
    )
    yield reused
    reused.close()


@pytest.fixture
def database_url(reused_database: ReusedDatabase) -> str:
    """The owner's URL of a migrated database without rows."""
    return reused_database.empty()


@pytest.fixture
def empty_database_url(database_factory: Callable[..., str]) -> str:
    return database_factory()
