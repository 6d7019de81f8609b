"""Stored secrets and the encryption keys: whether they fit, and moving the secrets to the first of the keys."""

from nubabel_workers.domain.administration import AuditAction, AuditEntry, RotationReport
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.domain.ports.administration import AuditTrail, KeyRotation, StoredSecrets


class ManageKeys:
    def __init__(self, rotation: KeyRotation, stored: StoredSecrets, audit: AuditTrail) -> None:
        self._rotation = rotation
        self._stored = stored
        self._audit = audit

    async def check(self) -> str:
        """Words for the doctor. Raises CredentialsError when a key is missing."""
        readable, looked_at = await self._stored.readable()
        if readable < looked_at:
            raise CredentialsError(
                f"{looked_at - readable} of {looked_at} stored secrets were encrypted with a key that is not in"
                " NUBABEL_ENCRYPTION_KEYS",
                code="secret_unreadable",
            )
        return f"they decrypt all {looked_at} stored secrets that were looked at"

    async def rotate(self, *, actor: str) -> RotationReport:
        """Safe to repeat and to run while the system works."""
        report = await self._rotation.rotate()
        detail = {"rotated": report.rotated, "current": report.current, "unreadable": len(report.unreadable)}
        await self._audit.add(AuditEntry(actor, AuditAction.SECRETS_ROTATED, detail=detail))
        return report
