"""Session mappings survive the cache, and a lost session is forgotten in both directions."""

import pytest

from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline

pytestmark = pytest.mark.integration


async def answered(pipeline: Pipeline) -> dict[str, object]:
    await pipeline.mention("hello")
    await pipeline.answer_everything()
    await pipeline.services.database.system().execute("UPDATE sessions SET opencode_directory = '/srv/one'")
    await pipeline.services.cache.flushdb()
    return await pipeline.one("SELECT id, opencode_session_id FROM sessions")


async def test_a_wiped_cache_is_filled_again_from_either_side(pipeline: Pipeline) -> None:
    session = await answered(pipeline)
    mappings = pipeline.services.mappings

    backward = await mappings.session_of("ins_1", str(session["opencode_session_id"]))
    forward = await mappings.find(ORGANIZATION, str(session["id"]))

    assert backward == (ORGANIZATION, session["id"])
    assert forward is not None
    assert forward.directory == "/srv/one"


async def test_a_forgotten_session_is_nobodys(pipeline: Pipeline) -> None:
    session = await answered(pipeline)
    mappings = pipeline.services.mappings
    await mappings.find(ORGANIZATION, str(session["id"]))
    await pipeline.services.database.system().execute("UPDATE sessions SET opencode_session_id = NULL")

    await mappings.forget(ORGANIZATION, str(session["id"]))

    assert await mappings.session_of("ins_1", str(session["opencode_session_id"])) is None
    assert await mappings.find(ORGANIZATION, str(session["id"])) is None


async def test_mappings_and_progress_expire_in_the_cache(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.answer_everything()

    cache, settings = pipeline.services.cache, pipeline.services.settings
    limits = {
        "nubabel:session:*": settings.mapping_keep_h * 3600,
        "nubabel:opencode:*": settings.mapping_keep_h * 3600,
        "nubabel:progress:*": settings.progress_keep_s,
    }
    for pattern, limit_s in limits.items():
        keys = [key async for key in cache.scan_iter(pattern)]
        assert keys
        assert all([0 < await cache.ttl(key) <= limit_s for key in keys])
