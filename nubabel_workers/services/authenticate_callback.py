"""Which OpenCode server's plugin is calling, proven by its signature; a call that was recorded is refused."""

from collections.abc import Mapping

import structlog

from nubabel_workers.domain.callback_signature import Proof, SignedCall, check_proof, read_proof
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.domain.ports import Clock, InstanceStore, TenantStore

log = structlog.get_logger(__name__)


class AuthenticateCallback:
    def __init__(self, instances: InstanceStore, tenants: TenantStore, clock: Clock) -> None:
        self._instances = instances
        self._tenants = tenants
        self._clock = clock

    async def run(self, headers: Mapping[str, str], call: SignedCall) -> str:
        """The server's id. Raises CredentialsError. headers: by lower-case names.

        The nonce is used up before anything else is done with the call: who repeats a call signs it anew.
        """
        proof = read_proof(headers)
        try:
            await self._check(proof, call)
        except CredentialsError as error:
            log.warning("callback.refused", instance_id=proof.instance_id, code=error.code)
            raise
        return proof.instance_id

    async def _check(self, proof: Proof, call: SignedCall) -> None:
        keys = await self._instances.callback_keys(proof.instance_id)
        check_proof(proof, call, keys, now_s=self._clock.now().timestamp())
        if not await self._tenants.use_nonce(proof.instance_id, proof.nonce):
            raise CredentialsError("this call was made before; sign it anew to repeat it", code="replayed")
