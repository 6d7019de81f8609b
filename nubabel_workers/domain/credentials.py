"""Secrets that we hand out: their text forms, and what of them is stored. Pure: the randomness comes from outside."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import SecretStr

ENTROPY_BYTES = 32
WEBHOOK_OVERLAP_S = 24 * 3600.0  # a day for a receiver to take the new secret over

_TOKEN_SHAPE = re.compile(r"nbt_[0-9a-z]{26}_[A-Za-z0-9_-]{43}")


def service_token_text(token_id: str, entropy: bytes) -> SecretStr:
    """`nbt_<the id without its prefix>_<43 characters>`: a leaked one is found in our lists by its id."""
    return SecretStr(f"nbt_{token_id.partition('_')[2]}_{_urlsafe(entropy)}")


def looks_like_service_token(text: str) -> bool:
    """Tell garbage from a token before the database is asked."""
    return _TOKEN_SHAPE.fullmatch(text) is not None


def hash_token(text: str) -> bytes:
    """What is stored of a token. It has 256 random bits, so a plain SHA-256 cannot be reversed by trying."""
    return hashlib.sha256(text.encode()).digest()


def operator_token_text(entropy: bytes) -> SecretStr:
    return SecretStr(f"nbo_{_urlsafe(entropy)}")


@dataclass(frozen=True)
class OperatorToken:
    """A token for operators' calls, as the settings hold it. name: who acts, in the audit log."""

    name: str
    digest: bytes = field(repr=False)  # SHA-256, see hash_token

    def is_of(self, text: str) -> bool:
        """Takes as long for a wrong one as for a right one."""
        return hmac.compare_digest(self.digest, hash_token(text))


def operator_setting(name: str, text: SecretStr) -> str:
    """What the settings need to know of a new one."""
    return f"{name}:{hash_token(text.get_secret_value()).hex()}"


def operator_tokens(settings: Iterable[str]) -> tuple[OperatorToken, ...]:
    """From `name:digest`. Raises ValueError."""
    pairs = (setting.partition(":") for setting in settings)
    return tuple(OperatorToken(name, bytes.fromhex(digest)) for name, _, digest in pairs)


def submit_key_text(entropy: bytes) -> SecretStr:
    return SecretStr(f"nbk_{_urlsafe(entropy)}")


def callback_key_text(entropy: bytes) -> SecretStr:
    return SecretStr(f"nck_{_urlsafe(entropy)}")


def webhook_secret_text(entropy: bytes) -> SecretStr:
    """Source of the form: Standard Webhooks, https://www.standardwebhooks.com ("Signature scheme")."""
    return SecretStr(f"whsec_{base64.b64encode(entropy).decode()}")


def _urlsafe(entropy: bytes) -> str:
    return base64.urlsafe_b64encode(entropy[:ENTROPY_BYTES]).rstrip(b"=").decode()
