"""Several requests accepted together: each is run, and one reply tells of all, whoever dies meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.groups import MAX_REPLY_BYTES, ExecutionGroup, GroupState
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.submission import BatchRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.submit_execution import Origin
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.integration.pipeline.dying import Killed, dies, work_until_quiet
from tests.integration.pipeline.webhook_receiver import Receiver, webhook_receiver

pytestmark = pytest.mark.integration

SECRET = SecretStr("whsec_" + "c2VjcmV0" * 4)
ORIGIN = Origin("api", "req_1", "")


@pytest.fixture
async def hooks(pipeline: Pipeline) -> AsyncIterator[Receiver]:
    await pipeline.set_webhook_secret(SECRET)
    async with webhook_receiver(SECRET.get_secret_value()) as receiver:
        yield receiver


async def submit(pipeline: Pipeline, *prompts: str, **fields: Any) -> str:
    requests = [{"prompt": prompt} for prompt in prompts]
    request = BatchRequest.model_validate({"requests": requests, **fields})
    organization = Organization(OrganizationId(ORGANIZATION), "Pipeline")
    return (await pipeline.services.submit_group.submit(organization, request, ORIGIN)).group_id


async def read(pipeline: Pipeline, group_id: str) -> ExecutionGroup:
    return await pipeline.services.cancel_group.find(ORGANIZATION, group_id)


async def run(pipeline: Pipeline) -> None:
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()


async def scheduler_looks(pipeline: Pipeline) -> None:
    await pipeline.services.maintain.keep_deadlines()
    await pipeline.services.settle_groups.settle_due()
    await pipeline.complete()
    await pipeline.services.settle_groups.settle_due()
    await pipeline.deliver()


async def test_all_are_answered_in_one_signed_reply_in_their_order(pipeline: Pipeline, hooks: Receiver) -> None:
    batch = await submit(pipeline, "one [[delay=0.2]]", "two", "three", callback_url=f"{hooks.url}/hook")

    await run(pipeline)

    (told,) = hooks.received
    assert told["type"] == "batch.completed"
    assert told["data"]["batch_id"] == batch
    outputs = [outcome["output"] for outcome in told["data"]["outcomes"]]
    assert [word in output for word, output in zip(("one", "two", "three"), outputs, strict=True)] == [True] * 3
    group = await read(pipeline, batch)
    assert (group.state, len(group.items)) == (GroupState.COMPLETED, 3)
    assert await pipeline.one("SELECT count(*) AS n FROM notifications") == {"n": 1}


async def test_long_answers_are_cut_to_what_one_reply_may_carry_and_stay_readable(
    pipeline: Pipeline, hooks: Receiver
) -> None:
    long = "x" * 120_000
    batch = await submit(pipeline, *(f"[[text={long}]]" for _ in range(10)), callback_url=f"{hooks.url}/hook")

    await run(pipeline)

    (told,) = hooks.received
    assert len(orjson.dumps(told)) <= MAX_REPLY_BYTES
    assert {outcome["truncated"] for outcome in told["data"]["outcomes"]} == {True}
    assert {item.output for item in (await read(pipeline, batch)).items} == {long}


async def test_the_same_key_again_is_the_same_batch_and_another_body_is_refused(pipeline: Pipeline) -> None:
    first = await submit(pipeline, "one", "two", idempotency_key="k")

    assert await submit(pipeline, "one", "two", idempotency_key="k") == first
    with pytest.raises(InvalidInputError, match="used for another batch"):
        await submit(pipeline, "one", idempotency_key="k")

    assert await pipeline.one("SELECT count(*) AS n FROM executions") == {"n": 2}


async def test_two_submissions_at_once_under_one_key_are_one_batch(pipeline: Pipeline) -> None:
    found = await asyncio.gather(*(submit(pipeline, "one", "two", idempotency_key="k") for _ in range(4)))

    assert len(set(found)) == 1
    assert await pipeline.one("SELECT count(*) AS n FROM executions") == {"n": 2}


async def test_one_request_that_cannot_be_accepted_keeps_all_out(pipeline: Pipeline) -> None:
    unknown = {"prompt": "two", "session_id": "ses_" + "0" * 26}

    with pytest.raises(NotFoundError, match=r"requests\.1: there is no such session"):
        await submit(pipeline, requests=[{"prompt": "one"}, unknown])

    assert await pipeline.one("SELECT count(*) AS n FROM executions") == {"n": 0}


async def test_requests_of_one_session_run_one_after_the_other(pipeline: Pipeline) -> None:
    batch = await submit(pipeline, requests=[{"prompt": word, "session_key": "talk"} for word in ("first", "second")])

    await run(pipeline)
    assert [item.status for item in (await read(pipeline, batch)).items] == ["completed", "queued"]
    await run(pipeline)

    group = await read(pipeline, batch)
    assert group.state is GroupState.COMPLETED
    assert len({item.session_id for item in group.items}) == 1
    assert pipeline.opencode.simulator.engine.peak == 1


async def test_a_failed_one_is_told_as_failed_and_the_others_go_on(pipeline: Pipeline, hooks: Receiver) -> None:
    requests = [{"prompt": "[[status=400]] one"}, {"prompt": "two"}]
    batch = await submit(pipeline, requests=requests, callback_url=f"{hooks.url}/hook")

    await work_until_quiet(pipeline)

    (told,) = hooks.received
    assert told["type"] == "batch.completed_with_failures"
    assert [outcome["status"] for outcome in told["data"]["outcomes"]] == ["failed", "completed"]
    assert told["data"]["outcomes"][0]["error"]["code"] == "model_error"
    assert (await read(pipeline, batch)).state is GroupState.COMPLETED_WITH_FAILURES


async def test_the_rest_is_cancelled_where_that_was_wished(pipeline: Pipeline, hooks: Receiver) -> None:
    requests = [
        {"prompt": "[[status=400]] one"},
        {"prompt": "[[hang]] two"},
        {"prompt": "[[hang]] three", "session_key": "k"},
        {"prompt": "four", "session_key": "k"},
    ]
    batch = await submit(pipeline, requests=requests, on_failure="cancel_rest", callback_url=f"{hooks.url}/hook")
    await pipeline.dispatch()
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")

    for _ in range(3):
        await pipeline.complete()
        await scheduler_looks(pipeline)

    group = await read(pipeline, batch)
    assert [item.status for item in group.items] == ["failed", "cancelled", "cancelled", "cancelled"]
    assert [told["type"] for told in hooks.received] == ["batch.completed_with_failures"]


async def test_a_cancelled_batch_says_what_was_done_until_then(pipeline: Pipeline, hooks: Receiver) -> None:
    batch = await submit(pipeline, "one", "[[hang]] two", callback_url=f"{hooks.url}/hook")
    await pipeline.dispatch()

    await pipeline.services.cancel_group.cancel(ORGANIZATION, batch, reason="enough")
    await pipeline.complete()
    await pipeline.deliver()

    group = await read(pipeline, batch)
    assert group.state is GroupState.CANCELLED
    assert [told["type"] for told in hooks.received] == ["batch.cancelled"]


async def test_a_queued_batch_ends_at_once_when_it_is_cancelled(pipeline: Pipeline) -> None:
    batch = await submit(pipeline, "one", "two")

    group = await pipeline.services.cancel_group.cancel(ORGANIZATION, batch, reason="enough")

    assert group.state is GroupState.CANCELLED
    assert [item.status for item in group.items] == ["cancelled", "cancelled"]


async def test_another_organization_has_no_such_batch(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("INSERT INTO organizations (id, name) VALUES ('org_x', 'X')")
    batch = await submit(pipeline, "one")

    with pytest.raises(NotFoundError):
        await pipeline.services.cancel_group.cancel("org_x", batch, reason="mine")

    assert (await read(pipeline, batch)).cancel_reason is None


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["standing", "find", "finish"])
async def test_whoever_dies_while_it_ends_one_reply_is_told(
    pipeline: Pipeline, hooks: Receiver, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    await submit(pipeline, "one", "two", callback_url=f"{hooks.url}/hook")
    deaths = dies(monkeypatch, pipeline.services.groups, call, after=after)

    with suppress(Killed):
        await run(pipeline)
    await work_until_quiet(pipeline, rounds=2)
    await scheduler_looks(pipeline)

    assert deaths() == 1
    assert len(set(hooks.message_ids)) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["request_cancel", "stop_rest"])
async def test_whoever_dies_while_cancelling_the_wish_is_kept_or_was_never_accepted(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    batch = await submit(pipeline, "[[hang]] one", "[[hang]] two")
    await pipeline.dispatch()
    groups = pipeline.services.groups
    if call == "stop_rest":  # the wish was stored, and its owner died before it acted on it
        await groups.request_cancel(ORGANIZATION, batch, reason="enough")
    deaths = dies(monkeypatch, groups, call, after=after)

    with suppress(Killed):
        if call == "stop_rest":
            await pipeline.services.settle_groups.settle_due()
        else:
            await pipeline.services.cancel_group.cancel(ORGANIZATION, batch, reason="enough")
    await scheduler_looks(pipeline)

    assert deaths() == 1
    wished = call == "stop_rest" or after
    assert (await read(pipeline, batch)).state is (GroupState.CANCELLED if wished else GroupState.RUNNING)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_whoever_dies_while_accepting_the_repeat_is_the_same_batch(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    dies(monkeypatch, pipeline.services.groups, "accept", after=after)

    with suppress(Killed):
        await submit(pipeline, "one", "two", idempotency_key="k")
    batch = await submit(pipeline, "one", "two", idempotency_key="k")
    await run(pipeline)

    assert (await read(pipeline, batch)).state is GroupState.COMPLETED
    assert await pipeline.one("SELECT count(*) AS n FROM executions") == {"n": 2}


async def test_many_that_end_it_at_once_tell_one_reply(pipeline: Pipeline, hooks: Receiver) -> None:
    await submit(pipeline, "one", "two", callback_url=f"{hooks.url}/hook")
    await pipeline.dispatch()
    await pipeline.run_ends()

    await asyncio.gather(*(pipeline.complete() for _ in range(3)))
    await asyncio.gather(*(pipeline.services.settle_groups.settle_due() for _ in range(5)))
    await asyncio.gather(pipeline.deliver(), pipeline.deliver())

    assert len(hooks.received) == 1


async def test_a_reply_that_was_refused_is_a_dead_letter_and_can_be_told_again(
    pipeline: Pipeline, hooks: Receiver
) -> None:
    await pipeline.set_webhook_secret(SecretStr("whsec_" + "b3RoZXI=" * 4))
    await submit(pipeline, "one", callback_url=f"{hooks.url}/hook")
    await run(pipeline)
    letter = await pipeline.one("SELECT id, subject_kind FROM dead_letters WHERE status = 'open'")

    await pipeline.set_webhook_secret(SECRET)
    pipeline.services.tenants._webhook_secrets.clear()  # heard of at once
    await pipeline.replay(str(letter["id"]))
    await pipeline.deliver()

    assert letter["subject_kind"] == "notification"
    assert [told["type"] for told in hooks.received] == ["batch.completed"]


async def test_a_batch_goes_with_its_retention_after_its_executions(pipeline: Pipeline) -> None:
    await submit(pipeline, "one", idempotency_key="k")
    await run(pipeline)
    system = pipeline.services.database.system()
    await system.execute(
        "UPDATE execution_groups SET created_at = now() - interval '2 years', finished_at = created_at"
    )

    await pipeline.services.maintain.expire()
    assert (await pipeline.one("SELECT left(idempotency_key, 4) AS key FROM execution_groups")) == {"key": "old:"}
    await system.execute("UPDATE execution_groups SET finished_at = now() - interval '2 years'")
    await pipeline.services.maintain.expire()
    assert await pipeline.one("SELECT count(*) AS n FROM execution_groups") == {"n": 1}
    await system.execute("UPDATE executions SET finished_at = now() - interval '2 years'")
    await pipeline.services.maintain.expire()
    await pipeline.services.maintain.expire()

    assert await pipeline.one("SELECT count(*) AS n FROM execution_groups") == {"n": 0}
