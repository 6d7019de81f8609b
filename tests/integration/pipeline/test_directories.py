"""On a shared server each organization works in a directory of its own: made before its first session, unloaded when it
is idle, never more of them than the server carries, whoever dies meanwhile.
"""

from typing import Any

import pytest

from nubabel_workers.adapters.storage.directories import PostgresDirectories
from nubabel_workers.services.keep_directories import KeepDirectories
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline, gives_each_its_directory
from tests.integration.pipeline.dying import Killed, dies, work_until_quiet
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

ROOT = "/srv/opencode/directories"
OWN = f"{ROOT}/{ORGANIZATION}"


async def another_asks(pipeline: Pipeline, name: str, prompt: str = "hello") -> str:
    """Of an organization of that name; its execution."""
    database = pipeline.services.database
    if await database.system().one("SELECT 1 FROM organizations WHERE id = %(id)s", {"id": name}) is None:
        await add_organization(database, name)
    return await add_execution(database, ExecutionSeed(f"exe_{name}_{prompt[:1]}", name, prompt=prompt))


async def directories_of_sessions(pipeline: Pipeline) -> list[str]:
    return [session.directory for session in pipeline.opencode.simulator.store.sessions.values()]


async def states(pipeline: Pipeline) -> dict[str, str]:
    rows = await pipeline.services.database.system().all("SELECT organization_id, state FROM instance_directories")
    return {row["organization_id"]: row["state"] for row in rows}


async def waits_for(pipeline: Pipeline, execution_id: str) -> object:
    row = await pipeline.services.database.system().one(
        "SELECT status, waiting_for FROM executions WHERE id = %(id)s", {"id": execution_id}
    )
    assert row is not None
    return row["waiting_for"] if row["status"] == "queued" else row["status"]


async def time_passes(pipeline: Pipeline, *, seconds: int = 60) -> None:
    """For directories and for what waits; a second for the limits in the cache."""
    system = pipeline.services.database.system()
    await system.execute(
        "UPDATE instance_directories SET used_at = used_at - make_interval(secs => %(s)s)", {"s": seconds}
    )
    await system.execute("UPDATE executions SET not_before = now() WHERE status = 'queued'")
    await pipeline.services.cache.flushdb()


async def ask_and_answer(pipeline: Pipeline, text: str, *, thread_ts: str | None = None) -> Any:
    question = await pipeline.mention(text, thread_ts=thread_ts)
    await pipeline.answer_everything()
    return question


async def test_a_conversation_begins_in_its_organizations_directory_and_goes_on_there(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services)

    question = await ask_and_answer(pipeline, "hello")
    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 2
    assert await directories_of_sessions(pipeline) == [OWN]
    assert await pipeline.one("SELECT opencode_directory FROM sessions") == {"opencode_directory": OWN}
    assert await states(pipeline) == {ORGANIZATION: "ready"}


async def test_a_server_that_makes_no_directories_has_all_sessions_in_its_one(pipeline: Pipeline) -> None:
    await ask_and_answer(pipeline, "hello")

    assert await directories_of_sessions(pipeline) == ["/srv/opencode"]
    assert await states(pipeline) == {}


async def test_a_conversation_that_began_in_the_common_directory_stays_there(pipeline: Pipeline) -> None:
    question = await ask_and_answer(pipeline, "hello")
    await gives_each_its_directory(pipeline.services)

    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 2
    assert await directories_of_sessions(pipeline) == ["/srv/opencode"]
    assert await states(pipeline) == {}


async def test_a_conversation_whose_session_was_lost_begins_again_in_its_own_directory(pipeline: Pipeline) -> None:
    question = await ask_and_answer(pipeline, "hello")
    await gives_each_its_directory(pipeline.services)
    pipeline.opencode.simulator.wipe()

    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 2
    assert await directories_of_sessions(pipeline) == [OWN]


async def test_an_idle_directory_is_unloaded_and_loaded_again_for_the_next_question(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services)
    question = await ask_and_answer(pipeline, "my name is Ada")
    await time_passes(pipeline, seconds=7200)

    disposed = await pipeline.services.keep_directories.dispose_idle()

    disk = pipeline.opencode.simulator.disk
    assert (disposed, await states(pipeline), OWN in disk.loaded) == (1, {ORGANIZATION: "disposed"}, False)
    await pipeline.say("what is my name?", thread_ts=question.ts)
    await pipeline.answer_everything()
    assert len(pipeline.replies(question)) == 2
    assert (await states(pipeline), disk.entries(ROOT)) == ({ORGANIZATION: "ready"}, [OWN])
    assert len(await directories_of_sessions(pipeline)) == 1


async def test_a_directory_with_a_run_in_it_is_not_unloaded_however_long_that_takes(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services)
    await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    await time_passes(pipeline, seconds=7200)

    assert await pipeline.services.keep_directories.dispose_idle() == 0
    assert OWN in pipeline.opencode.simulator.disk.loaded


async def test_what_the_servers_load_has_just_told_of_a_directory_is_not_asked_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gives_each_its_directory(pipeline.services)
    await ask_and_answer(pipeline, "hello")
    await time_passes(pipeline, seconds=-60)  # used at this moment, however slow the test is

    async def asked(*_: object) -> None:
        raise AssertionError("a statement for nothing")

    monkeypatch.setattr(PostgresDirectories, "take", asked)
    question = await ask_and_answer(pipeline, "and now?")

    assert len(pipeline.replies(question)) == 1


async def test_without_a_place_an_organization_waits_as_a_row_and_is_told_why(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services, most=1)
    await another_asks(pipeline, "org_first", "[[hang]]")
    await pipeline.dispatch()
    second = await another_asks(pipeline, "org_second")

    await pipeline.dispatch()

    execution = await pipeline.services.read_execution.by_id("org_second", second)
    waiting = await pipeline.services.read_waiting.of(execution)
    assert waiting is not None
    assert (waiting.reason, "as many organizations as it can" in waiting.words) == ("directories", True)
    assert await states(pipeline) == {"org_first": "ready"}


async def test_an_idle_organizations_directory_makes_room(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services, most=1)
    await another_asks(pipeline, "org_first")
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    second = await another_asks(pipeline, "org_second")
    await pipeline.dispatch()
    assert await waits_for(pipeline, second) == "directories"  # the first one was active just now

    await time_passes(pipeline)
    await pipeline.dispatch()

    assert await waits_for(pipeline, second) == "running"
    assert await states(pipeline) == {"org_first": "disposed", "org_second": "ready"}
    assert pipeline.opencode.simulator.disk.most_loaded == 1


async def test_many_organizations_at_once_never_have_more_than_the_server_carries(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services, most=2)
    asked = [await another_asks(pipeline, f"org_{number}") for number in range(5)]

    for _ in range(16):
        await pipeline.dispatch()
        await pipeline.run_ends()
        await pipeline.complete()
        await time_passes(pipeline)

    assert [await waits_for(pipeline, one) for one in asked] == ["completed"] * 5
    assert len(set(await directories_of_sessions(pipeline))) == 5
    assert pipeline.opencode.simulator.disk.most_loaded == 2


async def test_directories_are_loaded_one_after_the_other(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    await gives_each_its_directory(pipeline.services)
    windows: list[str] = []

    async def one_a_window(key: str, *, wanted: int = 1, **_: object) -> int:
        if not key.startswith("directories:"):
            return wanted
        windows.append(key)
        return int(len(windows) == 1)

    monkeypatch.setattr(pipeline.services.throttle, "take", one_a_window)
    asked = [await another_asks(pipeline, f"org_{number}", text) for number in (1, 2) for text in "ab"]

    await pipeline.dispatch()

    assert sorted([str(await waits_for(pipeline, one)) for one in asked]) == ["directory"] * 2 + ["running"] * 2
    assert len(set(await directories_of_sessions(pipeline))) == 1
    windows.clear()
    await time_passes(pipeline, seconds=0)
    await pipeline.dispatch()
    assert [await waits_for(pipeline, one) for one in asked] == ["running"] * 4


async def test_a_directory_that_was_not_made_is_tried_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gives_each_its_directory(pipeline.services)
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    with monkeypatch.context() as full_disk:
        full_disk.setattr(pipeline.opencode.simulator.disk, "_tend", lambda _: None)
        await pipeline.dispatch()
    assert await pipeline.statuses() == ["queued"]
    assert await directories_of_sessions(pipeline) == []

    await time_passes(pipeline)
    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1
    assert await directories_of_sessions(pipeline) == [OWN]


async def test_a_stray_run_in_an_organizations_directory_is_found(pipeline: Pipeline) -> None:
    await gives_each_its_directory(pipeline.services)
    await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    system = pipeline.services.database.system()
    await system.execute("UPDATE executions SET status = 'cancelled', finished_at = now(), check_at = NULL")
    await system.execute("UPDATE attempts SET ended_at = now() - interval '1 minute'")

    await pipeline.services.reconcile_instance.run("ins_1")

    assert pipeline.opencode.simulator.engine.aborts == 1


# --- deaths ----------------------------------------------------------------------------------------------------------

CALLS = [
    *(("_store", name) for name in ("take", "made", "displace", "disposed")),
    *(("_directories", name) for name in ("prepare", "dispose")),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("port", "call"), CALLS, ids=lambda one: one.strip("_"))
async def test_whoever_dies_while_one_makes_room_for_the_other_both_are_answered(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, port: str, call: str, *, after: bool
) -> None:
    await gives_each_its_directory(pipeline.services, most=1)
    first = await another_asks(pipeline, "org_first")
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await time_passes(pipeline)
    question = await pipeline.mention("hello")
    deaths = dies(monkeypatch, getattr(pipeline.services.keep_directories, port), call, after=after)

    for _ in range(3):
        await work_until_quiet(pipeline, rounds=2)
        await time_passes(pipeline)
        await unloading_is_long_ago(pipeline)
        await pipeline.services.keep_directories.dispose_idle()

    assert deaths() == 1
    assert await waits_for(pipeline, first) == "completed"
    assert len(pipeline.replies(question)) == 1
    assert pipeline.opencode.simulator.disk.most_loaded == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("port", "call"), [("_store", "take_idle"), ("_directories", "dispose"), ("_store", "disposed")]
)
async def test_a_scheduler_that_dies_while_it_unloads_is_followed_by_one_that_ends_it(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, port: str, call: str, *, after: bool
) -> None:
    keep: KeepDirectories = pipeline.services.keep_directories
    await gives_each_its_directory(pipeline.services)
    await ask_and_answer(pipeline, "hello")
    await time_passes(pipeline, seconds=7200)
    dies(monkeypatch, getattr(keep, port), call, after=after)

    with pytest.raises(Killed):
        await keep.dispose_idle()
    await unloading_is_long_ago(pipeline)
    await keep.dispose_idle()

    assert await states(pipeline) == {ORGANIZATION: "disposed"}
    assert OWN not in pipeline.opencode.simulator.disk.loaded


async def unloading_is_long_ago(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute(
        "UPDATE instance_directories SET changed_at = now() - interval '1 hour' WHERE state = 'disposing'"
    )


async def test_who_comes_second_to_its_own_place_unloads_nobody(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement of the second began before the first had taken the place: it sees none, and there is room."""
    await gives_each_its_directory(pipeline.services)
    await another_asks(pipeline, "org_idle")
    await pipeline.answer_everything()
    await time_passes(pipeline)
    take = pipeline.services.directories.take
    refused: list[Any] = []

    async def late_once(directory: Any) -> Any:
        state = await take(directory)
        if directory.organization_id == ORGANIZATION and not refused:
            refused.append(directory)
            return None
        return state

    monkeypatch.setattr(pipeline.services.directories, "take", late_once)
    await pipeline.mention("hello")
    await pipeline.answer_everything()

    assert refused
    assert (await states(pipeline))["org_idle"] == "ready"
