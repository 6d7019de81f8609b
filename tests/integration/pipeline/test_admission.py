"""An organization at a limit of its own: each message gets one reply that says so, what runs goes on."""

import asyncio

import pytest

from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.domain.admission import LimitReachedError
from nubabel_workers.domain.limits import checked_change
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.domain.waiting import IN_FLIGHT, SESSION, Waiting
from nubabel_workers.domain.wording import Language, say
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.services.submit_execution import Submitted
from tests.integration.pipeline.conftest import CHANNEL, ORGANIZATION, TEAM, Pipeline

pytestmark = pytest.mark.integration


async def set_limits(pipeline: Pipeline, **limits: float) -> None:
    """As an operator who changes them; every process has heard of it."""
    services = pipeline.services
    organizations = PostgresOrganizations(services.database, services.cipher)
    manage = ManageLimits(organizations, services.plans, services.keep_budgets)
    await manage.change(ORGANIZATION, checked_change(limits), actor="night shift")
    services.tenants._organizations.clear()


async def submit(pipeline: Pipeline, *, key: str) -> Submitted:
    organization = await pipeline.services.tenants.organization(ORGANIZATION)
    assert organization is not None
    return await pipeline.services.submit_execution.submit(
        organization,
        SubmitRequest(prompt="hello", idempotency_key=key),
        source="api",
        correlation_id="req_1",
        traceparent="",
    )


def refusal(key: str, language: Language) -> str:
    """With what whoever mentioned the bot has to do: in a thread that is nobody's yet nothing else is heard."""
    return f"{say(key, language, allowed='1', wait_s='10')} {say('mention_again', language)}"


async def test_a_message_at_the_limit_is_told_so_in_its_thread_and_never_runs(pipeline: Pipeline) -> None:
    await set_limits(pipeline, queued=1)
    first = await pipeline.mention("first")
    await pipeline.take_events()

    second = await pipeline.mention("second")
    korean = await pipeline.mention("세 번째")
    await pipeline.take_events()
    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    assert len(pipeline.replies(first)) == 1
    assert pipeline.replies(second) == [refusal("refused_queued", Language.ENGLISH)]
    assert pipeline.replies(korean) == [refusal("refused_queued", Language.KOREAN)]


async def test_a_message_of_which_slack_tells_twice_is_refused_once(pipeline: Pipeline) -> None:
    await set_limits(pipeline, queued=0)
    bot = pipeline.slack.workspace(TEAM).bot_user_id
    question = pipeline.slack.say(f"<@{bot}> hello", team=TEAM, channel=CHANNEL)
    event = {"type": "app_mention", **question.wire(TEAM), "channel": CHANNEL}
    for _ in range(2):
        await pipeline.receive(pipeline.envelope(event))

    await pipeline.take_events()
    await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1


async def test_when_the_limit_is_raised_the_next_message_runs(pipeline: Pipeline) -> None:
    await set_limits(pipeline, queued=0)
    refused = await pipeline.mention("first")
    await pipeline.take_events()
    await set_limits(pipeline, queued=5)

    await pipeline.mention("second")
    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    assert len(pipeline.replies(refused)) == 1


async def test_conversations_that_are_open_go_on_where_no_other_may_begin(pipeline: Pipeline) -> None:
    await set_limits(pipeline, sessions=1)
    question = await pipeline.mention("[[delay=0.2]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.say("and then?", thread_ts=question.ts)

    other = await pipeline.mention("another conversation")
    await pipeline.take_events()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["running", "queued"]
    assert pipeline.replies(other) == [refusal("refused_sessions", Language.ENGLISH)]


async def test_many_at_once_do_not_pass_a_limit_by_the_minute(pipeline: Pipeline) -> None:
    await set_limits(pipeline, requests_per_minute=5)

    keys = [f"key-{number}" for number in range(12)]
    outcomes = await asyncio.gather(*(submit(pipeline, key=key) for key in keys), return_exceptions=True)

    accepted = [key for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Submitted)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, LimitReachedError)]
    assert len(refused) == len(keys) - len(accepted)
    assert len(accepted) in {5, 10}  # ten, where a minute ends in between
    again = await submit(pipeline, key=accepted[0])  # which of them came first is not ours to say
    assert not again.created


async def test_no_run_takes_longer_than_the_organizations_longest(pipeline: Pipeline) -> None:
    await set_limits(pipeline, longest_run_s=60)
    await pipeline.mention("[[delay=0.2]] hello")
    await pipeline.take_events()

    await pipeline.dispatch()

    row = await pipeline.one("SELECT extract(epoch FROM deadline_at - now())::float8 AS left_s FROM executions")
    assert float(str(row["left_s"])) <= 60


async def test_what_waits_for_the_organizations_limit_says_so_to_whoever_asks(pipeline: Pipeline) -> None:
    await set_limits(pipeline, in_flight=1)
    running = await submit(pipeline, key="a")
    first, second = await submit(pipeline, key="b"), await submit(pipeline, key="c")
    await pipeline.dispatch()

    told = [await waiting(pipeline, one) for one in (running, first, second)]

    assert told[0] is None
    assert [(one.reason, one.position) for one in told[1:] if one] == [(IN_FLIGHT, 1), (IN_FLIGHT, 2)]
    assert await pipeline.statuses() == ["running", "queued", "queued"]


async def test_a_follow_up_waits_for_its_conversation(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[delay=0.2]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.say("and then?", thread_ts=question.ts)
    await pipeline.take_events()
    follow_up = await pipeline.one("SELECT id FROM executions WHERE status = 'queued'")

    execution = await pipeline.services.read_execution.by_id(ORGANIZATION, str(follow_up["id"]))
    told = await pipeline.services.read_waiting.of(execution)

    assert told is not None
    assert (told.reason, told.starts_in_s) == (SESSION, None)


async def waiting(pipeline: Pipeline, submitted: Submitted) -> Waiting | None:
    execution = await pipeline.services.read_execution.by_id(ORGANIZATION, submitted.execution_id)
    return await pipeline.services.read_waiting.of(execution)
