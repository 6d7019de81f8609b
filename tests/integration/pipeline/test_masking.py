"""What must not leave with a prompt does not reach OpenCode; the stored prompt stays what the person wrote."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.masking import MaskingPolicy
from nubabel_workers.domain.slack_events import ThreadExcerpt
from nubabel_workers.domain.submission import BatchRequest, SubmitRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.domain.timeline import narrate
from nubabel_workers.services import mask_prompt
from nubabel_workers.services.mask_prompt import Share
from nubabel_workers.services.submit_execution import Origin
from nubabel_workers.simulators.slack.model import Message
from tests.documents import PICTURE, docx, page_of, pdf
from tests.integration.pipeline.conftest import CHANNEL, ORGANIZATION, TEAM, Pipeline
from tests.integration.pipeline.test_budgets import DEAR, set_caps, until_paused

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
    return base64.b64decode(url.partition(",")[2]).decode(errors="replace") if url.startswith("data:") else ""


async def set_masking(pipeline: Pipeline, policy: MaskingPolicy) -> None:
    await pipeline.services.database.system().execute("UPDATE organizations SET masking = %(p)s", {"p": policy.value})


async def mention_with_files(pipeline: Pipeline, text: str, *files: tuple[str, str, bytes]) -> Message:
    """files: name, media type and content of each."""
    bot = pipeline.slack.workspace(TEAM).bot_user_id
    attached = [
        {"name": name, "mimetype": mime_type, "content_base64": base64.b64encode(content).decode()}
        for name, mime_type, content in files
    ]
    question = pipeline.slack.say(f"<@{bot}> {text}", team=TEAM, channel=CHANNEL, files=attached)
    await pipeline.receive(pipeline.envelope({**question.wire(TEAM), "type": "app_mention", "channel": CHANNEL}))
    return question


async def timeline(pipeline: Pipeline) -> str:
    """Of the only execution, as an operator reads it."""
    execution_id = str((await pipeline.one("SELECT id FROM executions"))["id"])
    events = await pipeline.services.executions.timeline(OrganizationId(ORGANIZATION), execution_id)
    return "\n".join(step.words for step in narrate(events))


async def test_question_thread_and_files_leave_without_it_and_the_timeline_counts_it(pipeline: Pipeline) -> None:
    root = pipeline.slack.say(f"my card is {CARD}", team=TEAM, channel=CHANNEL)
    await pipeline.mention(f"charge {CARD}, tell {MAIL}", thread_ts=root.ts)
    await pipeline.take_events()  # first: events of two conversations have no order
    file = (f"of {MAIL}.txt", "text/plain", f"deploy with {TOKEN}".encode())
    await mention_with_files(pipeline, "read this", file)

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


INVOICE = ("invoice.pdf", "application/pdf", pdf(page_of(f"send to {MAIL}", f"card {CARD}")))
MEMO = ("memo.docx", "application/octet-stream", docx(f"write to {MAIL}"))
SCAN = ("scan.pdf", "application/pdf", pdf(PICTURE))
PHOTO = ("photo.png", "image/png", b"\x89PNG a photo")


async def test_documents_leave_as_their_masked_text_and_what_nobody_can_read_is_said(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    question = await mention_with_files(pipeline, "read these", INVOICE, MEMO, SCAN, PHOTO)

    await pipeline.answer_everything()

    sent = sent_to_opencode(pipeline)
    assert "[The text of invoice.pdf." in sent
    assert "write to [mail address " in sent
    assert not [value for value in (CARD, MAIL) if value in sent]
    assert SCAN[2].decode() in sent
    (reply,) = pipeline.replies(question)
    assert "Passed on without a check for sensitive data: scan.pdf, photo.png." in reply
    assert "as text with sensitive data masked, without layout and pictures: invoice.pdf, memo.docx." in reply
    assert (
        "masked before it left: card number (1), mail address (2); "
        "files that could not be looked through, sent as they were: picture (1), without text (1)"
    ) in await timeline(pipeline)
    logged = capsys.readouterr().out
    assert "execution.submitted" in logged
    told = logged + await timeline(pipeline)
    assert not [value for value in (CARD, MAIL, "invoice", "scan.pdf") if value in told]


async def test_a_document_that_may_not_leave_refuses_the_request(pipeline: Pipeline) -> None:
    await set_masking(pipeline, MaskingPolicy.REFUSE)
    question = await mention_with_files(pipeline, "read this", INVOICE)

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["rejected"]
    (reply,) = pipeline.replies(question)
    assert "card number, mail address" in reply
    assert pipeline.opencode.simulator.store.sessions == {}


async def test_where_requests_are_refused_nothing_leaves_that_nobody_looked_through(pipeline: Pipeline) -> None:
    await set_masking(pipeline, MaskingPolicy.REFUSE)
    question = await mention_with_files(pipeline, "what is on it?", PHOTO, ("a.txt", "text/plain", b"harmless"))

    await pipeline.answer_everything()

    sent = sent_to_opencode(pipeline)
    assert "harmless" in sent
    assert "a photo" not in sent
    assert "no way to check for sensitive data: photo.png." in pipeline.replies(question)[0]
    assert "files that could not be looked through, held back: picture (1)" in await timeline(pipeline)


async def test_what_became_of_files_is_said_once_however_often_it_is_tried(pipeline: Pipeline) -> None:
    question = await mention_with_files(pipeline, "read it", PHOTO, *[("a.txt", "text/plain", b"a")] * 5)
    pipeline.opencode.simulator.set_faults(idle_without_answer=1)

    await pipeline.answer_everything()
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.answer_everything()

    (reply,) = pipeline.replies(question)
    assert reply.count("photo.png") == 1
    assert reply.count("Not read: a.txt") == 1


# --- out of time ---

LONG = f"{'a long story ' * 1_500} {CARD}"
NO_TIME = Share(-1.0, -1.0)


async def tried_again(pipeline: Pipeline) -> str:
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    return await pipeline.dispatch()


async def test_a_question_that_there_is_never_time_to_look_through_waits_and_its_end_is_said(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine is no failure of the request: only its own time limit ends it."""
    monkeypatch.setattr(mask_prompt, "_QUESTION", NO_TIME)
    question = await pipeline.mention(LONG)
    await pipeline.take_events()

    for _ in range(pipeline.services.settings.retry_orchestration_max_attempts + 1):
        assert (await tried_again(pipeline)).startswith("1 waiting")
    waiting = await pipeline.one("SELECT status, failures, waiting_for, not_before > now() AS later FROM executions")
    told = await timeline(pipeline)
    await pipeline.services.database.system().execute("UPDATE executions SET answer_by = now() - interval '1 s'")
    await pipeline.services.maintain.keep_deadlines()
    await pipeline.deliver()

    assert waiting == {"status": "queued", "failures": 0, "waiting_for": "masking", "later": True}
    assert told.count("waits for time to look through it for sensitive data") == 1
    assert await pipeline.statuses() == ["failed"]
    (reply,) = pipeline.replies(question)
    assert "could not be checked for sensitive data in time" in reply
    assert pipeline.opencode.simulator.store.sessions == {}
    assert await pipeline.one("SELECT error->>'code' AS code FROM executions") == {"code": "not_looked_through"}
    assert await pipeline.one("SELECT reason FROM dead_letters") == {"reason": "attempts-exhausted"}


async def test_whoever_could_long_have_been_tried_again_did_not_end_for_want_of_time(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_QUESTION", NO_TIME)
    await pipeline.mention(LONG)
    await pipeline.take_events()
    await pipeline.dispatch()

    await pipeline.services.database.system().execute(
        "UPDATE executions SET answer_by = now() - interval '1 s', not_before = now() - interval '10 min'"
    )
    await pipeline.services.maintain.keep_deadlines()

    assert await pipeline.one("SELECT error->>'code' AS code FROM executions") == {"code": "not_started_in_time"}


async def test_who_waits_in_a_thread_is_told_what_for(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_prompt, "_QUESTION", NO_TIME)
    question = await pipeline.mention(LONG)
    await pipeline.take_events()
    await pipeline.dispatch()

    await pipeline.late_threads_are_told()
    await pipeline.deliver()

    (notice,) = pipeline.replies(question)
    assert "It waits: there was no time yet to check it for sensitive data" in notice


async def test_a_run_that_goes_on_after_a_pause_needs_no_time_for_its_question(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left before; what was said of its files then is said in the end."""
    await set_caps(pipeline, cost_per_execution=0.17)
    question = await mention_with_files(pipeline, f"{DEAR} {LONG}", PHOTO)
    await pipeline.take_events()
    await pipeline.dispatch()
    await until_paused(pipeline)
    assert await pipeline.statuses() == ["waiting_budget"]
    await set_caps(pipeline, cost_per_execution=100)
    await pipeline.services.keep_budgets.resume_those_with_room()
    monkeypatch.setattr(mask_prompt, "_QUESTION", NO_TIME)

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    assert pipeline.replies(question)[-1].count("Passed on without a check for sensitive data: photo.png.") == 1


async def test_where_the_session_of_a_paused_run_is_lost_its_question_waits_for_time_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_caps(pipeline, cost_per_execution=0.17)
    await mention_with_files(pipeline, f"{DEAR} {LONG}")
    await pipeline.take_events()
    await pipeline.dispatch()
    await until_paused(pipeline)
    pipeline.opencode.simulator.store.sessions.clear()
    await set_caps(pipeline, cost_per_execution=100)
    await pipeline.services.keep_budgets.resume_those_with_room()
    with monkeypatch.context() as busy:
        busy.setattr(mask_prompt, "_QUESTION", NO_TIME)
        await pipeline.dispatch()
    unsent, waiting = sent_to_opencode(pipeline), await pipeline.one("SELECT waiting_for, failures FROM executions")

    await tried_again(pipeline)
    await pipeline.answer_everything()

    assert (unsent, waiting) == ("", {"waiting_for": "masking", "failures": 0})
    assert await pipeline.statuses() == ["completed"]
    sent = sent_to_opencode(pipeline)
    assert "[card number " in sent
    assert CARD not in sent


async def test_a_question_that_there_was_no_time_for_at_first_is_answered_later(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pipeline.mention(LONG)
    await pipeline.take_events()
    with monkeypatch.context() as busy:
        busy.setattr(mask_prompt, "_QUESTION", NO_TIME)
        await pipeline.dispatch()
    assert await pipeline.statuses() == ["queued"]

    await tried_again(pipeline)
    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    sent = sent_to_opencode(pipeline)
    assert "a long story" in sent
    assert "[card number " in sent
    assert CARD not in sent


async def test_a_thread_is_read_once_and_goes_along_when_there_is_time_for_its_question(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a quota of one a minute the second try would go without it."""
    reads = reads_of_threads(monkeypatch)
    root = pipeline.slack.say("the build is red", team=TEAM, channel=CHANNEL)
    await pipeline.mention(LONG, thread_ts=root.ts)
    await pipeline.take_events()
    with monkeypatch.context() as busy:
        busy.setattr(mask_prompt, "_QUESTION", NO_TIME)
        await pipeline.dispatch()
    assert await pipeline.statuses() == ["queued"]

    await tried_again(pipeline)

    assert await pipeline.statuses() == ["running"]
    assert "the build is red" in sent_to_opencode(pipeline)
    assert len(reads) == 1


def reads_of_threads(patch: pytest.MonkeyPatch) -> list[str]:
    read = SlackMessenger.thread_messages
    reads: list[str] = []

    async def counted(self: SlackMessenger, token: SecretStr, **asked: Any) -> ThreadExcerpt:
        reads.append(asked["thread_ts"])
        return await read(self, token, **asked)

    patch.setattr(SlackMessenger, "thread_messages", counted)
    return reads


async def _long_thread(pipeline: Pipeline) -> Message:
    root = pipeline.slack.say(f"my card is {CARD}", team=TEAM, channel=CHANNEL)
    for _ in range(5):
        pipeline.slack.say("a long story " * 350, team=TEAM, channel=CHANNEL, thread_ts=root.ts)
    await pipeline.mention("what do they say?", thread_ts=root.ts)
    return root


async def test_a_thread_that_there_is_no_time_to_look_through_is_left_out_and_the_answer_says_so(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_CONTEXT", NO_TIME)
    root = await _long_thread(pipeline)

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    assert "a long story" not in sent_to_opencode(pipeline)
    assert "I left out the earlier messages of this thread" in pipeline.replies(root)[-1]
    assert "no time to look through it: thread (1)" in await timeline(pipeline)


async def test_a_thread_that_there_is_time_for_at_the_next_attempt_is_not_said_to_be_left_out(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.opencode.simulator.set_faults(idle_without_answer=1)
    with monkeypatch.context() as busy:
        busy.setattr(mask_prompt, "_CONTEXT", NO_TIME)
        root = await _long_thread(pipeline)
        await pipeline.answer_everything()
    assert "a long story" not in sent_to_opencode(pipeline)

    await tried_again(pipeline)
    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    assert "a long story" in sent_to_opencode(pipeline)
    assert "I left out" not in pipeline.replies(root)[-1]


async def test_a_file_that_there_is_no_time_to_look_through_does_not_leave_as_it_is(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_FILES", NO_TIME)
    question = await mention_with_files(pipeline, "read them", ("list.csv", "text/csv", LONG.encode()), PHOTO)

    await pipeline.answer_everything()

    sent = sent_to_opencode(pipeline)
    assert CARD not in sent
    assert "photo.png" in sent
    (reply,) = pipeline.replies(question)
    assert "there was no time to check for sensitive data: list.csv." in reply
    assert "Passed on without a check for sensitive data: photo.png." in reply
    told = await timeline(pipeline)
    assert "sent as they were: picture (1); left out, there was no time to look through it: files (1)" in told


async def test_earlier_turns_that_there_is_no_time_for_are_left_out_and_model_and_person_are_told(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_EARLIER", NO_TIME)
    question = await pipeline.mention(LONG)
    await pipeline.answer_everything()
    pipeline.opencode.simulator.store.sessions.clear()

    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.answer_everything()

    assert set(await pipeline.statuses()) == {"completed"}
    sent = sent_to_opencode(pipeline)
    assert "(1 turn left out here)" in sent
    assert "a long story" not in sent
    assert "I left out earlier questions of this conversation with their answers (1)" in pipeline.replies(question)[-1]
    told = await pipeline.one(
        "SELECT detail->'left_out' AS left_out FROM execution_events WHERE kind = 'masked' ORDER BY id DESC LIMIT 1"
    )
    assert told == {"left_out": {"earlier turns": 1}}


# --- the ways in: whichever a prompt comes by, it leaves by a door of tests/unit/services/test_prompt_doors.py ---

ORIGIN = Origin("api", "req_1", "")


async def _first_prompt(pipeline: Pipeline) -> None:
    await pipeline.mention(f"charge {CARD}")
    await pipeline.answer_everything()


async def _follow_up(pipeline: Pipeline) -> None:
    question = await pipeline.mention("remember this")
    await pipeline.answer_everything()
    await pipeline.say(f"charge {CARD}", thread_ts=question.ts)
    await pipeline.answer_everything()


async def _thread(pipeline: Pipeline) -> None:
    root = pipeline.slack.say(f"my card is {CARD}", team=TEAM, channel=CHANNEL)
    await pipeline.mention("charge it", thread_ts=root.ts)
    await pipeline.answer_everything()


async def _earlier_turns(pipeline: Pipeline) -> None:
    question = await pipeline.mention(f"remember {CARD}")
    await pipeline.answer_everything()
    pipeline.opencode.simulator.store.sessions.clear()
    await pipeline.say("charge it", thread_ts=question.ts)
    await pipeline.answer_everything()


async def _document(pipeline: Pipeline) -> None:
    await mention_with_files(pipeline, "charge it", INVOICE)
    await pipeline.answer_everything()


async def _submission(pipeline: Pipeline) -> None:
    """Of an upstream service: over HTTP, the bridge, the sidecar form, the broker or the command line."""
    request = SubmitRequest(prompt=f"charge {CARD}", idempotency_key="k1")
    await pipeline.services.submit_execution.submit(
        _organization(), request, source="api", correlation_id="req_1", traceparent=""
    )
    await pipeline.answer_everything()


async def _batch(pipeline: Pipeline) -> None:
    requests = [{"prompt": f"charge {CARD}"}, {"prompt": f"charge {CARD} again"}]
    request = BatchRequest.model_validate({"requests": requests})
    await pipeline.services.submit_group.submit(_organization(), request, ORIGIN)
    await pipeline.answer_everything()


def _organization() -> Organization:
    return Organization(OrganizationId(ORGANIZATION), "Pipeline")


@pytest.mark.parametrize(
    "comes_in",
    [_first_prompt, _follow_up, _thread, _earlier_turns, _document, _submission, _batch],
    ids=lambda way: way.__name__.strip("_"),
)
async def test_whichever_way_it_comes_in_it_leaves_masked(
    pipeline: Pipeline, comes_in: Callable[[Pipeline], Awaitable[None]]
) -> None:
    await comes_in(pipeline)

    assert set(await pipeline.statuses()) == {"completed"}
    sent = sent_to_opencode(pipeline)
    assert "[card number " in sent
    assert CARD not in sent
