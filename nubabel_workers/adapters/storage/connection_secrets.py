"""Secrets of connections as their columns hold them: several named ones sealed together, bound to their row."""

from collections.abc import Mapping

import orjson
from pydantic import SecretStr

from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.domain.oauth import OAuthClient


class ConnectionSecrets:
    def __init__(self, cipher: TokenCipher) -> None:
        self._cipher = cipher

    def seal(
        self,
        secrets: Mapping[str, SecretStr],
        *owner: str,
        purpose: SecretPurpose = SecretPurpose.CONNECTION_CREDENTIALS,
    ) -> bytes:
        plain = orjson.dumps({name: secret.get_secret_value() for name, secret in secrets.items()})
        return self._cipher.encrypt(SecretStr(plain.decode()), purpose, *owner)

    def open(
        self, sealed: bytes | None, *owner: str, purpose: SecretPurpose = SecretPurpose.CONNECTION_CREDENTIALS
    ) -> dict[str, SecretStr]:
        """Raises CredentialsError when no configured key fits."""
        if not sealed:
            return {}
        plain = self._cipher.decrypt(sealed, purpose, *owner).get_secret_value()
        return {name: SecretStr(text) for name, text in orjson.loads(plain).items()}

    def seal_client(self, client: OAuthClient | None, *owner: str) -> bytes | None:
        if client is None or client.secret is None:
            return None
        return self._cipher.encrypt(client.secret, SecretPurpose.CONNECTION_CLIENT, *owner)

    def open_client(self, sealed: bytes | None, *owner: str) -> SecretStr | None:
        return self._cipher.decrypt(sealed, SecretPurpose.CONNECTION_CLIENT, *owner) if sealed else None
