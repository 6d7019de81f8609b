"""Secrets that we hand out: their text forms, and what of them is stored. Pure: the randomness comes from outside."""

import base64
import hashlib
import re

from pydantic import SecretStr

ENTROPY_BYTES = 32

_TOKEN_SHAPE = re.compile(r"nbt_[0-9a-z]{26}_[A-Za-z0-9_-]{43}")


def service_token_text(token_id: str, entropy: bytes) -> SecretStr:
    """`nbt_<the id without its prefix>_<43 characters>`: a leaked one is found in our lists by its id."""
    return SecretStr(f"nbt_{token_id.partition('_')[2]}_{_urlsafe(entropy)}")


def looks_like_service_token(text: str) -> bool:
    """Tell garbage from a token before the database is asked."""
    return _TOKEN_SHAPE.fullmatch(text) is not None


def hash_service_token(text: str) -> bytes:
    """What is stored of a token. It has 256 random bits, so a plain SHA-256 cannot be reversed by trying."""
    return hashlib.sha256(text.encode()).digest()


def submit_key_text(entropy: bytes) -> SecretStr:
    return SecretStr(f"nbk_{_urlsafe(entropy)}")


def webhook_secret_text(entropy: bytes) -> SecretStr:
    """Source of the form: Standard Webhooks, https://www.standardwebhooks.com ("Signature scheme")."""
    return SecretStr(f"whsec_{base64.b64encode(entropy).decode()}")


def _urlsafe(entropy: bytes) -> str:
    return base64.urlsafe_b64encode(entropy[:ENTROPY_BYTES]).rstrip(b"=").decode()
