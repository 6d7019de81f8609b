"""Move every stored secret to the first encryption key, so that older keys can be taken out of the settings."""

from nubabel_workers.domain.administration import AuditAction, AuditEntry, RotationReport
from nubabel_workers.domain.ports.administration import AuditTrail, KeyRotation


class ManageKeys:
    def __init__(self, rotation: KeyRotation, audit: AuditTrail) -> None:
        self._rotation = rotation
        self._audit = audit

    async def rotate(self, *, actor: str) -> RotationReport:
        """Safe to repeat and to run while the system works."""
        report = await self._rotation.rotate()
        detail = {"rotated": report.rotated, "current": report.current, "unreadable": len(report.unreadable)}
        await self._audit.add(AuditEntry(actor, AuditAction.SECRETS_ROTATED, detail=detail))
        return report
