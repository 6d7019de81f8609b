"""How an OpenCode server's plugin signs its calls to us: HMAC-SHA256 with the callback key of that server. Pure."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

from nubabel_workers.domain.errors import CredentialsError

INSTANCE_HEADER: Final = "x-nubabel-instance"
TIMESTAMP_HEADER: Final = "x-nubabel-timestamp"
NONCE_HEADER: Final = "x-nubabel-nonce"
SIGNATURE_HEADER: Final = "x-nubabel-signature"
WINDOW_S: Final = 300  # a nonce is remembered for longer than twice this, see adapters.storage.maintenance

_SHAPES: Final[Mapping[str, re.Pattern[str]]] = {
    INSTANCE_HEADER: re.compile(r"ins_[0-9a-z]{1,40}"),
    TIMESTAMP_HEADER: re.compile(r"[0-9]{1,12}"),
    NONCE_HEADER: re.compile(r"[A-Za-z0-9_-]{16,64}"),
    SIGNATURE_HEADER: re.compile(r"v1=[0-9a-f]{64}"),
}
# Signed with where a server has no key, so that a refusal takes as long as any other. Nothing is signed with it.
_NO_KEY = SecretStr("no key")


@dataclass(frozen=True)
class SignedCall:
    """What is signed. target: path as sent, with the query if there is one. body: the raw bytes, maybe none."""

    method: str
    target: bytes
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Proof:
    """What the headers say: which server, when (Unix seconds, as sent), a word used once, the signature."""

    instance_id: str
    timestamp: str
    nonce: str
    signature: str = field(repr=False)


def read_proof(headers: Mapping[str, str]) -> Proof:
    """headers: by lower-case names. Raises CredentialsError that names the header that is missing or malformed."""
    for name, shape in _SHAPES.items():
        if not shape.fullmatch(headers.get(name, "")):
            raise CredentialsError(f"the header {name} is missing or malformed", code="unsigned")
    return Proof(*(headers[name] for name in _SHAPES))


def signature_of(call: SignedCall, key: SecretStr, *, timestamp: str, nonce: str) -> str:
    """`v1=` and the hex digest over `v1:{timestamp}:{nonce}:{METHOD}:{target}:` and the body."""
    head = f"v1:{timestamp}:{nonce}:{call.method}:".encode() + call.target + b":"
    return f"v1={hmac.new(key.get_secret_value().encode(), head + call.body, hashlib.sha256).hexdigest()}"


def check_proof(proof: Proof, call: SignedCall, keys: Sequence[SecretStr], *, now_s: float) -> None:
    """Raises CredentialsError unless one of the keys made the signature, not longer than WINDOW_S ago or ahead.

    Takes as long whichever key fits, and whether there is one. That the nonce is new is not looked at here.
    """
    fits = False
    for key in keys or (_NO_KEY,):
        expected = signature_of(call, key, timestamp=proof.timestamp, nonce=proof.nonce)
        fits |= hmac.compare_digest(expected.encode(), proof.signature.encode())
    if not (fits and keys):
        raise CredentialsError(
            "the signature fits no callback key of this server; `nubabel instances callback-key` makes one",
            code="bad_signature",
        )
    if abs(now_s - int(proof.timestamp)) > WINDOW_S:
        raise CredentialsError(
            f"the call was signed more than {WINDOW_S} s away from now; compare the clocks", code="signature_too_old"
        )
