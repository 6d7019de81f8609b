"""Encryption of secrets at rest: Fernet with several keys, so that keys can be replaced while the system works."""

import hmac
from collections.abc import Sequence
from enum import StrEnum

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, SecretUnreadableError

_END_OF_BINDING = b"\0"


class SecretPurpose(StrEnum):
    """What a stored secret is for. Part of what is encrypted: renaming a value makes stored secrets unreadable."""

    BOT_TOKEN = "bot-token"  # noqa: S105 - a name, not a secret
    SUBMIT_KEY = "submit-key"
    WEBHOOK_SECRET = "webhook-secret"  # noqa: S105 - a name, not a secret
    INSTANCE_PASSWORD = "instance-password"  # noqa: S105 - a name, not a secret
    CALLBACK_KEY = "callback-key"
    CONNECTION_CREDENTIALS = "connection-credentials"
    CONNECTION_CLIENT = "connection-client"
    AUTHORIZATION = "authorization"
    ANSWER = "answer"


def generate_key() -> SecretStr:
    """A new key: 32 random bytes as urlsafe base64."""
    return SecretStr(Fernet.generate_key().decode())


class TokenCipher:
    """Encrypts with the first key, decrypts with any of them.

    Every secret is bound to its purpose and to the row it belongs to (`owner`, e.g. organization and row id): copied
    into another row or column it doesn't decrypt.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        """Raises InvalidInputError when there is no key or one of them is no Fernet key."""
        if not keys:
            raise InvalidInputError("no encryption key is configured; make one with `nubabel keys generate`")
        fernets = [_fernet(key, number) for number, key in enumerate(keys, start=1)]
        self._first = fernets[0]
        self._first_key = keys[0]
        self._any = MultiFernet(fernets)

    def encrypt(self, secret: SecretStr, purpose: SecretPurpose, *owner: str) -> bytes:
        return self._first.encrypt(_binding(purpose, owner) + secret.get_secret_value().encode())

    def decrypt(self, sealed: bytes, purpose: SecretPurpose, *owner: str) -> SecretStr:
        """Raises SecretUnreadableError when no key fits, CredentialsError when it was stored for something else."""
        try:
            plain = self._any.decrypt(sealed)
        except InvalidToken:
            raise SecretUnreadableError(
                f"a stored {purpose} cannot be decrypted: it was encrypted with a key that is not in"
                " NUBABEL_ENCRYPTION_KEYS; put that key back"
            ) from None
        binding = _binding(purpose, owner)
        if not plain.startswith(binding):
            raise CredentialsError(f"a stored {purpose} belongs to another row", code="secret_misplaced")
        return SecretStr(plain[len(binding) :].decode())

    def derived_key(self, use: str) -> bytes:
        """A key of its own for that use, from the first key: it tells nothing about it, and changes with it."""
        return hmac.digest(self._first_key.get_secret_value().strip().encode(), use.encode(), "sha256")

    def is_current(self, sealed: bytes) -> bool:
        """Whether the first key was used, so that rotation has nothing to do."""
        try:
            self._first.extract_timestamp(sealed)
        except InvalidToken:
            return False
        return True

    def fits(self, sealed: bytes) -> bool:
        """Whether one of the keys decrypts it."""
        try:
            self._any.decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def rotate(self, sealed: bytes) -> bytes | None:
        """The same secret under the first key, its binding unchanged; None when no configured key fits."""
        try:
            return self._any.rotate(sealed)
        except InvalidToken:
            return None


def _fernet(key: SecretStr, number: int) -> Fernet:
    try:
        return Fernet(key.get_secret_value().strip())
    except ValueError:
        raise InvalidInputError(
            f"encryption key number {number} is not a valid key (32 bytes in urlsafe base64); "
            "make one with `nubabel keys generate`"
        ) from None


def _binding(purpose: SecretPurpose, owner: Sequence[str]) -> bytes:
    # Ids hold no spaces, so that different owners never give the same binding.
    return " ".join((purpose.value, *owner)).encode() + _END_OF_BINDING
