"""What must not leave with a prompt: keys and passwords, card numbers, mail addresses, national ids. Finds it; pure.

Every pattern takes time that grows with the length of the text and no faster: texts come from outside.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from nubabel_workers.domain.findings import Finding, Patience, SensitiveKind, endless
from nubabel_workers.domain.identity_numbers import PATIENCE_LASTS, find_lettered, find_numbers
from nubabel_workers.domain.redaction import HINTS_OF_KEYS, SHAPES_OF_KEYS

_PIECE: Final = 65_536


def find(text: str, patience: Patience = endless) -> list[Finding]:
    """All findings, in order; those that overlap are one, of the kind that begins first. Raises what patience does."""
    found = list(_private_keys(text))
    for start, end in _pieces(text):
        for finder in (
            _keys,
            partial(_assigned, patience=patience),
            _mails,
            partial(find_numbers, patience=patience),
            find_lettered,
        ):
            patience()
            found += finder(text, start, end)
    found.sort(key=lambda one: (one.start, one.kind is SensitiveKind.MAIL, -one.end))
    return list(_without_overlaps(text, found))


def _without_overlaps(text: str, found: Sequence[Finding]) -> Iterator[Finding]:
    """found: by their starts. A chain of them may go through the whole text: what it says is read once, at its end."""
    chain: list[Finding] = []  # its first, and those that made it longer
    for one in found:
        if not chain or one.start >= chain[-1].end:
            yield from _joined(text, chain)
            chain = [one]
        elif one.end > chain[-1].end and not _is_part_of_url(chain[0], one):
            chain.append(one)
    yield from _joined(text, chain)


def _joined(text: str, chain: Sequence[Finding]) -> Iterator[Finding]:
    if len(chain) > 1:
        first, end = chain[0], chain[-1].end
        yield Finding(first.start, end, first.kind, text[first.start : end])
    else:
        yield from chain


def _is_part_of_url(password: Finding, mail: Finding) -> bool:
    """`user:password@host`: what looks like an address there is the end of the password and the host."""
    return password.kind is SensitiveKind.PASSWORD and mail.kind is SensitiveKind.MAIL


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Whole lines, so that no look at a long text keeps other threads waiting. Only private keys have several."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield start, end
        start = end


# --- keys and passwords ---

# ASCII: Korean words stand directly beside what is meant here.
_TOKEN: Final = re.compile(SHAPES_OF_KEYS, re.ASCII)
_PRIVATE_KEY_BEGIN: Final = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----")
_PRIVATE_KEY_END: Final = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY-----")
_AUTHORIZATION: Final = re.compile(r"(?:earer|asic)\s{1,3}(?P<value>[\w.~+/=-]{16,})", re.ASCII)
_IN_URL: Final = re.compile(r"://[^/\s:@]{0,200}:(?P<value>[^/\s@\[\]]{1,200})@")
_ASSIGNMENT: Final = re.compile(r"[:=](?<!\d.)(?=[:=]?>?\s{0,3}[\"'`]?(?P<value>[^\s\"'`<>,;&()\[\]{}]{4}))")
_REST_OF_VALUE: Final = re.compile(r"[^\s\"'`<>,;&()\[\]{}]*+")
_NAMES_OF_SECRETS: Final = (
    *("password", "passwd", "passphrase", "pwd", "secret", "credential", "token", "apikey", "accesskey", "secretkey"),
    *("accountkey", "privatekey", "비밀번호", "패스워드", "암호", "비번"),
)
_JOINTS: Final = str.maketrans("", "", "_-\"' \t:=")  # what may stand within such a name, or between it and the sign
_NO_SECRETS: Final = ("/", "$", "http")  # paths, variables, addresses
_DIGIT: Final = re.compile(r"\d")
_LONGEST_NAME: Final = 24
_LONGEST_LOOKED_AT: Final = 256  # characters of a value


def _keys(text: str, start: int, end: int) -> Iterator[Finding]:
    if any(text.find(hint, start, end) >= 0 for hint in HINTS_OF_KEYS):
        for match in _TOKEN.finditer(text, start, end):
            yield _finding(match, SensitiveKind.KEY)
    for match in _AUTHORIZATION.finditer(text, start, end):
        yield _finding(match, SensitiveKind.KEY, "value")
    for match in _IN_URL.finditer(text, start, end):
        yield _finding(match, SensitiveKind.PASSWORD, "value")


def _assigned(text: str, start: int, end: int, *, patience: Patience) -> Iterator[Finding]:
    """`password: …`, `"api_key"="…"`: looked for from the sign, since names of secrets are many and signs are few."""
    for count in itertools.count(1):
        match = _ASSIGNMENT.search(text, start, end)
        if match is None:
            return
        if not count % PATIENCE_LASTS:
            patience()
        start = match.end()
        value_start = match.start("value")
        if text.startswith(_NO_SECRETS, value_start) or not _names_secret(text, match.start()):
            continue
        looked_at = _REST_OF_VALUE.match(text, value_start, min(end, value_start + _LONGEST_LOOKED_AT))
        if looked_at is not None and _looks_secret(looked_at[0]):
            rest = _REST_OF_VALUE.match(text, looked_at.end(), end)
            start = rest.end() if rest is not None else looked_at.end()
            yield Finding(value_start, start, SensitiveKind.PASSWORD, text[value_start:start])


def _names_secret(text: str, end: int) -> bool:
    """Whether what stands before end, on its line, is the name of a secret."""
    before = text[max(0, end - _LONGEST_NAME) : end].translate(_JOINTS).lower()
    return before.endswith(_NAMES_OF_SECRETS)


def _private_keys(text: str) -> Iterator[Finding]:
    """A key whose end is missing goes to the end of the text."""
    at = 0
    while (begin := _PRIVATE_KEY_BEGIN.search(text, at)) is not None:
        end = _PRIVATE_KEY_END.search(text, begin.end())
        at = end.end() if end else len(text)
        yield Finding(begin.start(), at, SensitiveKind.KEY, text[begin.start() : at])


def _looks_secret(value: str) -> bool:
    """Prose or code after "password:" is none; what people choose and machines make has a digit."""
    return _DIGIT.search(value) is not None and not value.startswith(_NO_SECRETS)


# --- mail addresses ---

_AT_DOMAIN: Final = re.compile(
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_LOCAL_PART: Final = re.compile(r"[A-Za-z0-9._%+'-]{1,64}\Z")
_LONGEST_LOCAL_PART: Final = 64  # RFC 5321, section 4.5.3.1.1


def _mails(text: str, start: int, end: int) -> Iterator[Finding]:
    for match in _AT_DOMAIN.finditer(text, start, end):
        local = _LOCAL_PART.search(text, max(0, match.start() - _LONGEST_LOCAL_PART), match.start())
        if local is not None:
            address = text[local.start() : match.end()]
            yield Finding(local.start(), match.end(), SensitiveKind.MAIL, address.lower())


def _finding(match: re.Match[str], kind: SensitiveKind, group: str | int = 0) -> Finding:
    return Finding(match.start(group), match.end(group), kind, match[group])
