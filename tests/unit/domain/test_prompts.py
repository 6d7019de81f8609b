"""Context in front of a question: complete while it fits, the newest kept when it doesn't."""

from nubabel_workers.domain.prompts import earlier_turns, thread_context
from nubabel_workers.domain.slack_events import ThreadMessage
from nubabel_workers.domain.wording import Language, language_of, say


def message(text: str, *, is_bot: bool = False) -> ThreadMessage:
    return ThreadMessage(user="U1", text=text, ts="1.1", is_bot=is_bot)


def test_earlier_messages_stand_in_their_order_with_their_authors() -> None:
    text = thread_context([message("first"), message("second", is_bot=True)])

    assert text.splitlines()[1:] == ["<U1> first", "<U1 (bot)> second"]


def test_too_much_context_keeps_the_newest_and_says_how_much_is_missing() -> None:
    text = thread_context([message("x" * 5_000) for _ in range(6)])

    assert "(2 older left out)" in text
    assert text.count("<U1>") == 4


def test_one_long_message_is_shortened_in_its_middle_and_pushes_out_no_other() -> None:
    text = earlier_turns([("my name is Ada", "hello Ada"), ("write a lot", f"it begins {'x' * 30_000} and ends")])

    assert "my name is Ada" in text
    assert "it begins" in text
    assert "and ends" in text
    assert len(text) < 10_000


def test_no_messages_are_no_context() -> None:
    assert thread_context([]) == ""
    assert earlier_turns([]) == ""


def test_earlier_turns_are_question_and_answer() -> None:
    assert "User: 6 x 7?\nAssistant: 42" in earlier_turns([("6 x 7?", "42")])


def test_one_korean_letter_makes_a_text_korean() -> None:
    assert language_of("deploy 해줘") is Language.KOREAN
    assert language_of("deploy it") is Language.ENGLISH


def test_texts_are_filled_in() -> None:
    assert "exe_1" in say("failed", Language.ENGLISH, reference="exe_1")
