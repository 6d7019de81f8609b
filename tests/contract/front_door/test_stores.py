"""Acceptance, look-ups and progress: the same on fakes and on the real stores."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from nubabel_workers.domain.executions import EventKind, NewExecution, Overrides, Status
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.ports import Accepted, ExecutionStore, ProgressStream

NEW = NewExecution(
    organization_id=OrganizationId("org_one"),
    source="api",
    prompt="Which tests are missing?",
    session_key="api:one",
    idempotency_key="key:1",
    request_hash="hash",
    reply={"kind": "none"},
    user_id="anna",
    overrides=Overrides("quick", ["git-master"], None, "acme/large"),
    metadata={"a": [1.5, None, {"한": "글"}]},
    correlation_id="req_1",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    deadline_s=60,
)


async def accept(executions: ExecutionStore, **changes: Any) -> Accepted:
    return await executions.accept(replace(NEW, **changes), working=None, answer_by_s=3600)


async def test_what_was_accepted_is_read_back_whole(executions: ExecutionStore) -> None:
    accepted = await accept(executions)

    row = await executions.find("org_one", accepted.execution_id)

    assert row is not None
    assert (row.id, row.session_id, row.status) == (accepted.execution_id, accepted.session_id, Status.QUEUED)
    assert (row.prompt, row.source, row.user_id, row.deadline_s) == (NEW.prompt, "api", "anna", 60)
    assert (row.overrides.category, list(row.overrides.skills or ()), row.overrides.agent, row.overrides.model) == (
        "quick",
        ["git-master"],
        None,
        "acme/large",
    )
    assert (dict(row.metadata), dict(row.reply)) == (NEW.metadata, NEW.reply)
    assert (row.correlation_id, row.traceparent) == (NEW.correlation_id, NEW.traceparent)


async def test_a_key_is_accepted_once(executions: ExecutionStore) -> None:
    first = await accept(executions)

    again = await accept(executions, request_hash="another", prompt="another")

    assert first.created
    assert (again.created, again.execution_id, again.session_id) == (False, first.execution_id, first.session_id)
    assert (again.request_hash, again.status) == ("hash", Status.QUEUED)


async def test_the_same_key_of_two_organizations_is_two(executions: ExecutionStore) -> None:
    one = await accept(executions)
    two = await accept(executions, organization_id=OrganizationId("org_two"))

    assert two.created
    assert (two.execution_id, two.session_id) != (one.execution_id, one.session_id)


async def test_a_session_is_continued_by_its_key_and_tells_who_is_before(executions: ExecutionStore) -> None:
    first = await accept(executions)
    second = await accept(executions, idempotency_key="key:2")
    other = await accept(executions, idempotency_key="key:3", session_key="api:two")

    assert second.session_id == first.session_id != other.session_id
    assert list(first.busy_execution_ids) == list(other.busy_execution_ids) == []
    assert list(second.busy_execution_ids) == [first.execution_id]


async def test_look_ups_stay_within_the_organization(executions: ExecutionStore) -> None:
    accepted = await accept(executions)

    assert await executions.by_key("org_one", "key:1") == accepted.execution_id
    assert await executions.session_key("org_one", accepted.session_id) == "api:one"
    assert await executions.by_key("org_two", "key:1") is None
    assert await executions.session_key("org_two", accepted.session_id) is None
    assert await executions.find("org_two", accepted.execution_id) is None
    assert await executions.request_cancel("org_two", accepted.execution_id, reason="mine") is None


async def test_acceptance_is_the_first_of_the_timeline(executions: ExecutionStore) -> None:
    accepted = await accept(executions)

    (event,) = await executions.timeline("org_one", accepted.execution_id)

    assert (event.kind, event.detail) == (EventKind.ACCEPTED, {"source": "api"})


Entry = tuple[str, Mapping[str, Any]]


async def read(progress: ProgressStream, count: int, *, after: str = "") -> list[Entry | None]:
    source = cast("Any", progress.read("org_one", "exe_1", after=after, idle_s=0.05))
    found: list[Entry | None] = []
    async with asyncio.timeout(5), aclosing(source):
        async for entry in source:
            found.append(entry)
            if len(found) == count:
                return found
    return found


async def test_progress_is_read_from_the_beginning_then_live(progress: ProgressStream) -> None:
    await progress.append("org_one", "exe_1", {"type": "tool", "n": 1})
    source = cast("Any", progress.read("org_one", "exe_1", after="", idle_s=0.05))
    events: list[Mapping[str, Any]] = []

    async with asyncio.timeout(5), aclosing(source):
        async for entry in source:
            if entry is not None:
                events.append(entry[1])
            elif len(events) == 1:
                await progress.append("org_one", "exe_1", {"type": "text", "text": "둘"})
            else:
                break

    assert events == [{"type": "tool", "n": 1}, {"type": "text", "text": "둘"}]


async def test_progress_is_read_behind_an_id(progress: ProgressStream) -> None:
    for number in range(3):
        await progress.append("org_one", "exe_1", {"n": number})
    first = (await read(progress, 1))[0]
    assert first is not None

    rest = await read(progress, 3, after=first[0])

    assert [entry[1]["n"] if entry else None for entry in rest] == [1, 2, None]


async def test_quiet_progress_says_so_again_and_again(progress: ProgressStream) -> None:
    assert await read(progress, 2) == [None, None]


async def test_progress_is_each_organizations_own(progress: ProgressStream) -> None:
    await progress.append("org_two", "exe_1", {"n": 1})

    assert await read(progress, 1) == [None]
