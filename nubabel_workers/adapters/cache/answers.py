"""Answers that were given lately, in Redis for a while. Encrypted and bound to their organization and question.

Many programs may share the cache: whoever can write to it can neither read an answer nor put one into our mouth.
"""

from datetime import UTC, datetime

import orjson
import redis.asyncio as redis
import structlog
from pydantic import SecretStr

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.domain.errors import CredentialsError, UnavailableError
from nubabel_workers.domain.repeats import RememberedAnswer

log = structlog.get_logger(__name__)

_MOST_BYTES = 65_536  # of an answer; a longer one is given anew


class RedisAnswerMemory:
    """Implements ports.AnswerMemory."""

    def __init__(self, cache: "redis.Redis", cipher: TokenCipher, *, keep_s: int) -> None:
        self._cache = cache
        self._cipher = cipher
        self._keep_s = keep_s

    async def find(self, organization_id: str, question: str) -> RememberedAnswer | None:
        try:
            with translated_errors():
                sealed = await self._cache.get(_key(organization_id, question))
            if sealed is None:
                return None
            stored = sealed if isinstance(sealed, bytes) else sealed.encode()
            plain = self._cipher.decrypt(stored, SecretPurpose.ANSWER, organization_id, question)
        except (UnavailableError, CredentialsError):  # away; or not of our making
            return None
        text, execution_id, answered_at = orjson.loads(plain.get_secret_value())
        return RememberedAnswer(text, execution_id, datetime.fromtimestamp(answered_at, UTC))

    async def remember(self, organization_id: str, question: str, answer: RememberedAnswer) -> None:
        plain = orjson.dumps([answer.text, answer.execution_id, answer.answered_at.timestamp()])
        if len(plain) > _MOST_BYTES:
            return
        sealed = self._cipher.encrypt(SecretStr(plain.decode()), SecretPurpose.ANSWER, organization_id, question)
        try:
            with translated_errors():
                await self._cache.set(_key(organization_id, question), sealed, ex=self._keep_s)
        except UnavailableError:
            log.warning("cache.answer_not_remembered", organization_id=organization_id)


def _key(organization_id: str, question: str) -> str:
    return f"{PREFIX}answer:{organization_id}:{question}"
