"""What is kept of values from outside: without what looks like a secret, and bounded in size. Pure.

A net, not a licence: our own secrets never come this way.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

MASK: Final = "[redacted]"
CUT: Final = "[cut]"

_SECRET_KEY: Final = re.compile(
    r"(?i)passw(or)?d|passphrase|secret|token(?!s|_?count|_?limit)|authorization|cookie|api_?-?key|access_?-?key"
    r"|private_?-?key|signature|credential|^pin$|^auth$"
)
# Tokens of well-known providers, by what they begin with, and JSON web tokens: nothing else looks like that.
SHAPES_OF_KEYS: Final = (
    r"(?:xox[a-z]|xapp)-[\w-]{8,}|xoxe\.[\w.-]+"  # Slack
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|ntn_|secret_|lin_(?:api|oauth)_|sk-|[sr]k_(?:live|test)_|whsec_|npm_|pypi-|hf_"
    r"|nck_|nb[kot]_|dop_v1_|shp(?:at|ca|pa|ss)_|ya29\.)[\w-]{16,}"
    r"|\bA[KS]IA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bSG\.[\w-]{16,64}\.[\w-]{16,}"
    r"|\bhooks\.slack\.com/(?:services|workflows|triggers)/[\w/]{16,}"
    r"|\beyJ[\w-]{8,1000}\.[\w-]{8,9000}\.[\w-]*"  # bounded: many beginnings must not each read the rest
)
# One of these is in every text with such a token.
HINTS_OF_KEYS: Final = (
    *(
        "xox",
        "xapp-",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "ntn_",
        "secret_",
        "lin_",
        "sk-",
    ),
    *(
        "k_live_",
        "k_test_",
        "whsec_",
        "nck_",
        "nbk_",
        "nbo_",
        "nbt_",
        "npm_",
        "pypi-",
        "hf_",
        "dop_v1_",
        "shpat_",
        "shpca_",
        "shppa_",
        "shpss_",
    ),
    *("ya29.", "AKIA", "ASIA", "AIza", "SG.", "hooks.slack.com", "eyJ"),
)
_SECRET_TEXT: Final = re.compile(
    SHAPES_OF_KEYS + r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b[Bb](?:earer|asic)\s+[\w.~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password in a URL
    r"|(?i:(?<=[?&\s;,\"'])(?:password|passwd|secret|client_secret|token|access_token|refresh_token|api_?key|signature"
    r"|sig)=)[^\s&\"']+",
    re.DOTALL,
)
_MAX_DEPTH: Final = 12
_LEAST_MASKED: Final = 6  # characters: shorter values of ours would blank half a text


@dataclass(frozen=True)
class Kept:
    """changed: whether it is less than what it was made from."""

    value: Any
    changed: bool


def masked(text: str, known: Collection[str] = ()) -> str:
    """The text without what looks like a secret, and without these known ones."""
    return _SECRET_TEXT.sub(MASK, without(text, known))


def without(text: str, known: Collection[str]) -> str:
    """The text without these secrets, however much they look like something else."""
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _LEAST_MASKED:
            text = text.replace(secret, MASK)
    return text


def kept(value: Any, *, max_chars: int) -> Kept:
    """A JSON value for the record: secrets masked by key and by text, at most about max_chars characters of JSON."""
    clean = _clean(value, _MAX_DEPTH)
    for longest in (max_chars, max_chars // 4, max_chars // 32, 64):
        shortened = _shortened(clean, longest)
        if len(json.dumps(shortened, ensure_ascii=False)) <= max_chars:
            return Kept(shortened, shortened != value)
    return Kept(json.dumps(clean, ensure_ascii=False)[:max_chars] + CUT, changed=True)


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return masked(value)
    if not isinstance(value, Mapping | list | tuple):
        return value
    if depth == 0:
        return CUT
    if isinstance(value, Mapping):
        return {
            masked(str(key)): MASK if _hides(str(key), item) else _clean(item, depth - 1) for key, item in value.items()
        }
    return [_clean(item, depth - 1) for item in value]


def _hides(key: str, item: Any) -> bool:
    """A number or a flag under such a name is a count or a switch."""
    return bool(_SECRET_KEY.search(key)) and not isinstance(item, bool | int | float | None)


def _shortened(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + CUT
    if isinstance(value, Mapping):
        return {key: _shortened(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        items = [_shortened(item, longest) for item in value[:longest]]
        return items if len(value) <= longest else [*items, CUT]
    return value
