"""Ids in OpenCode's format, the same for every attempt."""

import re

import pytest

from nubabel_workers.adapters.opencode import opencode_id, prompt_ids

CREATED_MS = 1_795_216_193_362


@pytest.mark.parametrize("prefix", ["ses", "msg", "prt"])
def test_format_is_that_of_the_server(prefix: str) -> None:
    assert re.fullmatch(prefix + r"_[0-9a-f]{12}[0-9A-Za-z]{14}", opencode_id(prefix, CREATED_MS, "seed"))


def test_time_part_is_what_a_real_server_drew_in_that_millisecond() -> None:
    assert opencode_id("ses", CREATED_MS, "seed")[:16] == "ses_e04c6c8adffe"
    assert opencode_id("msg", 1_795_216_264_415, "seed")[:16] == "msg_1fb3a4cdf001"


def test_same_input_gives_the_same_ids() -> None:
    first = prompt_ids("org_a", "ses_1", "exe_1", created_ms=CREATED_MS, parts=2)

    assert first == prompt_ids("org_a", "ses_1", "exe_1", created_ms=CREATED_MS, parts=2)
    assert len({first.message_id, *first.part_ids}) == 3


@pytest.mark.parametrize(
    "other",
    [
        ("org_b", "ses_1", "exe_1"),
        ("org_a", "ses_2", "exe_1"),
        ("org_a", "ses_1", "exe_2"),
        ("org_as", "es_1", "exe_1"),
    ],
)
def test_everything_that_tells_prompts_apart_is_in_the_id(other: tuple[str, str, str]) -> None:
    mine = prompt_ids("org_a", "ses_1", "exe_1", created_ms=CREATED_MS)

    assert prompt_ids(*other, created_ms=CREATED_MS).message_id != mine.message_id


def test_messages_sort_by_time_and_sessions_against_it() -> None:
    assert opencode_id("msg", CREATED_MS, "z") < opencode_id("msg", CREATED_MS + 1, "a")
    assert opencode_id("ses", CREATED_MS, "a") > opencode_id("ses", CREATED_MS + 1, "z")
    assert opencode_id("prt", CREATED_MS, "z", n=1) < opencode_id("prt", CREATED_MS, "a", n=2)
