"""What must not leave with a prompt does not reach OpenCode; the stored prompt stays what the person wrote."""

import base64

import pytest

from nubabel_workers.domain.masking import MaskingPolicy
from tests.integration.pipeline.conftest import CHANNEL, TEAM, Pipeline

pytestmark = pytest.mark.integration

CARD = "4111 1111 1111 1111"
MAIL = "kim@example.com"
TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ012345"


def sent_to_opencode(pipeline: Pipeline) -> str:
    """Every text, file and name that is in any session, files as text."""
    said: list[str] = []
    for session in pipeline.opencode.simulator.store.sessions.values():
        for message in session.messages.values():
            for part in message.parts:
                said += [str(part.get("text", "")), str(part.get("filename", "")), _content(str(part.get("url", "")))]
    return "\n".join(said)


def _content(url: str) -> str:
    return base64.b64decode(url.partition(",")[2]).decode() if url.startswith("data:") else ""


async def set_masking(pipeline: Pipeline, policy: MaskingPolicy) -> None:
    await pipeline.services.database.system().execute("UPDATE organizations SET masking = %(p)s", {"p": policy.value})


async def mention_with_file(pipeline: Pipeline, text: str, content: str, name: str = "notes.txt") -> None:
    bot = pipeline.slack.workspace(TEAM).bot_user_id
    files = [{"name": name, "mimetype": "text/plain", "content": content}]
    question = pipeline.slack.say(f"<@{bot}> {text}", team=TEAM, channel=CHANNEL, files=files)
    await pipeline.receive(pipeline.envelope({**question.wire(TEAM), "type": "app_mention", "channel": CHANNEL}))


async def test_question_thread_and_files_leave_without_it_and_the_timeline_counts_it(pipeline: Pipeline) -> None:
    root = pipeline.slack.say(f"my card is {CARD}", team=TEAM, channel=CHANNEL)
    await pipeline.mention(f"charge {CARD}, tell {MAIL}", thread_ts=root.ts)
    await pipeline.take_events()  # first: events of two conversations have no order
    await mention_with_file(pipeline, "read this", f"deploy with {TOKEN}", name=f"of {MAIL}.txt")

    await pipeline.answer_everything()

    sent = sent_to_opencode(pipeline)
    assert "charge [card number " in sent
    assert "deploy with [key " in sent
    assert not [value for value in (CARD, MAIL, TOKEN) if value in sent]
    counted = await pipeline.services.database.system().all(
        "SELECT v.detail FROM execution_events v JOIN executions e ON e.id = v.execution_id"
        " WHERE v.kind = 'masked' ORDER BY e.position"
    )
    assert [row["detail"]["kinds"] for row in counted] == [
        {"card number": 2, "mail address": 1},
        {"key": 1, "mail address": 1},
    ]
    stored = await pipeline.one("SELECT prompt, context FROM executions ORDER BY position LIMIT 1")
    assert CARD in str(stored["prompt"])
    assert CARD in str(stored["context"])


async def test_a_value_is_the_same_to_the_model_in_later_turns_and_in_a_new_session(pipeline: Pipeline) -> None:
    question = await pipeline.mention(f"remember {CARD}")
    await pipeline.answer_everything()
    placeholder = sent_to_opencode(pipeline).split("remember ")[1].split("]")[0]
    pipeline.opencode.simulator.store.sessions.clear()
    await pipeline.say(f"is it {CARD}?", thread_ts=question.ts)

    await pipeline.answer_everything()

    sent = sent_to_opencode(pipeline)
    assert f"User: remember {placeholder}]" in sent
    assert f"is it {placeholder}]?" in sent
    assert CARD not in sent


async def test_a_request_that_may_not_leave_gets_one_outcome_that_says_of_what_kind_it_was(pipeline: Pipeline) -> None:
    await set_masking(pipeline, MaskingPolicy.REFUSE)
    question = await pipeline.mention(f"카드 {CARD} 결제해 주세요")

    await pipeline.take_events()
    line = await pipeline.dispatch()
    await pipeline.deliver()

    assert "1 refused" in line
    assert await pipeline.statuses() == ["rejected"]
    (reply,) = pipeline.replies(question)
    assert "카드 번호" in reply
    assert CARD not in reply
    assert pipeline.opencode.simulator.store.sessions == {}
    ended = await pipeline.one("SELECT error->>'code' AS code FROM executions")
    assert ended == {"code": "sensitive_data"}
    assert await pipeline.one("SELECT count(*) AS letters FROM dead_letters") == {"letters": 0}


async def test_what_others_said_before_is_masked_where_requests_are_refused(pipeline: Pipeline) -> None:
    await set_masking(pipeline, MaskingPolicy.REFUSE)
    root = pipeline.slack.say(f"my card is {CARD}", team=TEAM, channel=CHANNEL)
    await pipeline.mention("what did they say?", thread_ts=root.ts)

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    assert "my card is [card number " in sent_to_opencode(pipeline)


async def test_an_organization_may_let_everything_leave(pipeline: Pipeline) -> None:
    await set_masking(pipeline, MaskingPolicy.OFF)
    await pipeline.mention(f"charge {CARD}")

    await pipeline.answer_everything()

    assert f"charge {CARD}" in sent_to_opencode(pipeline)
