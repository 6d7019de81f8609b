"""Context in front of a question: complete while it fits, the newest kept when it doesn't."""

from nubabel_workers.domain.prompts import thread_context
from nubabel_workers.domain.slack_events import ThreadMessage
from nubabel_workers.domain.wording import Language, language_of, say


def message(text: str, *, is_bot: bool = False) -> ThreadMessage:
    return ThreadMessage(user="U1", text=text, ts="1.1", is_bot=is_bot)


def test_earlier_messages_stand_in_their_order_with_their_authors() -> None:
    context = thread_context([message("first"), message("second", is_bot=True)])

    assert context.text.splitlines()[1:] == ["<U1> first", "<U1 (bot)> second"]
    assert context.left_out == 0


def test_too_long_a_thread_keeps_its_root_and_the_newest_and_says_how_much_is_missing_between() -> None:
    context = thread_context([message(f"{number} {'x' * 4_900}") for number in range(7)])

    assert [line[:6] for line in context.text.splitlines()[1:]] == ["<U1> 0", "(3 mes", "<U1> 4", "<U1> 5", "<U1> 6"]
    assert (context.newest, context.left_out) == (3, 3)


def test_a_thread_whose_newest_could_not_be_read_says_so_at_its_end() -> None:
    context = thread_context([message("the root"), message("first")], newest_unread=True)

    assert context.text.splitlines()[1:] == ["<U1> the root", "<U1> first", "(newer messages could not be read)"]


def test_no_messages_are_no_context() -> None:
    assert thread_context([]).text == ""


def test_one_korean_letter_makes_a_text_korean() -> None:
    assert language_of("deploy 해줘") is Language.KOREAN
    assert language_of("deploy it") is Language.ENGLISH


def test_texts_are_filled_in() -> None:
    assert "exe_1" in say("failed", Language.ENGLISH, reference="exe_1")
