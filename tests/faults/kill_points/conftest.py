"""One campaign for all tests of this folder; its table is printed at the end of the run."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from nubabel_workers.adapters.storage import schema
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.conftest import PostgresServer
from tests.faults.kill_points.campaign import Campaign, run_campaign
from tests.faults.kill_points.lane import Stores
from tests.faults.kill_points.processes import forking
from tests.faults.kill_points.table import table

_LANES = 8  # four per core: most of a case is waiting
_TABLE = pytest.StashKey[list[str]]()


class LaneStores:
    """Empty stores for each lane: a copy of a migrated database, and a Valkey, whose channels have no databases."""

    def __init__(self, postgres: PostgresServer, directory: Path) -> None:
        self._postgres = postgres
        self._directory = directory
        self._template = postgres.create_database()
        self._made = [self._template]
        self._valkeys: dict[int, EmbeddedValkey] = {}
        schema.upgrade(self._template)

    def new(self, lane: int) -> Stores:
        database = self._postgres.create_database(template=urlsplit(self._template).path.removeprefix("/"))
        self._made.append(database)
        valkey = self._valkeys.get(lane)
        if valkey is None:
            valkey = self._valkeys[lane] = EmbeddedValkey(self._directory / f"valkey{lane}")
            valkey.start()
        with redis.Redis.from_url(valkey.broker_url) as client:
            client.flushall()
        return Stores(database, valkey.broker_url, valkey.cache_url)

    def close(self) -> None:
        for valkey in self._valkeys.values():
            valkey.stop()
        for url in self._made:
            self._postgres.drop_database(url)


@pytest.fixture(scope="module")
def lane_stores(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaneStores]:
    stores = LaneStores(postgres_server, tmp_path_factory.mktemp("stores"))
    yield stores
    stores.close()


@pytest.fixture(scope="module")
def campaign(
    request: pytest.FixtureRequest, lane_stores: LaneStores, tmp_path_factory: pytest.TempPathFactory
) -> Campaign:
    directory: Path = tmp_path_factory.mktemp("kill-points")
    played = asyncio.run(run_campaign(forking(), lane_stores.new, directory, lanes=_LANES))
    request.config.stash[_TABLE] = list(table(played))
    return played


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_TABLE, [])
    if lines:
        terminalreporter.section("kill points")
    for line in lines:
        terminalreporter.write_line(line)
