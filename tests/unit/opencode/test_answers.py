"""An answer as it comes, step by step: no server, no clock, no loop."""

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from nubabel_workers.adapters.opencode import MessagePage, Session, endpoints
from nubabel_workers.domain.errors import NotFoundError, UnavailableError, UncertainError
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.opencode_events import (
    Disposed,
    Heartbeat,
    MessageUpdated,
    PermissionAsked,
    ServerConnected,
    ServerEvent,
    SessionError,
    SessionIdle,
    TextDelta,
    ToolUpdate,
)
from nubabel_workers.domain.verdict import BUSY, PartKind, Role, RunError, RunMessage, RunPart, SessionState
from nubabel_workers.opencode.answers import AnswerEnd, AnswerText, Ask, NextBurst, Outcome, Pause, follow_answer

SES, MINE, STEP, NEXT = "ses_1", "msg_mine", "msg_step", "msg_next"
SUBMIT = endpoints.submit_prompt(SES, message_id=MINE, parts=[])
USAGE = Usage(input_tokens=1, output_tokens=2)
IDLE_EVENT = SessionIdle(SES)
TOOL = ToolUpdate(SES, STEP, "call_1", "bash", "running", None)
QUESTION = PermissionAsked("per_1", SES, "bash", (), "/d")

ASKED = RunMessage(MINE, Role.USER, created_ms=100)


def assistant(text: str, *, message_id: str = STEP, finish: str | None = "stop", **fields: Any) -> RunMessage:
    parts = (RunPart(PartKind.TEXT, text),) if text else ()
    given: dict[str, Any] = {"parent_id": MINE, "completed": finish is not None, "usage": USAGE, **fields}
    return RunMessage(message_id, Role.ASSISTANT, finish=finish, parts=parts, **given)


def asked(message_id: str = MINE, created_ms: int = 100) -> MessageUpdated:
    return MessageUpdated(SES, message_id, Role.USER, None, created_ms, completed=False, summary=False)


def begun(message_id: str = STEP, parent: str = MINE, *, summary: bool = False) -> MessageUpdated:
    return MessageUpdated(SES, message_id, Role.ASSISTANT, parent, 101, completed=False, summary=summary)


def delta(text: str, message_id: str = STEP, session: str = SES) -> TextDelta:
    return TextDelta(session, message_id, "prt_1", text)


class Server:
    """Plays the shell: bursts in order, then the deadline is over; stored messages as they stand by then."""

    def __init__(self, *bursts: Sequence[ServerEvent] | None, stored: Sequence[RunMessage] = ()) -> None:
        self.stored: list[RunMessage] = [ASKED, *stored]
        self.state: SessionState | None = None
        self.now = 0.0
        self.pauses: list[float] = []
        self.calls: list[str] = []
        self.errors: dict[str, list[Exception]] = {}
        self.after_calls: dict[str, Any] = {}
        self._bursts = [[ServerConnected()], *bursts]

    def told(self, timeout_s: float = 60.0) -> list[Any]:
        steps = follow_answer(SUBMIT, SES, MINE, timeout_s=timeout_s, now=lambda: self.now)
        return list(self._played(steps))

    def _played(self, steps: Generator[Any, Any, None]) -> Generator[Any, None, None]:
        outcome: Any = None
        error: Exception | None = None
        while True:
            try:
                step = steps.throw(error) if error is not None else steps.send(outcome)
            except StopIteration:
                return
            outcome, error = None, None
            match step:
                case NextBurst():
                    outcome = self._bursts.pop(0) if self._bursts else None
                case Pause(seconds=seconds):
                    self.pauses.append(seconds)
                    self.now += seconds
                case Ask(call=call):
                    self.calls.append(call.name)
                    if self.errors.get(call.name):
                        error = self.errors[call.name].pop(0)
                    else:
                        outcome = self._answer(call.name)
                case piece:
                    yield piece

    def _answer(self, name: str) -> Any:
        if name == "abort":
            self.state = None
        return {
            "get_session": Session(SES, "T", "/d"),
            "list_messages": MessagePage(self.stored, None),
            "session_status": {SES: self.state} if self.state is not None else {},
            "get_message": ASKED,
        }.get(name)


def texts(told: Sequence[Any]) -> list[tuple[str, str]]:
    return [(piece.message_id, piece.text) for piece in told if isinstance(piece, AnswerText)]


def test_text_tools_and_end_come_in_order() -> None:
    server = Server(
        [asked(), begun(), delta("Hello "), TOOL],
        [delta("you")],
        [IDLE_EVENT],
        stored=[assistant("Hello you")],
    )

    assert server.told() == [
        AnswerText(STEP, "Hello "),
        TOOL,
        AnswerText(STEP, "you"),
        AnswerEnd(Outcome.ANSWERED, "Hello you", usage=USAGE),
    ]


def test_prompt_is_sent_only_when_the_stream_is_heard() -> None:
    server = Server([IDLE_EVENT], stored=[assistant("hi")])

    server.told()

    assert server.calls[:2] == ["get_session", "submit_prompt"]
    assert server.pauses[0] > 0


def test_nothing_is_sent_when_the_stream_does_not_open() -> None:
    server = Server()
    server._bursts = []

    with pytest.raises(UnavailableError, match="not sent"):
        server.told()
    assert "submit_prompt" not in server.calls


@pytest.mark.parametrize(
    "event",
    [
        delta("x", session="ses_other"),
        SessionIdle("ses_other"),
        SessionError("ses_other", "APIError", "theirs"),
        ToolUpdate("ses_other", STEP, "call_1", "bash", "running", None),
        delta("summary", "msg_summary"),
        begun("msg_summary", summary=True),
        delta("other prompt's", "msg_unknown"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_belongs_to_others_is_not_told(event: ServerEvent) -> None:
    server = Server([asked(), begun("msg_summary", summary=True), event], [IDLE_EVENT], stored=[assistant("hi")])

    assert server.told() == [AnswerText(STEP, "hi"), AnswerEnd(Outcome.ANSWERED, "hi", usage=USAGE)]


def test_answers_to_what_opencode_inserts_are_told_too() -> None:
    inserted = RunMessage("msg_go", Role.USER, created_ms=105, parts=(RunPart(PartKind.TEXT, "go on", synthetic=True),))
    server = Server(
        [asked(), asked("msg_go", 105), begun(NEXT, "msg_go"), delta("more", NEXT)],
        [IDLE_EVENT],
        stored=[inserted, assistant("more", message_id=NEXT, parent_id="msg_go")],
    )

    assert texts(server.told()) == [(NEXT, "more")]


def test_answer_to_an_earlier_prompt_is_not_told() -> None:
    server = Server(
        [asked("msg_earlier", 50), asked(), begun(NEXT, "msg_earlier"), delta("earlier", NEXT)],
        [IDLE_EVENT],
        stored=[assistant("hi")],
    )

    assert texts(server.told()) == [(STEP, "hi")]


# --- lost pieces ---


def test_text_that_a_broken_connection_swallowed_comes_when_it_is_stored() -> None:
    server = Server(
        [asked(), begun(), delta("one ")],
        [],
        [ServerConnected(), delta("three ")],
        [IDLE_EVENT],
        stored=[assistant("one two three ")],
    )

    assert texts(server.told()) == [(STEP, "one "), (STEP, "two three ")]


def test_step_that_began_while_nobody_listened_is_told_when_it_is_complete() -> None:
    server = Server(
        [asked(), begun(), delta("one")],
        [ServerConnected()],
        [delta("lf", NEXT), IDLE_EVENT],
        stored=[assistant("one", finish="tool-calls"), assistant("half", message_id=NEXT)],
    )

    assert texts(server.told()) == [(STEP, "one"), (NEXT, "half")]


def test_stored_text_that_differs_is_only_in_the_end() -> None:
    server = Server([asked(), begun(), delta("two")], [IDLE_EVENT], stored=[assistant("one two")])

    assert server.told() == [AnswerText(STEP, "two"), AnswerEnd(Outcome.ANSWERED, "one two", usage=USAGE)]


def test_second_heartbeat_finds_an_end_that_no_event_told() -> None:
    server = Server([Heartbeat()], [Heartbeat()], stored=[assistant("hi")])

    assert server.told() == [AnswerText(STEP, "hi"), AnswerEnd(Outcome.ANSWERED, "hi", usage=USAGE)]


def test_heartbeat_just_at_the_end_hides_nothing_that_the_stream_still_has_to_tell() -> None:
    server = Server(
        [Heartbeat()],
        [asked(), begun(), TOOL, delta("Hello "), delta("you"), IDLE_EVENT],
        stored=[assistant("Hello you")],
    )

    assert server.told() == [
        TOOL,
        AnswerText(STEP, "Hello "),
        AnswerText(STEP, "you"),
        AnswerEnd(Outcome.ANSWERED, "Hello you", usage=USAGE),
    ]


def test_broken_connection_looks_for_the_end_too() -> None:
    assert Server([], stored=[assistant("hi")]).told()[-1].outcome is Outcome.ANSWERED


def test_server_that_is_away_is_looked_at_again() -> None:
    server = Server([IDLE_EVENT], [Heartbeat()], stored=[assistant("hi")])
    server.errors["list_messages"] = [UnavailableError("away")]

    assert server.told()[-1].outcome is Outcome.ANSWERED


# --- ends ---


@pytest.mark.parametrize(
    ("stored", "end"),
    [
        pytest.param(
            [assistant("hi", finish="length")], AnswerEnd(Outcome.ANSWERED, "hi", cut=True, usage=USAGE), id="cut"
        ),
        pytest.param(
            [assistant("", error=RunError("APIError", "no", 401), finish=None, completed=True)],
            AnswerEnd(Outcome.FAILED, error=RunError("APIError", "no", 401), usage=USAGE),
            id="model's error",
        ),
        pytest.param(
            [assistant("", finish="tool-calls")],
            None,
            id="restarted between two steps",
        ),
    ],
)
def test_end_is_what_the_messages_say(stored: list[RunMessage], end: AnswerEnd | None) -> None:
    told = Server([IDLE_EVENT], stored=stored).told()[-1]

    assert told == end if end is not None else told.outcome is Outcome.LOST


def test_idle_before_the_last_message_is_stored_is_looked_at_twice() -> None:
    server = Server([IDLE_EVENT], stored=[assistant("", finish=None)])
    original = server._answer

    def answer(name: str) -> Any:
        if server.calls.count("list_messages") == 2:
            server.stored = [ASKED, assistant("hi")]
        return original(name)

    server._answer = answer  # type: ignore[method-assign]

    assert server.told()[-1] == AnswerEnd(Outcome.ANSWERED, "hi", usage=USAGE)


def test_error_of_a_run_that_goes_on_is_no_end() -> None:
    server = Server([SessionError(SES, "ContextOverflowError", "big")], [IDLE_EVENT], stored=[assistant("hi")])
    server.state = BUSY
    original = server._answer

    def answer(name: str) -> Any:
        if server.calls.count("list_messages") == 2:
            server.state = None
        return original(name)

    server._answer = answer  # type: ignore[method-assign]

    assert server.told()[-1].outcome is Outcome.ANSWERED


def test_unknown_agent_is_told_by_its_error() -> None:
    server = Server([SessionError(SES, "UnknownError", "Agent not found")])
    server.stored = []

    assert server.told() == [AnswerEnd(Outcome.FAILED, error=RunError("UnknownError", "Agent not found"))]


def test_prompt_may_be_stored_a_moment_after_it_was_accepted() -> None:
    server = Server([Heartbeat()], [IDLE_EVENT], stored=[])
    original = server._answer

    def answer(name: str) -> Any:
        first = server.calls.count("list_messages") == 1
        server.stored = [] if first else [ASKED, assistant("hi")]
        return original(name)

    server._answer = answer  # type: ignore[method-assign]

    assert server.told()[-1].outcome is Outcome.ANSWERED


@pytest.mark.parametrize("event", [Disposed("/d"), IDLE_EVENT], ids=["disposed", "idle"])
def test_run_that_never_began_is_lost(event: ServerEvent) -> None:
    assert Server([event]).told() == [AnswerEnd(Outcome.LOST)]


def test_time_that_is_over_aborts_the_run() -> None:
    server = Server([asked(), begun(), delta("so far")], stored=[assistant("so far", finish=None)])
    server.state = BUSY

    told = server.told()

    assert "abort" in server.calls
    assert (told[-1].outcome, told[-1].text) == (Outcome.TIMED_OUT, "so far")


def test_answer_that_is_there_in_the_last_moment_counts() -> None:
    assert Server(stored=[assistant("hi")]).told()[-1].outcome is Outcome.ANSWERED


def test_time_that_is_over_while_the_server_is_away_tells_what_there_is() -> None:
    server = Server([asked(), begun(), delta("so far")])
    server.errors["abort"] = [UnavailableError("away")]

    assert server.told()[-1] == AnswerEnd(Outcome.TIMED_OUT, "so far")


def test_ask_is_told() -> None:
    assert QUESTION in Server([QUESTION], [IDLE_EVENT], stored=[assistant("hi")]).told()


# --- a prompt whose answer got lost ---


def test_lost_answer_of_a_prompt_that_arrived_is_no_error() -> None:
    server = Server([IDLE_EVENT], stored=[assistant("hi")])
    server.errors["submit_prompt"] = [UncertainError("lost")]

    assert server.told()[-1].outcome is Outcome.ANSWERED


def test_lost_answer_of_a_prompt_that_is_not_there_stays_uncertain() -> None:
    server = Server()
    server.errors["submit_prompt"] = [UncertainError("lost")]
    server.errors["get_message"] = [NotFoundError("no")]

    with pytest.raises(UncertainError):
        server.told()
