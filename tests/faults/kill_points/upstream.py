"""What upstream services do: submit over HTTP or the broker, follow, cancel, and receive the webhook."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import httpx

from nubabel_workers.client import (
    AsyncNubabelClient,
    BrokerProducer,
    Execution,
    NubabelClientError,
    SubmitRequest,
    Submitted,
)
from tests.faults.kill_points.conversations import Check, answers
from tests.faults.kill_points.lane import Lane
from tests.faults.kill_points.processes import WEB
from tests.waiting import eventually_true

T = TypeVar("T")


async def submit_with_webhook(lane: Lane) -> Check:
    words = f"apples{lane.number():05d}"
    request = SubmitRequest(
        prompt=f"[[delay=0.3]] {answers('Done.')} {words}",
        callback_url=f"{lane.hooks.url}/hook",
        session_key=words,
        idempotency_key=f"key-{words}",
    )
    execution = await _accepted(lane, request)
    await _until_hooked(lane, execution.id)
    return lambda: _told_once(lane, execution.id, "execution.completed", words)


async def submit_again_in_the_session(lane: Lane) -> Check:
    """By its key, and by its session; the same request twice is one."""
    words = f"apples{lane.number():05d}"
    first = SubmitRequest(prompt=f"{answers('First.')} {words}", session_key=words, idempotency_key=f"key-{words}")
    earlier = await _accepted(lane, first)
    again = await _accepted(lane, first)
    second = SubmitRequest(
        prompt=f"{answers('Second.')} pears{words}", session_id=earlier.session_id, idempotency_key=f"second-{words}"
    )
    later = await _accepted(lane, second)
    found = [await _ended(lane, one.id) for one in (earlier, later)]

    def check() -> None:
        assert earlier.id == again.id
        assert [one.output for one in found] == ["First.", "Second."]
        assert lane.model_runs(words) == [1, 1]

    return check


async def asked_what_it_waits_for(lane: Lane) -> Check:
    """A follow-up is in the queue for as long as the run before it takes."""
    words = f"apples{lane.number():05d}"
    first = SubmitRequest(
        prompt=f"[[delay=0.5]] {answers('First.')} {words}", session_key=words, idempotency_key=f"key-{words}"
    )
    earlier = await _accepted(lane, first)
    second = SubmitRequest(
        prompt=f"{answers('Second.')} pears{words}", session_id=earlier.session_id, idempotency_key=f"second-{words}"
    )
    later = await _accepted(lane, second)
    asked = [await _trying(lane, lambda client: client.get(later.id)) for _ in range(3)]
    found = [await _ended(lane, one.id) for one in (earlier, later)]

    def check() -> None:
        assert [one.output for one in found] == ["First.", "Second."]
        assert all(one.waiting_for is None or one.waiting_for.words for one in asked)

    return check


async def delegated_by_an_old_caller(lane: Lane) -> Check:
    """It knows no keys: after a lost answer it sends the same once more. Its callback hears of each end."""
    words = f"apples{lane.number():05d}"
    body = {
        "category": "quick",
        "load_skills": [],
        "prompt": f"[[delay=0.3]] {answers('Done.')} {words}",
        "session_id": words,
        "callbacks": {"sessionUpdate": f"{lane.hooks.url}/hook"},
    }
    answered: list[dict[str, Any]] = []

    async def answer() -> bool:
        async with lane.http(lane.authorization()) as http:
            with suppress(httpx.TransportError):
                found = await http.post(f"{lane.url}/delegate", json=body)
                answered[:] = [found.json()] if found.is_success else []
        return bool(answered)

    await lane.until_true(answer, "the sidecar's answer")
    session = answered[0]["metadata"]["opencodeSessionId"]
    await lane.until(lambda: _updates(lane, session), "the callback")

    def check() -> None:
        assert answered[0]["output"] == "Done."
        assert set(lane.model_runs(words)) == {1}
        assert len(_updates(lane, session)) == len(lane.model_runs(words))

    return check


def _updates(lane: Lane, opencode_session_id: str) -> set[str]:
    """Ids of the session updates about it. A repeat of one has the same id."""
    return {
        message_id
        for message_id, told in zip(lane.hooks.message_ids, lane.hooks.received, strict=True)
        if told.get("state", {}).get("opencodeSessionId") == opencode_session_id
    }


async def delegated_for_somebody_else(lane: Lane) -> Check:
    """Refused, and in the audit log."""
    refused: list[int] = []

    async def refusal() -> bool:
        async with lane.http(lane.authorization() | {"x-organization-id": "org_somebody"}) as http:
            with suppress(httpx.TransportError):
                answer = await http.post(f"{lane.url}/delegate_task", json={"prompt": "Hello"})
                refused[:] = [answer.status_code]
        return refused == [403]

    await lane.until_true(refusal, "the refusal")
    return lambda: None


async def followed_run(lane: Lane) -> Check:
    """Somebody reads the stream of events from the beginning to the end."""
    words = f"apples{lane.number():05d}"
    request = SubmitRequest(prompt=f"[[tokens=40]] [[gap=0.02]] {words}", idempotency_key=f"key-{words}")
    execution = await _accepted(lane, request)
    client = lane.client()
    seen: list[str] = []
    while not (seen and seen[-1] == "done"):
        with suppress(NubabelClientError):
            async with aclosing(client.events(execution.id)) as events:
                seen.extend([event.type async for event in events])
    await client.close()

    def check() -> None:
        assert seen.count("done") == 1
        assert lane.model_runs(words) == [1]

    return check


async def cancel_over_http(lane: Lane) -> Check:
    words = f"apples{lane.number():05d}"
    request = SubmitRequest(
        prompt=f"[[hang]] {words}", callback_url=f"{lane.hooks.url}/hook", idempotency_key=f"key-{words}"
    )
    execution = await _accepted(lane, request)
    await lane.until(lambda: sum(lane.model_runs(words)) > 0, "the model's run")
    await _trying(lane, lambda client: client.cancel(execution.id))
    await _until_hooked(lane, execution.id)
    return lambda: _told_once(lane, execution.id, "execution.cancelled", words)


async def run_past_its_deadline(lane: Lane) -> Check:
    words = f"apples{lane.number():05d}"
    request = SubmitRequest(
        prompt=f"[[hang]] {words}", callback_url=f"{lane.hooks.url}/hook", idempotency_key=f"key-{words}", deadline_s=1
    )
    execution = await _accepted(lane, request)
    await _until_hooked(lane, execution.id)
    return lambda: _told_once(lane, execution.id, "execution.failed", words)


async def submit_through_the_broker(lane: Lane) -> Check:
    words = f"apples{lane.number():05d}"
    request = SubmitRequest(prompt=f"{answers('Done.')} {words}", idempotency_key=f"key-{words}")
    producer = BrokerProducer(
        lane.settings.broker_url, key_id=lane.tenant.submit_key.key.id, secret=lane.tenant.submit_key.text
    )
    with producer:
        execution = await _published_until_accepted(lane, producer, request)
    ended = await _ended(lane, execution.id)

    def check() -> None:
        assert ended.output == "Done."
        assert lane.model_runs(words) == [1]

    return check


async def submission_that_is_refused(lane: Lane) -> Check:
    """Nothing is dropped in silence: who publishes with a wrong secret is found among the dead letters."""
    words = f"apples{lane.number():05d}"
    producer = BrokerProducer(lane.settings.broker_url, key_id=lane.tenant.submit_key.key.id, secret="wrong")

    async def set_aside() -> bool:
        where = "dead_letters WHERE reason = 'refused-submission' AND payload LIKE %(like)s"
        return await lane.count(where, like=f"%{words}%") > 0

    with producer:
        for _ in range(3):
            await asyncio.to_thread(producer.submit, SubmitRequest(prompt=words, idempotency_key=f"key-{words}"))
            with suppress(AssertionError):
                await eventually_true(set_aside, timeout_s=2)
                break
    assert await set_aside(), "the refused submission is no dead letter"
    return lambda: None


async def retention(lane: Lane) -> Check:
    """After a day a key names a new request, after three months the execution is gone."""
    words = f"apples{lane.number():05d}"
    request = SubmitRequest(prompt=f"{answers('Done.')} {words}", idempotency_key=f"key-{words}")
    first = await _accepted(lane, request)
    await _ended(lane, first.id)
    await lane.database("UPDATE executions SET created_at = now() - interval '2 days' WHERE id = %(id)s", id=first.id)

    async def forgotten() -> bool:
        return await _trying(lane, lambda client: client.find(f"key-{words}")) is None

    await lane.until_true(forgotten, "the key's end")
    second = await _accepted(lane, request)
    await _ended(lane, second.id)
    await lane.database("UPDATE executions SET finished_at = now() - interval '1 year' WHERE id = %(id)s", id=first.id)

    async def gone() -> bool:
        return await lane.services.executions.find(lane.tenant.id, first.id) is None

    await lane.until_true(gone, "the old execution's end")

    def check() -> None:
        assert first.id != second.id
        assert lane.model_runs(words) == [1, 1]

    return check


async def probes(lane: Lane) -> Check:
    """A load balancer and Prometheus ask until they get a fresh answer; what was found a moment ago is given again."""
    mark = lane.mark()
    async with lane.http(timeout_s=5) as http:

        async def well(path: str) -> bool:
            with suppress(httpx.TransportError):
                return (await http.get(f"{lane.url}{path}")).is_success
            return False

        async def all_well() -> bool:
            fresh = lane.made(WEB, "opencode.version", mark) and lane.made(WEB, "maintenance.gauges", mark)
            return all([await well("/ready"), await well("/metrics"), fresh])

        await lane.until_true(all_well, "fresh answers")
    return lambda: None


async def _accepted(lane: Lane, request: SubmitRequest) -> Submitted:
    return await _trying(lane, lambda client: client.submit(request))


async def _trying(lane: Lane, call: Callable[[AsyncNubabelClient], Awaitable[T]]) -> T:
    client = lane.client()
    try:
        return await call(client)
    finally:
        await client.close()


async def _ended(lane: Lane, execution_id: str) -> Execution:
    found: list[Execution] = []

    async def final() -> bool:
        found[:] = [await _trying(lane, lambda client: client.get(execution_id))]
        return found[0].final

    await lane.until_true(final, f"the end of {execution_id}")
    return found[0]


async def _published_until_accepted(lane: Lane, producer: BrokerProducer, request: SubmitRequest) -> Execution:
    """A submission is accepted when its row exists; until then its producer repeats it under the same key."""
    key = request.idempotency_key or ""

    async def accepted() -> Execution | None:
        return await _trying(lane, lambda client: client.find(key))

    for _ in range(3):
        await asyncio.to_thread(producer.submit, request)
        with suppress(AssertionError):
            await eventually_true(accepted, timeout_s=2)
            break
    found = await accepted()
    assert found is not None, "the submission was never accepted"
    return found


def _hooked(lane: Lane, execution_id: str) -> dict[str, str]:
    """Message id -> type, of the webhooks about an execution. A repeat of one has the same id."""
    return {
        message_id: str(body["type"])
        for message_id, body in zip(lane.hooks.message_ids, lane.hooks.received, strict=True)
        if body.get("data", {}).get("execution_id") == execution_id
    }


async def _until_hooked(lane: Lane, execution_id: str) -> None:
    await lane.until(lambda: _hooked(lane, execution_id), "the webhook")


def _told_once(lane: Lane, execution_id: str, kind: str, words: str) -> None:
    assert list(_hooked(lane, execution_id).values()) == [kind]
    assert lane.model_runs(words) == [1]
