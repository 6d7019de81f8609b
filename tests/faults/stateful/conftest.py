"""One world for all examples: a database and the loop on which everything runs."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import structlog
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage import schema
from nubabel_workers.adapters.storage.brief_cache import BriefCache
from nubabel_workers.adapters.storage.encryption import generate_key
from tests.faults.stateful import stopped_clock
from tests.faults.stateful.stepping import SteppableLoop
from tests.faults.stateful.world import World, open_world


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """Thousands of examples make millions of lines."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def world(
    database_factory: Callable[[], str], quiet_log: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[asyncio.Runner, World]]:
    url = database_factory()
    stopped_clock.install(url)
    schema.upgrade(url)
    settings = Settings(
        _env_file=None,
        environment="development",
        database_url=SecretStr(url),
        broker_url=SecretStr("redis://127.0.0.1:1/0"),  # nobody goes there
        cache_url=SecretStr("redis://127.0.0.1:1/1"),
        encryption_keys=(generate_key(),),
        database_pool_min=4,
        database_pool_max=4,
        answer_by_s=600,
        run_deadline_s=300,
        retry_slack_events_max_attempts=3,
        retry_orchestration_max_attempts=3,
        retry_notifications_max_attempts=5,
        retry_orchestration_max_wait_s=20,
        retry_notifications_max_wait_s=20,
    )
    monkeypatch.setattr(BriefCache, "get", lambda *_: None)  # it forgets by real time
    with asyncio.Runner(loop_factory=SteppableLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SteppableLoop)
        loop.set_exception_handler(lambda *_: None)  # killed tasks are asked by nobody
        stack = AsyncExitStack()
        yield runner, runner.run(stack.enter_async_context(open_world(settings, loop, url)))
        runner.run(stack.aclose())
