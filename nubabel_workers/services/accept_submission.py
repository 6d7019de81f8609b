"""A producer's submission straight through the broker: whose is it, is it genuine, then through the one door.

Nothing is dropped in silence: what is refused becomes a dead letter with the reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from nubabel_workers.domain.admission import LimitReachedError
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.errors import CredentialsError, NotFoundError, PermanentError, TransientError
from nubabel_workers.domain.foreign_ids import Naming
from nubabel_workers.domain.ports import Chance, Clock, DeadLetterStore, TenantStore
from nubabel_workers.domain.submission import (
    NEWER_VERSION,
    SIGNATURE_WINDOW_S,
    SUBMIT_QUEUE,
    SUBMIT_TASK,
    Submission,
    check_signature,
    read_submission,
)
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.domain.trace import TraceContext
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.submit_execution import SubmitExecution, Submitted

_MAX_PAYLOAD_CHARS = 65_536  # ASCII, so bytes as well

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Refused:
    dead_letter_id: str
    code: str


class AcceptSubmission:
    """Any delivery may repeat: the same message makes one execution, however often it comes."""

    def __init__(
        self,
        tenants: TenantStore,
        dead_letters: DeadLetterStore,
        submit: SubmitExecution,
        foreign_ids: ReportForeignIds,
        clock: Clock,
        chance: Chance,
        *,
        trusted_organization_id: str | None,
        window_s: float = SIGNATURE_WINDOW_S,
    ) -> None:
        """trusted_organization_id: owner of unsigned submissions; None: they are refused."""
        self._tenants = tenants
        self._dead_letters = dead_letters
        self._submit = submit
        self._foreign_ids = foreign_ids
        self._clock = clock
        self._chance = chance
        self._trusted_organization_id = trusted_organization_id
        self._window_s = window_s

    async def accept(self, raw: Any, *, delivery_id: str) -> Submitted | Refused:
        """Raises TransientError while it can be neither stored nor set aside: then the message must come again.

        raw: the task's argument as it came. delivery_id: the message's own id, the same for each of its deliveries.
        """
        organization_id: str | None = None
        try:
            submission = read_submission(raw)
            organization_id = await self._owner(raw, submission)
            return await self._submit_for(organization_id, submission, delivery_id)
        except LimitReachedError as error:  # the queue is everybody's: what one may not add now does not wait in it
            return await self._refuse(raw, error, organization_id, delivery_id)
        except PermanentError as error:
            if error.code == NEWER_VERSION and self._is_fresh(raw):
                raise TransientError(f"left to a newer worker: {error}") from error
            await self._report(raw, error)
            return await self._refuse(raw, error, organization_id, delivery_id)

    async def _report(self, raw: Mapping[str, Any], error: PermanentError) -> None:
        """Before the end of the message, so that whoever dies in between reports it again, and nothing is missed."""
        if isinstance(error, NotFoundError) and error.sought is not None:
            actor = f"submit_key:{raw['key_id']}" if raw.get("key_id") else "broker"
            await self._foreign_ids.run(Naming(actor, SUBMIT_TASK, error.sought))

    def _is_fresh(self, raw: Mapping[str, Any]) -> bool:
        """Whether its signature would still count: so long a message waits for a worker that can read it."""
        issued_at = raw.get("issued_at")
        return type(issued_at) is int and abs(self._clock.now().timestamp() - issued_at) <= self._window_s

    async def _submit_for(self, organization_id: str, submission: Submission, delivery_id: str) -> Submitted:
        organization = await self._organization(organization_id)
        request = submission.request
        if request.idempotency_key is None:
            request = request.model_copy(update={"idempotency_key": _own_key(submission, delivery_id)})
        trace = TraceContext.parse(request.traceparent)
        return await self._submit.submit(
            organization,
            request,
            source="broker",
            correlation_id=self._chance.new_id("req"),
            traceparent=str(trace) if trace else self._chance.new_traceparent(),
        )

    async def _owner(self, raw: Mapping[str, Any], submission: Submission) -> str:
        """The organization, from the key alone: nothing else in a message says whose it is."""
        if submission.key_id is None or submission.nonce is None:
            if self._trusted_organization_id is None:
                raise CredentialsError("unsigned submissions are refused", code="unsigned")
            return self._trusted_organization_id
        key = await self._tenants.submit_key(submission.key_id)
        if key is None:
            raise CredentialsError("the submit key is unknown or revoked", code="unknown_key")
        check_signature(raw, key.secret, now_s=self._clock.now().timestamp(), window_s=self._window_s)
        await self._use_nonce(submission.key_id, submission.nonce, str(submission.signature))
        return key.organization_id

    async def _use_nonce(self, key_id: str, nonce: str, signature: str) -> None:
        """Refuse a nonce that was used for anything else; a message that is delivered again is let through.

        That is safe because the same message is the same idempotency key; and it is needed, because a worker may have
        died after the nonce was noted and before the request was.
        """
        is_new = await self._tenants.use_nonce(key_id, f"{nonce}:{signature}")
        if is_new and not await self._tenants.use_nonce(key_id, nonce):
            raise CredentialsError("the nonce was used before", code="nonce_reused")

    async def _organization(self, organization_id: str) -> Organization:
        organization = await self._tenants.organization(organization_id)
        if organization is None or organization.disabled_at is not None:
            raise CredentialsError("the organization is unknown or disabled", code="organization_disabled")
        return organization

    async def _refuse(
        self, raw: Any, error: PermanentError | LimitReachedError, organization_id: str | None, delivery_id: str
    ) -> Refused:
        log.warning("submission.refused", code=error.code, reason=str(error), delivery_id=delivery_id)
        dead_letter_id = await self._dead_letters.add(
            NewDeadLetter(
                queue=SUBMIT_QUEUE,
                task=SUBMIT_TASK,
                reason=DeadLetterReason.REFUSED_SUBMISSION,
                error=f"{error.code}: {error}",
                organization_id=organization_id,
                payload=json.dumps(raw)[:_MAX_PAYLOAD_CHARS],
                headers={"id": delivery_id},
            )
        )
        return Refused(dead_letter_id, error.code)


def _own_key(submission: Submission, delivery_id: str) -> str:
    """For a request without one: a repeated delivery is the same request."""
    if submission.is_signed:
        return f"nonce:{submission.key_id}:{submission.nonce}"
    return f"message:{delivery_id}"
