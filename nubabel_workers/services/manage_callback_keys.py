"""Issue and end what the plugins of OpenCode servers sign their calls with. Two keys of a server are good at a time."""

from collections.abc import Callable

from pydantic import SecretStr

from nubabel_workers.domain.credentials import ENTROPY_BYTES, callback_key_text
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.ports.administration import CallbackKeyRegistry


class ManageCallbackKeys:
    """random_bytes: a cryptographic source, e.g. `secrets.token_bytes`."""

    def __init__(self, registry: CallbackKeyRegistry, random_bytes: Callable[[int], bytes]) -> None:
        self._registry = registry
        self._random_bytes = random_bytes

    async def create(self, instance_id: str, *, actor: str) -> SecretStr:
        """A new key; the one before stays good until the next is made, or until it is ended."""
        key = callback_key_text(self._random_bytes(ENTROPY_BYTES))
        if not await self._registry.add_callback_key(instance_id, key, actor=actor):
            raise NotFoundError(f"there is no OpenCode server {instance_id!r}; `nubabel instances list` shows them")
        return key

    async def end_previous(self, instance_id: str, *, actor: str) -> bool:
        """Whether there was one. It is refused everywhere within seconds."""
        return await self._registry.end_previous_callback_key(instance_id, actor=actor)
