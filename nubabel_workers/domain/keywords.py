"""Finding keywords in English and Korean text, in time proportional to the text and not to the number of keywords.

A keyword is written as in `analysis_rules.yaml`: words in a row; a `*` at the end leaves the end of the last one open.
English words are compared whole. A Korean word carries particles and verb endings, so it is compared by its stem, and
what follows the stem has to be a particle or an ending: 글 is found in 글을, not in 글로벌, and not in 구글.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, product

# Korean before or behind Latin letters is a boundary ("UI를", "React컴포넌트"); Python's \b sees none there.
_WORD = re.compile(r"[a-z0-9]+|[가-힣]+")
# Addresses and Slack's <@U1>, <#C1|name>, <!here> say nothing about the request; the label of a link does.
_NOT_PROSE = re.compile(r"https?://[^\s|>]+|<[@#!][^>]*>")

_PARTICLES = (
    "에게서|으로서|으로써|이든지|이라도|이라는|이라고|에서|에게|에다|한테|로서|로써|으로|이랑|하고|만큼|부터|까지|마다|마저|조차"
    "|처럼|같이|보다|밖에|대로|이나|든지|라도|라는|라고|이란|은|는|이|가|을|를|의|에|께|로|와|과|랑|도|만|나|란|요|들|별|쪽|용|및"
    "|등|건|측|상|중"
)
# What makes a verb, a predicate or a request of a noun; anything may follow it.
_ENDINGS = (
    "하|해|했|할|한|함|합|되|돼|됐|된|될|됨|됩|시키|시켜|시킨|나|났|난|날|남|입|인|이에|이야|이었|예요|야|였|좀|점|부탁|요청|필요"
    "|가능|바람|바랍|드려|드립|드리|주세|주십|주실|줘"
)
_AFTER_STEM = re.compile(f"(?:{_PARTICLES}){{0,3}}|(?:{_ENDINGS})[가-힣]*")


@dataclass(frozen=True, slots=True)
class _Pattern:
    keyword: str
    words: tuple[str, ...]
    open_end: bool


def split_words(text: str) -> list[str]:
    """The words of a text: lower case, composed Hangul (macOS sends it decomposed), addresses and mentions left out."""
    plain = _NOT_PROSE.sub(" ", unicodedata.normalize("NFKC", text).lower())
    return _WORD.findall(plain)


class KeywordIndex:
    """Many keywords, prepared once; immutable afterwards."""

    def __init__(self, keywords: Iterable[str]) -> None:
        self._by_word: dict[str, list[_Pattern]] = {}  # those whose first word is compared whole
        # Those whose first word may go on (Korean, open ends), by its first two letters, or by the only one it has.
        self._by_beginning: dict[str, list[tuple[str, _Pattern]]] = {}
        for keyword in keywords:
            for pattern in _patterns(keyword):
                first = pattern.words[0]
                if _is_korean(first) or (pattern.open_end and len(pattern.words) == 1):
                    self._by_beginning.setdefault(first[:2], []).append((first, pattern))
                else:
                    self._by_word.setdefault(first, []).append(pattern)

    def find(self, text: str) -> list[str]:
        """The keywords that occur in text, each once, in the order of their first appearance."""
        words = split_words(text)
        found: dict[str, None] = {}
        for position, word in enumerate(words):
            for pattern in self._by_word.get(word, ()):
                if pattern.keyword not in found and _matches(pattern, words, position):
                    found[pattern.keyword] = None
            for letters in (word[:2], word[0]):
                for beginning, pattern in self._by_beginning.get(letters, ()):
                    if not word.startswith(beginning) or pattern.keyword in found:
                        continue
                    if _matches(pattern, words, position):
                        found[pattern.keyword] = None
        return list(found)


def _is_korean(word: str) -> bool:
    return word[0] >= "가"


def _matches(pattern: _Pattern, words: list[str], position: int) -> bool:
    last = len(pattern.words) - 1
    if position + last >= len(words):
        return False
    for offset in range(last):
        if not _is_form_of(words[position + offset], pattern.words[offset]):
            return False
    return _is_form_of(words[position + last], pattern.words[last], open_end=pattern.open_end)


def _is_form_of(word: str, wanted: str, *, open_end: bool = False) -> bool:
    if word == wanted:
        return True
    if not word.startswith(wanted):
        return False
    return open_end or (_is_korean(wanted) and _AFTER_STEM.fullmatch(word, len(wanted)) is not None)


def _patterns(keyword: str) -> Iterable[_Pattern]:
    """A keyword's spellings: with and without the spaces between its Korean words. None for one without words."""
    words = split_words(keyword.removesuffix("*"))
    if not words:
        return
    joints = [(" ", "") if _is_korean(left) and _is_korean(right) else (" ",) for left, right in pairwise(words)]
    for joins in product(*joints):
        spelled = words[0] + "".join(join + word for join, word in zip(joins, words[1:], strict=True))
        yield _Pattern(keyword, tuple(spelled.split(" ")), keyword.endswith("*"))
