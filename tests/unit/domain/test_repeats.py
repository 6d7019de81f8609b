"""Which requests ask the same question."""

from dataclasses import replace

import pytest

from nubabel_workers.domain.executions import Attachment, Execution, Overrides, Status
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, SessionId
from nubabel_workers.domain.repeats import question_of
from tests.fakes.clock import FakeClock

ASKED = Execution(
    id=ExecutionId("exe_1"),
    organization_id=OrganizationId("org_1"),
    session_id=SessionId("ses_1"),
    source="api",
    status=Status.DISPATCHING,
    prompt="Why does it hang?",
    created_at=FakeClock().now(),
    begins_session=True,
)


@pytest.mark.parametrize("prompt", ["Why does it hang?", "  Why does\nit  hang? "])
def test_white_space_makes_no_other_question(prompt: str) -> None:
    assert question_of(replace(ASKED, prompt=prompt)) == question_of(ASKED)


def test_composed_and_decomposed_korean_is_the_same() -> None:
    composed, decomposed = replace(ASKED, prompt="\uac00"), replace(ASKED, prompt="\u1100\u1161")

    assert question_of(composed) == question_of(decomposed)


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, prompt="why does it hang?"),
        replace(ASKED, overrides=Overrides(category="quick")),
        replace(ASKED, overrides=Overrides(skills=("debugging",))),
        replace(ASKED, overrides=Overrides(agent="build")),
        replace(ASKED, overrides=Overrides(model="a/b")),
    ],
)
def test_other_words_or_other_choices_are_another_question(other: Execution) -> None:
    assert question_of(other) != question_of(ASKED)


@pytest.mark.parametrize(
    "more",
    [
        {"begins_session": False},
        {"attachments": (Attachment("a", "text/plain", 1, "http://x"),)},
        {"wants_thread_context": True},
        {"pauses": 1},
    ],
)
def test_what_depends_on_more_than_its_words_has_no_other_answer(more: dict[str, object]) -> None:
    assert question_of(replace(ASKED, **more)) is None  # type: ignore[arg-type]
