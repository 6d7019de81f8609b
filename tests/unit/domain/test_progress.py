"""The same progress, told by the listener and by the plugin, is shown once."""

from dataclasses import replace

import pytest

from nubabel_workers.domain.progress import ProgressItem, ProgressSource, TextProgress, ToolProgress, news_of

LISTENER, PLUGIN = ProgressSource.LISTENER, ProgressSource.PLUGIN


def tool(status: str, title: str | None = None) -> ToolProgress:
    return ToolProgress("ses_1", "call_1", "bash", status, title)


def shown(*told: tuple[ProgressItem, ProgressSource]) -> list[ProgressItem]:
    known: str | None = None
    news = []
    for item, source in told:
        remembered = news_of(item, source, known)
        if remembered is not None:
            known = remembered
            news.append(item)
    return news


@pytest.mark.parametrize("first", [LISTENER, PLUGIN])
def test_a_state_of_a_call_is_told_once_whoever_is_first(first: ProgressSource) -> None:
    second = PLUGIN if first is LISTENER else LISTENER

    assert shown((tool("running"), first), (tool("running"), second), (tool("running"), first)) == [tool("running")]


def test_a_call_goes_only_forward() -> None:
    told = [(tool(status), PLUGIN) for status in ("running", "pending", "completed", "running", "error")]

    assert shown(*told) == [tool("running"), tool("completed")]


def test_calls_of_two_messages_under_one_id_are_two_calls() -> None:
    first = replace(tool("completed"), message_id="msg_1")
    second = replace(tool("running"), message_id="msg_2")

    assert first.name != second.name
    assert [one.event()["message_id"] for one in (first, second)] == ["msg_1", "msg_2"]


def test_a_title_that_was_not_told_is_news_and_is_not_forgotten() -> None:
    titled = tool("running", "Runs the tests")

    assert shown(
        (tool("running"), LISTENER), (titled, LISTENER), (titled, PLUGIN), (tool("running"), PLUGIN), (titled, PLUGIN)
    ) == [tool("running"), titled]


def test_text_is_told_by_whoever_was_first_with_its_part() -> None:
    piece, whole = TextProgress("prt_1", "Hel"), TextProgress("prt_1", "Hello")

    assert shown((piece, LISTENER), (piece, LISTENER), (whole, PLUGIN)) == [piece, piece]
    assert shown((whole, PLUGIN), (piece, LISTENER), (whole, PLUGIN)) == [whole]


def test_an_event_is_bounded() -> None:
    assert len(TextProgress("prt_1", "x" * 100_000).event()["text"]) == 16_384
