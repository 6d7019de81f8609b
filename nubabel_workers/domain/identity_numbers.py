"""Card numbers and national ids in a text. Pure.

A number alone is no finding: it has to have the shape of its kind, its checksum where the kind has one (python-stdnum),
and where shape and checksum still fit every tenth number, a word before it that says what it is.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Final, cast

from nubabel_workers.domain.findings import Finding, Patience, SensitiveKind

PATIENCE_LASTS: Final = 1000  # numbers: some 25 ms
_CONTEXT_CHARACTERS: Final = 40  # a word that says what a number is stands shortly before it

# After the first character: a pattern that begins with a set of characters is searched for several times faster.
_ALONE: Final = r"(?<![0-9A-Za-z_].)"
_ENDS: Final = r"(?![0-9A-Za-z_])"
_NEITHER: Final = re.compile(r"[^0-9A-Za-z]+")
_SEPARATOR: Final = r"[ \u00a0.\u2010-\u2013-]"
_DASH: Final = r" ?[-\u2010-\u2013] ?"
_DATE: Final = r"\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
# A first group of digits that is long enough by itself, or has others after it.
_DECIMALS: Final = r"(?<!\d\..)"  # of a number with a point there are as many as one likes
_NUMBER: Final = re.compile(rf"\d{_ALONE}{_DECIMALS}\d*+(?:(?<=\d{{9}})|(?={_SEPARATOR}{{1,3}}\d))")


def find_numbers(text: str, start: int, end: int, *, patience: Patience) -> Iterator[Finding]:
    for count, match in enumerate(_NUMBER.finditer(text, start, end)):
        if not count % PATIENCE_LASTS:
            patience()
        for shape in _BY_FIRST_GROUP.get(match.end() - match.start(), ()):
            finding = _found(text, match.start(), shape)
            if finding is not None:
                yield finding
                break


def find_lettered(text: str, start: int, end: int) -> Iterator[Finding]:
    """Ids in which letters and digits take turns."""
    for pattern in _LETTERED:
        for match in pattern.finditer(text, start, end):
            if _fits(text, match):
                yield Finding(match.start(), match.end(), SensitiveKind.NATIONAL_ID, _plain(match[0]))


@dataclass(frozen=True)
class _Shape:
    """How a kind is written. first_group: how many digits come before anything else; context: a word before it."""

    kind: SensitiveKind
    first_group: Collection[int]
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    context: re.Pattern[str] | None = None


def _found(text: str, start: int, shape: _Shape) -> Finding | None:
    match = shape.pattern.match(text, start)
    if match is None:
        return None
    if shape.context is not None and not _said_before(text, start, shape.context):
        return None
    digits = _plain(match[0])
    return Finding(start, match.end(), shape.kind, digits) if shape.check(digits) else None


def _said_before(text: str, start: int, words: re.Pattern[str]) -> bool:
    line = text[max(0, start - _CONTEXT_CHARACTERS) : start].rpartition("\n")[2]
    return words.search(line) is not None


def _plain(text: str) -> str:
    """Its digits and letters; digits of other scripts as ours."""
    if text.isascii():
        return _NEITHER.sub("", text).upper()
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c.upper() for c in text if c.isalnum())


@cache
def _validator(module: str) -> Callable[[str], bool]:
    """Of python-stdnum; loaded when the first number of that shape comes by."""
    return cast("Callable[[str], bool]", import_module(f"stdnum.{module}").is_valid)


def _valid(module: str) -> Callable[[str], bool]:
    def check(digits: str) -> bool:
        return _validator(module)(digits)

    return check


def _whatever(_: str) -> bool:
    """The shape says enough."""
    return True


# Issuers by first digits (ISO/IEC 7812): Visa; Mastercard; American Express; Discover; UnionPay; JCB; Diners Club;
# and 9, under which Korean cards are issued that are good in Korea only.
_ISSUED: Final = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|2720\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}|9\d{15}"
)


def _is_card(digits: str) -> bool:
    return bool(_ISSUED.fullmatch(digits)) and _validator("luhn")(digits)


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _card(first_group: Collection[int], pattern: str, check: Callable[[str], bool] = _is_card) -> _Shape:
    return _Shape(SensitiveKind.CARD, first_group, re.compile(pattern + _ENDS), check)


def _korean(first_group: int, pattern: str, check: Callable[[str], bool], context: str | None = None) -> _Shape:
    compiled = re.compile(pattern + _ENDS)
    return _Shape(SensitiveKind.KOREAN_ID, (first_group,), compiled, check, _words(context) if context else None)


def _national(
    first_group: Collection[int], pattern: str, check: Callable[[str], bool], context: str | None = None
) -> _Shape:
    compiled = re.compile(pattern + _ENDS)
    return _Shape(SensitiveKind.NATIONAL_ID, first_group, compiled, check, _words(context) if context else None)


_KOREAN_WORDS: Final = r"주민|외국인\s?등록|resident registration|\brrn\b"
_BY_FOURS: Final = rf"\d{{4}}(?P<s>{_SEPARATOR}{{1,3}})\d{{4}}(?P=s)\d{{4}}(?P=s)\d{{4}}"
_SHAPES: Final = (
    # With a hyphen between birth date and the rest the shape says enough: those since October 2020 have no checksum.
    _korean(6, rf"{_DATE}{_DASH}[1-8]\d{{6}}", _whatever),
    _korean(13, rf"{_DATE}[1-8]\d{{6}}", _valid("kr.rrn")),
    _korean(13, rf"{_DATE}[1-8]\d{{6}}", _whatever, _KOREAN_WORDS),
    _korean(6, rf"{_DATE} [1-8]\d{{6}}", _whatever, _KOREAN_WORDS),
    _card(range(14, 20), r"\d{14,19}"),
    _card((4,), rf"{_BY_FOURS}(?P=s)\d{{3}}"),
    _card((4,), _BY_FOURS, _valid("luhn")),
    _card((4,), rf"\d{{4}}(?P<s>{_SEPARATOR}{{1,3}})\d{{6}}(?P=s)\d{{4,5}}"),
    # Korean driving licence: region, year, number, check; its checksum is not public.
    _national((2,), rf"(?:1[1-9]|2[0-8]){_DASH}\d\d{_DASH}\d{{6}}{_DASH}\d\d", _whatever),
    _national((3,), r"\d{3}[-\u2010-\u2013]\d{2}[-\u2010-\u2013]\d{4}", _valid("us.ssn")),
    _national((3, 9), r"\d{3} ?\d{2} ?\d{4}", _valid("us.ssn"), r"\bssn\b|social security"),
    _national((17, 18), r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", _valid("cn.ric")),
    _national((4,), r"[2-9]\d{3}(?P<s>[ -])\d{4}(?P=s)\d{4}(?![ -]?\d)", _valid("in_.aadhaar")),
    _national((12,), r"\d{12}", _valid("in_.aadhaar"), "aadhaar|aadhar"),
    _national((3,), r"\d{3}\.\d{3}\.\d{3}-\d{2}", _valid("br.cpf")),
    _national((11,), r"\d{11}", _valid("br.cpf"), r"\bcpf\b"),
    _national((1, 15), r"[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}", _valid("fr.nir")),
    _national((6,), r"\d{6}[-+]\d{4}", lambda digits: _validator("se.personnummer")(f"{digits[:6]}-{digits[6:]}")),
    _national((11,), r"\d{11}", _valid("pl.pesel"), "pesel"),
    _national((9,), r"\d{9}", _valid("nl.bsn"), r"\bbsn\b|burgerservice|sofinummer"),
    _national((2, 11), r"\d{2} ?\d{3} ?\d{3} ?\d{3}", _valid("de.idnr"), r"steuer-?\s?id|identifikationsnummer"),
    _national((3, 10), r"\d{3}[ -]?\d{3}[ -]?\d{4}", _valid("gb.nhs"), r"\bnhs\b"),
    _national((3, 9), r"\d{3}[ -]?\d{3}[ -]?\d{3}", _valid("ca.sin"), r"\bsin\b|social insurance"),
    _national((13,), r"\d{13}", _valid("za.idnr"), r"identity number|south african"),
)
_BY_FIRST_GROUP: Final[Mapping[int, tuple[_Shape, ...]]] = {
    digits: tuple(shape for shape in _SHAPES if digits in shape.first_group) for digits in range(1, 20)
}


# Italy; Spain's for foreigners; the United Kingdom's; passports of Korea, and others that look like them. Spain's own.
_LETTERED: Final = (
    re.compile(
        rf"[A-Z]{_ALONE}(?:(?P<it>[A-Z]{{5}}\d\d[A-EHLMPRST]\d\d[A-Z]\d{{3}}[A-Z])|(?P<es_nie>(?<=[XYZ])\d{{7}}-?[A-Z])"
        r"|(?P<gb>(?<=[A-CEGHJ-PR-TW-Z])[A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D])"
        rf"|(?P<passport>(?<=[MSRODG])\d{{3}}[A-Z\d]\d{{4}})){_ENDS}"
    ),
    re.compile(rf"\d{_ALONE}(?P<es_dni>\d{{7}}-?[A-Z]){_ENDS}"),
)
_PASSPORT_WORDS: Final = _words("여권|passport")
_LETTERED_MODULES: Final = {"it": "it.codicefiscale", "es_nie": "es.nie", "es_dni": "es.dni"}


def _fits(text: str, match: re.Match[str]) -> bool:
    """Passports have no checksum in what is written: only a word tells them from order numbers."""
    if match.lastgroup == "passport":
        return _said_before(text, match.start(), _PASSPORT_WORDS)
    module = _LETTERED_MODULES.get(match.lastgroup or "")
    return module is None or _validator(module)(_plain(match[0]))
