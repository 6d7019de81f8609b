"""The library's own clients on a server: answers as they come, events over broken connections, both twins."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from nubabel_workers.opencode import (
    AnswerEnd,
    AnswerPiece,
    AnswerText,
    AsyncOpenCode,
    Done,
    NotFoundError,
    OpenCode,
    Outcome,
    PermissionAsked,
    PermissionRule,
    QuestionAsked,
    ReconnectLimits,
    ServerConnected,
    Session,
    SessionIdle,
    ToolUpdate,
    new_prompt,
    run_all,
)
from tests.contract.opencode.backends import AGENT, MODEL, Backend
from tests.contract.opencode.test_runs import BASH

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LIMIT_S = 30.0


@pytest_asyncio.fixture(loop_scope="session")
async def opencode(backend: Backend) -> AsyncIterator[AsyncOpenCode]:
    limits = ReconnectLimits(first_wait_s=0.05, max_wait_s=0.5)
    async with AsyncOpenCode(
        backend.url, username=backend.username, password=backend.password, reconnect=limits
    ) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def session(opencode: AsyncOpenCode, backend: Backend) -> Session:
    return await opencode.create_session(title="library", directory=str(backend.directory))


async def streamed(opencode: AsyncOpenCode, session: Session, text: str, **choices: str) -> list[AnswerPiece]:
    chosen = {"agent": AGENT, "model": MODEL} | choices
    async with (
        asyncio.timeout(_LIMIT_S),
        contextlib.aclosing(opencode.stream(session.id, text, agent=chosen["agent"], model=chosen["model"])) as pieces,
    ):
        return [piece async for piece in pieces]


def text_of(pieces: list[AnswerPiece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, AnswerText))


def end_of(pieces: list[AnswerPiece]) -> AnswerEnd:
    end = pieces[-1]
    assert isinstance(end, AnswerEnd)
    assert sum(isinstance(piece, AnswerEnd) for piece in pieces) == 1
    return end


async def test_answer_is_streamed_word_by_word_and_ends(opencode: AsyncOpenCode, session: Session) -> None:
    pieces = await streamed(opencode, session, "[[tokens=50]] [[gap=0.01]]")

    end = end_of(pieces)
    assert (end.outcome, end.text.split()) == (Outcome.ANSWERED, [f"word{n}" for n in range(50)])
    assert text_of(pieces).strip() == end.text
    assert sum(isinstance(piece, AnswerText) for piece in pieces) > 10
    assert end.usage.output_tokens == 50


async def test_thoughts_and_the_words_of_a_compaction_are_no_answer(opencode: AsyncOpenCode, session: Session) -> None:
    pieces = await streamed(opencode, session, "[[reasoning=3]] [[overflow]] [[times=1]] hello")

    assert "think" not in text_of(pieces)
    assert "Stub summary" not in text_of(pieces)
    assert end_of(pieces).outcome is Outcome.ANSWERED


async def test_tools_are_told_as_they_run(opencode: AsyncOpenCode, session: Session) -> None:
    pieces = await streamed(opencode, session, BASH)

    statuses = [piece.status for piece in pieces if isinstance(piece, ToolUpdate)]
    assert (statuses[0], statuses[-1]) == ("pending", "completed")
    assert isinstance(pieces[-2], AnswerText)
    assert end_of(pieces).text.startswith("ECHO[4]")


async def test_models_error_ends_the_answer(opencode: AsyncOpenCode, session: Session) -> None:
    end = end_of(await streamed(opencode, session, "[[status=401]]"))

    assert end.outcome is Outcome.FAILED
    assert end.error is not None
    assert end.error.status_code == 401


@pytest.mark.parametrize("choices", [{"agent": "nosuch"}, {"model": "stub/nosuch"}], ids=["agent", "model"])
async def test_unknown_agent_or_model_ends_the_answer(
    opencode: AsyncOpenCode, session: Session, choices: dict[str, str]
) -> None:
    end = end_of(await streamed(opencode, session, "hello", **choices))

    assert end.outcome is Outcome.FAILED
    assert end.error is not None
    assert "not found" in end.error.message or end.error.name == "UnknownError"


async def test_aborted_answer_is_cancelled_with_what_it_had(opencode: AsyncOpenCode, session: Session) -> None:
    pieces: list[AnswerPiece] = []
    async with contextlib.aclosing(
        opencode.stream(session.id, "[[tokens=9]] [[hang=mid]]", agent=AGENT, model=MODEL)
    ) as stream:
        async for piece in stream:
            pieces.append(piece)
            if len(text_of(pieces).split()) == 3:
                await opencode.abort(session.id)

    assert end_of(pieces).outcome is Outcome.CANCELLED
    assert end_of(pieces).text == text_of(pieces).strip()


async def test_answer_that_takes_too_long_is_aborted(opencode: AsyncOpenCode, session: Session) -> None:
    stream = opencode.stream(session.id, "[[hang]]", agent=AGENT, model=MODEL, timeout_s=1.0)

    async with contextlib.aclosing(stream) as pieces:
        told = [piece async for piece in pieces]

    assert end_of(told).outcome is Outcome.TIMED_OUT
    assert session.id not in await opencode.session_status(session.directory)


async def test_ask_is_told_and_the_answer_goes_on_after_the_reply(opencode: AsyncOpenCode, backend: Backend) -> None:
    rules = [PermissionRule("bash", "ask"), PermissionRule("question", "allow")]
    session = await opencode.create_session(title="asks", permission=rules, directory=str(backend.directory))
    told: list[AnswerPiece] = []

    prompt = f"{BASH} [[question]]"
    async with contextlib.aclosing(opencode.stream(session.id, prompt, agent=AGENT, model=MODEL)) as pieces:
        async for piece in pieces:
            told.append(piece)
            if isinstance(piece, PermissionAsked):
                await opencode.reply_permission(piece.id, allow=True, directory=piece.directory)
            elif isinstance(piece, QuestionAsked):
                await opencode.reply_question(piece.id, [["Red"]], directory=piece.directory)

    assert any(isinstance(piece, PermissionAsked) for piece in told)
    assert end_of(told).outcome is Outcome.ANSWERED


async def test_restarted_server_loses_the_answer_and_the_same_prompt_runs_again(
    opencode: AsyncOpenCode, session: Session, backend: Backend
) -> None:
    prompt = new_prompt("[[tokens=9]] [[hang=mid]] [[times=1]]")
    told: list[AnswerPiece] = []

    async with contextlib.aclosing(opencode.stream(session.id, prompt, agent=AGENT, model=MODEL)) as pieces:
        async for piece in pieces:
            told.append(piece)
            if len(text_of(told).split()) == 3:
                await backend.crash()
    again = [p async for p in opencode.stream(session.id, prompt, agent=AGENT, model=MODEL)]

    assert end_of(told).outcome is Outcome.LOST
    assert end_of(again).outcome is Outcome.ANSWERED


async def test_answer_in_an_unknown_session_is_not_found(opencode: AsyncOpenCode) -> None:
    with pytest.raises(NotFoundError):
        await anext(opencode.stream("ses_nosuch", "hello"))


async def test_events_go_on_after_a_broken_connection(
    opencode: AsyncOpenCode, session: Session, backend: Backend
) -> None:
    connections = 0
    async with asyncio.timeout(_LIMIT_S), contextlib.aclosing(opencode.events()) as events:
        async for event in events:
            if isinstance(event, ServerConnected):
                connections += 1
                if connections == 1:
                    await backend.crash()
                else:
                    await asyncio.sleep(0.2)  # not heard yet: the real server is deaf for a moment
                    await opencode.abort(session.id)
            elif connections == 2 and event == SessionIdle(session.id):
                break

    assert connections == 2


async def test_batch_of_prompts_is_answered_in_order(opencode: AsyncOpenCode, backend: Backend) -> None:
    sessions = [await opencode.create_session(title=f"{n}", directory=str(backend.directory)) for n in range(4)]

    async def ask(number: int) -> str:
        answer = await opencode.send(sessions[number].id, f"question {number}", agent=AGENT, model=MODEL)
        return answer.text

    outcomes = await run_all([lambda n=n: ask(n) for n in range(4)], limit=2)  # type: ignore[misc]

    assert outcomes == [Done(f"ECHO[2]: question {n}") for n in range(4)]


async def test_blocking_twin_does_the_same(backend: Backend) -> None:
    def converse() -> tuple[str, list[AnswerPiece], AnswerEnd]:
        with OpenCode(backend.url, username=backend.username, password=backend.password) as opencode:
            session = opencode.create_session(title="blocking", directory=str(backend.directory))
            sent = opencode.send(session.id, "hello", agent=AGENT, model=MODEL)
            with contextlib.closing(opencode.events()) as events:
                assert isinstance(next(events), ServerConnected)
            pieces = list(opencode.stream(session.id, BASH, agent=AGENT, model=MODEL))
            failed = list(opencode.stream(session.id, "[[status=401]]", agent=AGENT, model=MODEL))
            return sent.text, pieces, end_of(failed)

    sent, pieces, failed = await asyncio.to_thread(converse)

    assert sent == "ECHO[2]: hello"
    assert end_of(pieces).outcome is Outcome.ANSWERED
    assert text_of(pieces).strip() == end_of(pieces).text
    assert failed.outcome is Outcome.FAILED


async def test_prompt_with_a_repeat_is_one_message(opencode: AsyncOpenCode, session: Session) -> None:
    prompt = await opencode.submit(session.id, new_prompt("[[delay=0.3]] once"), agent=AGENT, model=MODEL)
    await opencode.submit(session.id, prompt, agent=AGENT, model=MODEL)

    answer = [p async for p in opencode.stream(session.id, prompt, agent=AGENT, model=MODEL)]

    assert end_of(answer).text == "ECHO[2]: [[delay=0.3]] once"
    assert len((await opencode.list_messages(session.id)).messages) == 2
