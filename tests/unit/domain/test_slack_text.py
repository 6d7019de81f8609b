"""Answers as Slack messages: nothing lost, nothing broken, nobody notified."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nubabel_workers.domain.slack_mrkdwn import escape_mrkdwn, to_mrkdwn
from nubabel_workers.domain.slack_text import (
    FALLBACK_BYTES,
    MAX_TEXT_BYTES,
    fallback_text,
    neutralise,
    reply_parts,
    shorten,
)

JOINER = "\u2060"
LABEL = re.compile(r"^\(\d+/\d+\)\n\n")


def bodies(answer: str, max_chars: int = 1_000, max_parts: int = 50) -> list[str]:
    return [LABEL.sub("", part) for part in reply_parts(answer, max_chars=max_chars, max_parts=max_parts)]


def fences(markdown: str) -> list[tuple[str, str, bool]]:
    """(info, content, closed) of each fence, as a markdown parser sees it."""
    lines = markdown.split("\n")
    found = []
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.type == "fence" and token.map is not None:
            last = lines[min(token.map[1], len(lines)) - 1].strip(" >\t")
            found.append((token.info, token.content, last.startswith(token.markup) and token.map[1] - token.map[0] > 1))
    return found


def test_short_answer_is_one_unnumbered_part() -> None:
    (part,) = reply_parts("**Done.** See `a.py`.")

    assert part == "**Done.** See `a.py`."


@pytest.mark.parametrize("answer", ["", "  \n\n ", "\x00"])
def test_empty_answer_has_no_parts(answer: str) -> None:
    assert reply_parts(answer) == ()


def test_long_answer_is_numbered_and_cut_between_paragraphs() -> None:
    paragraph = "word " * 99 + "end."

    parts = reply_parts("\n\n".join([paragraph] * 4), max_chars=1_200)

    assert [part[:5] for part in parts] == ["(1/2)", "(2/2)"]
    assert all(LABEL.sub("", part) == f"{paragraph}\n\n{paragraph}" for part in parts)


def test_fence_that_fits_is_never_cut() -> None:
    fence = "```py\n" + "x = 1\n" * 100 + "```"
    answer = f"{'intro ' * 70}\n\n{fence}\n\n{'outro ' * 70}"

    assert any(fence in body for body in bodies(answer))


def test_fence_across_the_cut_is_closed_and_opened_again_with_its_info_string() -> None:
    code = "".join(f"line_{number} = {number}\n" for number in range(200))

    parts = bodies(f"Look:\n\n```python title=a\n{code}```\n\nThat is all.")

    seen = [fence for body in parts for fence in fences(body)]
    assert len(parts) > 2
    assert all(info == "python title=a" and closed for info, _, closed in seen)
    assert "".join(content for _, content, _ in seen) == code


def test_fence_in_a_list_item_or_quote_stays_a_fence_across_the_cut() -> None:
    code = [f"line_{number}" for number in range(300)]
    listed = "- item\n\n  ```sh\n" + "".join(f"  {line}\n" for line in code) + "  ```\n"
    quoted = "> ```\n" + "".join(f"> {line}\n" for line in code) + "> ```\n"

    for answer in (listed, quoted):
        seen = [fence for body in bodies(answer) for fence in fences(body)]
        assert all(closed for _, _, closed in seen)
        assert [line for _, content, _ in seen for line in content.split()] == code


def test_fence_that_the_model_never_closed_is_closed_in_the_last_part() -> None:
    assert all(closed for body in bodies("```\n" + "x\n" * 1_000) for _, _, closed in fences(body))


def test_table_that_fits_is_never_cut() -> None:
    table = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 60
    answer = f"{'intro ' * 80}\n\n{table}\n{'outro ' * 80}"

    assert any(table.strip() in body for body in bodies(answer))


def test_table_across_the_cut_repeats_its_header() -> None:
    header = "| number | square |\n|---|---|\n"
    rows = [f"| {number} | {number * number} |\n" for number in range(200)]

    parts = bodies(header + "".join(rows))

    assert len(parts) > 2
    assert all(body.startswith(header) for body in parts)
    assert [line + "\n" for body in parts for line in body.split("\n")[2:]] == rows


def test_heading_stays_with_what_it_heads() -> None:
    answer = f"{'first ' * 140}\n\n## Title\n\n{'second ' * 60}"

    assert bodies(answer)[1].startswith("## Title\n\nsecond")


def test_list_is_cut_between_items() -> None:
    items = [f"- item {number} {'text ' * 10}\n  more of {number}" for number in range(40)]

    parts = bodies("\n".join(items))

    assert len(parts) > 2
    assert all(body.startswith("- item") for body in parts)


def test_overlong_line_is_cut_behind_a_sentence_or_a_space() -> None:
    sentences = bodies("This is a sentence. " * 200)
    words = bodies("word " * 600)

    assert all(body.endswith("sentence.") for body in sentences)
    assert all(body.endswith("word") for body in words)


def test_text_without_any_space_is_cut_without_loss() -> None:
    assert "".join(bodies("가" * 5_000)) == "가" * 5_000


def test_what_exceeds_the_parts_is_cut_with_an_honest_note() -> None:
    answer = "word " * 20_000

    parts = reply_parts(answer, max_parts=3, max_chars=1_000)

    shown = sum(part.count("word") for part in parts)
    left = int(re.search(r"last ([\d,]+) characters are not shown", parts[-1])[1].replace(",", ""))  # type: ignore[index]
    assert len(parts) == 3
    assert abs(len(answer) - left - shown * 5) <= 5


@pytest.mark.parametrize("length", [3_900, 4_100, 13_500, 45_000])
@pytest.mark.parametrize("word", ["word ", "단어 ", "🙂 ", "a<b>&c "])
def test_every_size_fits_slacks_limits(length: int, word: str) -> None:
    parts = reply_parts((word * length)[:length])

    assert len(parts) == -(-length // 9_900)
    assert all(len(part) <= 10_000 for part in parts)
    assert all(len(fallback_text(part).encode()) <= FALLBACK_BYTES for part in parts)


def test_part_size_below_what_fences_and_notes_need_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 characters"):
        reply_parts("x", max_chars=999)


@pytest.mark.parametrize(
    "hostile",
    [
        "<!channel> wake up",
        "<!here|here> wake up",
        "<!everyone>",
        "<!subteam^S123|@devs>",
        "<@U123ABC> look",
        "@channel and @Here and @everyone",
        "`<!channel>` and\n\n```\n<!here>\n```",
    ],
)
def test_mentions_in_the_answer_reach_nobody(hostile: str) -> None:
    (part,) = reply_parts(hostile)

    assert not re.search(r"<[!@]", part)
    assert not re.search(r"@(channel|here|everyone)", part, re.IGNORECASE)
    assert not re.search(r"<[!@]", fallback_text(part))
    assert part.replace(JOINER, "") == hostile


@pytest.mark.parametrize("harmless", ["<!DOCTYPE html>", "<!-- note -->", "mail bob@here.example", "a < b", "@alice"])
def test_lookalikes_are_left_as_they_are(harmless: str) -> None:
    assert neutralise(harmless) == harmless


@pytest.mark.parametrize(
    ("markdown", "mrkdwn"),
    [
        ("**bold** *it* ~~gone~~ `code`", "*bold* _it_ ~gone~ `code`"),
        ("# Title **b**\n\ntext", "*Title b*\n\ntext"),
        ("[docs](https://x.example/a?b=1&c=2)", "<https://x.example/a?b=1&amp;c=2|docs>"),
        ("<https://x.example>", "<https://x.example>"),
        ("[https://good.example](https://evil.example)", "https://good.example (<https://evil.example>)"),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("[file](./a.py)", "file (./a.py)"),
        ("![logo](https://x.example/l.png)", "<https://x.example/l.png|logo>"),
        ("[a|b>](https://x.example/|)", "<https://x.example/%7C|a|b&gt;>"),
        ("- a\n- b\n  - c\n\n1. x\n2. y", "• a\n• b\n    • c\n1. x\n2. y"),
        ("> quoted\n> text", "> quoted\n> text"),
        ("```py\na < b\n```", "```\na &lt; b\n```"),
        ("| a | b |\n|---|---|\n| 1 | **2** |", "```\na | b\n1 | 2\n```"),
        ("a < b & c > d", "a &lt; b &amp; c &gt; d"),
        ("<!channel> <b>x</b>", "&lt;!channel&gt; &lt;b&gt;x&lt;/b&gt;"),
        ("&lt;!channel&gt;", "&lt;!channel&gt;"),
        ("**굵게**는 이렇게", "*굵게* 는 이렇게"),
        ("이것은**굵게**", "이것은 *굵게*"),
        ("one\ntwo", "one\ntwo"),
        ("a\n\n---\n\nb", "a\n\n———\n\nb"),
    ],
)
def test_markdown_becomes_mrkdwn(markdown: str, mrkdwn: str) -> None:
    assert to_mrkdwn(markdown) == mrkdwn


def test_fallback_is_shortened_in_bytes_never_inside_a_character_an_escape_or_a_link() -> None:
    korean = fallback_text("한국어 " * 1_000)
    escapes = shorten(escape_mrkdwn("&" * 2_000), 100)
    link = shorten("x" * 90 + "<https://x.example|docs>", 100)

    assert len(korean.encode()) <= FALLBACK_BYTES
    assert korean.endswith("…")
    assert escapes == "&amp;" * 19 + "…"
    assert link == "x" * 90 + "…"


@given(st.text(max_size=3_000), st.integers(min_value=200, max_value=MAX_TEXT_BYTES))
def test_fallback_of_any_text_fits_and_mentions_nobody(text: str, max_bytes: int) -> None:
    fallback = fallback_text(text, max_bytes)

    assert len(fallback.encode()) <= max_bytes
    assert not re.search(r"<(?!https?://|mailto:)", fallback)


_words = st.integers(min_value=1, max_value=120)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Markdown whose words are numbered: w… in text, c… in code, so that each can be found again in its place."""
    counter = 0

    def words(prefix: str, count: int) -> list[str]:
        nonlocal counter
        counter += count
        return [f"{prefix}{number}" for number in range(counter - count, counter)]

    blocks = []
    for kind in draw(st.lists(st.sampled_from(["text", "lines", "list", "fence", "table", "heading"]), max_size=25)):
        size = draw(_words)
        match kind:
            case "text":
                blocks.append(" ".join(words("w", size)))
            case "lines":
                blocks.append("\n".join(words("w", size)))
            case "list":
                blocks.append("\n".join(f"- {word}" for word in words("w", size)))
            case "heading":
                blocks.append(f"## {words('w', 1)[0]}")
            case "table":
                blocks.append("| h | h |\n|---|---|\n" + "\n".join(f"| {word} | x |" for word in words("w", size)))
            case _:
                marker, info = draw(st.sampled_from(["```", "~~~~"])), draw(st.sampled_from(["", "python", "js a=1"]))
                glue = draw(st.sampled_from(["\n", " ", "\n\n"]))
                blocks.append(f"{marker}{info}\n{glue.join(words('c', size * 3))}\n{marker}")
    return "\n\n".join(blocks)


@settings(max_examples=60, deadline=None)
@given(documents())
def test_no_word_is_lost_moved_or_taken_out_of_its_fence(document: str) -> None:
    parts = reply_parts(document, max_chars=1_000, max_parts=1_000)

    texts = [LABEL.sub("", part) for part in parts]
    code = [word for text in texts for _, content, _ in fences(text) for word in re.findall(r"c\d+", content)]
    assert all(len(part) <= 1_000 for part in parts)
    assert all(closed for text in texts for _, _, closed in fences(text))
    assert re.findall(r"[wc]\d+", " ".join(texts)) == re.findall(r"[wc]\d+", document)
    assert code == re.findall(r"c\d+", document)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("`~>- \n#|*ab가<@!"), max_size=6_000))
def test_hostile_markdown_is_split_within_limits_and_without_loss(text: str) -> None:
    parts = reply_parts(text, max_chars=1_000, max_parts=1_000)

    letters = "".join(LABEL.sub("", part) for part in parts)
    assert all(len(part) <= 1_000 for part in parts)
    assert letters.count("가") >= text.count("가")
