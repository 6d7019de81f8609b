"""What must not leave with a prompt is found, and nothing else is; what stands in its place tells only its kind."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nubabel_workers.domain.findings import OutOfTimeError, SensitiveKind
from nubabel_workers.domain.masking import Masked, Placeholders, mask
from nubabel_workers.domain.redaction import HINTS_OF_KEYS
from nubabel_workers.domain.sensitive_data import find

KEY, PASSWORD = SensitiveKind.KEY, SensitiveKind.PASSWORD
CARD, MAIL = SensitiveKind.CARD, SensitiveKind.MAIL
KOREAN_ID, NATIONAL_ID = SensitiveKind.KOREAN_ID, SensitiveKind.NATIONAL_ID

HERE = Placeholders(b"a key of the tests", "ses_1")
_FULL_WIDTH = "4111111111111111".translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})
_LONGEST_S = 3.0  # for 100 kB made to be slow; most take a fiftieth of it


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("카드번호는4111111111111111입니다", "4111111111111111", CARD),
        ("paid with 4111 1111 1111 1111 05/27", "4111 1111 1111 1111", CARD),
        ("order 12 5500-0000-0000-0004", "5500-0000-0000-0004", CARD),
        ("amex 3782 822463 10005.", "3782 822463 10005", CARD),
        ("국내 카드 9409 1201 0000 0003 예요", "9409 1201 0000 0003", CARD),
        (_FULL_WIDTH, _FULL_WIDTH, CARD),
        ("메일은 kim.lee+a@example.co.kr입니다", "kim.lee+a@example.co.kr", MAIL),
        ("<mailto:bob@example.com|Bob>", "bob@example.com", MAIL),
        ("주민번호 900101-1234567", "900101-1234567", KOREAN_ID),
        ("주민등록번호 9001011234567", "9001011234567", KOREAN_ID),
        ("9710139019902 971013-1019902", "971013-1019902", KOREAN_ID),
        ("외국인 등록번호: 850126-6401473", "850126-6401473", KOREAN_ID),
        ("면허 11-12-123456-01", "11-12-123456-01", NATIONAL_ID),
        ("여권번호 M12345678", "M12345678", NATIONAL_ID),
        ("ssn 123-45-6789", "123-45-6789", NATIONAL_ID),
        ("CPF 529.982.247-25", "529.982.247-25", NATIONAL_ID),
        ("身份证 11010519491231002X", "11010519491231002X", NATIONAL_ID),
        ("Aadhaar 2341 2341 2346", "2341 2341 2346", NATIONAL_ID),
        ("811228-9874", "811228-9874", NATIONAL_ID),
        ("numéro 2 95 10 99 126 111 93", "2 95 10 99 126 111 93", NATIONAL_ID),
        ("codice RCCMNL83S18D969H", "RCCMNL83S18D969H", NATIONAL_ID),
        ("DNI 54362315K", "54362315K", NATIONAL_ID),
        ("NI number AB 12 34 56 C", "AB 12 34 56 C", NATIONAL_ID),
        ("키는sk-proj-0123456789abcdefghij입니다", "sk-proj-0123456789abcdefghij", KEY),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE", KEY),
        ("Authorization: Bearer abcdefghijklmnop1234", "abcdefghijklmnop1234", KEY),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----", "MIIB", KEY),
        ("-----BEGIN PRIVATE KEY-----\nMIIB, and the end is missing", "MIIB, and the end is missing", KEY),
        ('DB_PASSWORD="hunter22"', "hunter22", PASSWORD),
        ("비밀번호: abcd1234!", "abcd1234!", PASSWORD),
        ("apiKey=zzz999", "zzz999", PASSWORD),
        ("https://me:gh1tok@example.com/x", "gh1tok", PASSWORD),
    ],
)
def test_what_is_sensitive_is_replaced_by_its_kind(text: str, value: str, kind: SensitiveKind) -> None:
    masked = mask(text, HERE)

    assert value not in masked.text
    assert f"[{kind} " in masked.text
    assert set(masked.counts) == {kind}


@pytest.mark.parametrize(
    "text",
    [
        "order 1795216300000, 20261127141500, thread 1795216300.000200",
        "call 010-1234-5678 or +82 2 123 4567 or (555) 123-4567",
        "4111 1111 1111 1112 is one digit off, 1234567812345678 too",
        "123e4567-e89b-12d3-a456-426614174000 exe_4111111111111111",
        "EAN 4006381333931, ISBN 978-3-16-148410-0, IP 192.168.100.200",
        "The password: please choose one. token = get_token(), max_tokens=4096, pwd=/home/u1",
        "사업자등록번호 123-45-67890, 금액 1,234,567,890원",
        "@nubabel @here git@github: user@localhost",
        "order M12345678 of yesterday",
        "see https://example.com/a:b@c and http://example.com:8080/x",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert mask(text, HERE) == Masked(text)


def test_a_value_has_one_placeholder_in_a_conversation_however_it_is_written() -> None:
    first = mask("4111 1111 1111 1111 then KIM@example.com", HERE).text
    later = mask("again 4111-1111-1111-1111, kim@example.com", Placeholders(b"a key of the tests", "ses_1")).text

    card, mail = first.split(" then ")
    assert card in later
    assert mail in later


def test_two_values_have_two_placeholders_and_another_conversation_has_others() -> None:
    one, other = mask("a@example.com", HERE).text, mask("b@example.com", HERE).text
    elsewhere = mask("a@example.com", Placeholders(b"a key of the tests", "ses_2")).text

    assert len({one, other, elsewhere}) == 3


@pytest.mark.parametrize("value", [4111111111111111, 5555555555554444])
def test_the_decimals_of_a_number_are_no_card(value: int) -> None:
    assert find(f"0.{value} -12.{value}, 3.{value}e-05") == []
    assert len(find(f"No.{value}, 1. {value} and .{value}")) == 3


@pytest.mark.parametrize("piece", [":", "4111 ", "password="])
def test_whoever_has_no_time_left_stops_within_a_line(piece: str) -> None:
    looks = 0

    def patience() -> None:
        nonlocal looks
        looks += 1
        if looks > 10:
            raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        find(piece * (200_000 // len(piece)), patience)


def test_every_hint_stands_for_a_shape() -> None:
    """A token whose hint is missing would pass: the shapes are not looked for without one."""
    tails = (
        "a-0123456789abcdefghijABCDEFGHIJ01",
        "0123456789ABCDEF",
        "/services/T0000000/B0000000/abc",
        "aaaaaaaaaaaa.bbbbbbbbbbbb.c",
        "p-0123456789abcdef",
        "aaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbb",
        "api_0123456789abcdefghij",
    )

    for hint in HINTS_OF_KEYS:
        prefix = "s" if hint.startswith("k_") else ""
        assert any(KEY in mask(f"{prefix}{hint}{tail}", HERE).counts for tail in tails), hint


# --- hostile text ----------------------------------------------------------------------------------------------------

_PIECES = (
    *("1", "1 ", "4111 ", "1-", "1.", "1111-1111-1111-", "900101", "900101-1234567", "AAAAAA11", "a1"),
    *("@", "a@a.", "@a.", "://", "://a:", "password=", "token: ", "비밀번호", "Bearer "),
    *("eyJaaaaaaaa-", "eyJaaaaaaaa.", "xoxb-", "SG.aaaaaaaaaaaaaaaaaaaa", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----"),
    *("\u00a0", "\n"),
)


@pytest.mark.parametrize("piece", _PIECES)
def test_a_hundred_kilobytes_that_are_made_to_be_slow_are_not(piece: str) -> None:
    text = piece * (100_000 // len(piece))

    started = time.process_time()
    mask(text, HERE)

    assert time.process_time() - started < _LONGEST_S


def test_a_chain_of_findings_through_a_whole_text_is_not_read_again_for_each() -> None:
    def seconds(characters: int) -> float:
        text = "4111 1111 1111 1111 " * (characters // 20)
        started = time.process_time()
        assert len(find(text)) == 1
        return time.process_time() - started

    short, long = seconds(250_000), seconds(1_000_000)

    assert long < 10 * short  # four times the length; read again for each, it takes twenty times as long


_hostile = st.lists(
    st.one_of(
        st.sampled_from(
            [*_PIECES, "4111111111111111", "a@b.co", "sk-0123456789abcdefghij", "[", "]", "[key ABCD]", " ", "x"]
        ),
        st.text(max_size=5),
    ),
    max_size=30,
).map("".join)


@given(_hostile)
@example("4111 4111 4111 4111@b.co")  # what stands before the address looks like an id once the address is gone
def test_what_is_masked_once_stays_as_it_is(text: str) -> None:
    once = mask(text, HERE).text

    assert mask(once, HERE).text == once


@given(_hostile)
def test_no_value_is_left_and_the_text_grows_within_bounds(text: str) -> None:
    masked = mask(text, HERE).text

    assert len(masked) <= 8 * len(text) + 40
    assert find(masked) == []


_around = st.sampled_from(["", " ", "\n", "(", "는", ", ", "「", "\t"])


def _luhn(digits: str) -> str:
    total = sum(sum(divmod(int(d) * (1 + (at % 2 == 0)), 10)) for at, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True), _around, _around)
def test_every_card_is_found_whatever_stands_around_it(digits: str, before: str, after: str) -> None:
    number = _luhn(digits)

    assert number not in mask(f"{before}{number}{after}", HERE).text


@given(st.emails(domains=st.just("example.com")), _around, _around)
def test_every_mail_address_leaves_without_its_name(address: str, before: str, after: str) -> None:
    masked = mask(f"{before}{address}{after}", HERE)

    assert MAIL in masked.counts or not address.isascii() or not _plain(address)


def _plain(address: str) -> bool:
    """Quoted and exotic local parts are none that anybody has."""
    return all(character.isalnum() or character in "._%+'-" for character in address.partition("@")[0])
