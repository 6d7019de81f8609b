"""Keywords in running text: word boundaries of English and Korean."""

import unicodedata

import pytest

from nubabel_workers.domain.keywords import KeywordIndex


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("docs", "Where are the docs?"),
        ("docs", "DOCS"),
        ("docs", "docs를 고쳐줘"),
        ("ui", "UI가 이상해요"),
        ("컴포넌트", "React컴포넌트"),
        ("refactor*", "refactoring the parser"),
        ("stack trace", "a stack-trace from prod"),
        ("stack trace*", "two stack traces"),
        ("번역", "번역"),
        ("번역", "번역을 부탁해"),
        ("번역", "번역해주세요"),
        ("번역", "번역좀"),
        ("번역", "번역만이라도"),
        ("번역", "번역하고 있어"),
        ("오류", "오류입니다"),
        ("오류", "오류났어요"),
        ("글", "글을 쓰자"),
        ("글", "글로 써줘"),
        ("고치*", "고치려면 어떻게 해?"),
        ("코드 리뷰", "코드 리뷰 부탁"),
        ("코드 리뷰", "코드리뷰해줘"),
        ("코드 리뷰", "코드를 리뷰해줘"),
        ("풀 리퀘스트", "풀리퀘스트요"),
    ],
)
def test_keyword_is_found(keyword: str, text: str) -> None:
    assert KeywordIndex([keyword]).find(text) == [keyword]


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("ui", "the guild building"),
        ("docs", "docstring"),
        ("ci", "cite the source"),
        ("stack trace", "trace the stack"),
        ("stack trace", "stack"),
        ("글", "글로벌 시장"),
        ("글", "구글에서 찾아봐"),
        ("글", "댓글"),
        ("버그", "햄버그 스테이크"),
        ("번역", "재번역"),
        ("표", "이 표현은 어때"),
        ("코드 리뷰", "리뷰 코드"),
        ("design", "https://example.com/design/page"),
        ("design", "<#C0123|design> 채널"),
    ],
)
def test_part_of_another_word_is_not_the_keyword(keyword: str, text: str) -> None:
    assert KeywordIndex([keyword]).find(text) == []


def test_label_of_a_slack_link_counts_though_its_address_does_not() -> None:
    assert KeywordIndex(["design", "mockup"]).find("<https://example.com/design|the mockup>") == ["mockup"]


def test_decomposed_hangul_as_macos_writes_it_is_the_same_word() -> None:
    text = unicodedata.normalize("NFD", "번역해줘")

    assert KeywordIndex(["번역"]).find(text) == ["번역"]


def test_full_width_letters_are_letters() -> None:
    assert KeywordIndex(["css"]).find("\uff23\uff33\uff33") == ["css"]


def test_each_keyword_is_reported_once_in_the_order_of_the_text() -> None:
    index = KeywordIndex(["오류", "로그", "error*"])

    assert index.find("로그에 error, errors, 오류, 로그") == ["로그", "error*", "오류"]


def test_shorter_and_longer_keyword_are_both_found() -> None:
    assert set(KeywordIndex(["리뷰", "리뷰 부탁", "코드 리뷰"]).find("코드 리뷰 부탁")) == {
        "리뷰",
        "리뷰 부탁",
        "코드 리뷰",
    }


@pytest.mark.parametrize("text", ["", " ", "👍", "...", "漢字", "\x00"])
def test_text_without_words_has_no_keywords(text: str) -> None:
    assert KeywordIndex(["a", "가"]).find(text) == []
