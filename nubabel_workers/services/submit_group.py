"""Accept several requests together: all of them are stored, or none."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.executions import NewExecution, Status
from nubabel_workers.domain.groups import NewGroup, OnFailure
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.notifications import NoTarget
from nubabel_workers.domain.ports import Chance, GroupStore, HintPublisher
from nubabel_workers.domain.submission import BatchRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.submit_execution import Origin, SubmitExecution, stored_key

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SubmittedGroup:
    """created is False when the same batch had been accepted before."""

    group_id: str
    created: bool
    idempotency_key: str


class SubmitGroup:
    """Each request is accepted as `SubmitExecution` would; nobody is told of each, but of all."""

    def __init__(
        self,
        groups: GroupStore,
        one: SubmitExecution,
        admission: AdmitRequests,
        busy_policy: ApplyBusyPolicy,
        hints: HintPublisher,
        chance: Chance,
        *,
        answer_by_s: float,
        max_requests: int,
    ) -> None:
        self._groups = groups
        self._one = one
        self._admission = admission
        self._busy_policy = busy_policy
        self._hints = hints
        self._chance = chance
        self._answer_by_s = answer_by_s
        self._max_requests = max_requests

    async def submit(self, organization: Organization, request: BatchRequest, origin: Origin) -> SubmittedGroup:
        """Raises InvalidInputError and NotFoundError as for one request; they name the place of what is wrong.

        LimitReachedError when the organization has no room for all of them.
        """
        if len(request.requests) > self._max_requests:
            raise InvalidInputError(
                f"the batch has {len(request.requests)} requests; at most {self._max_requests} are accepted at once",
                code="batch_too_large",
            )
        key = request.idempotency_key or self._chance.new_id("key")
        group = NewGroup(
            id=self._chance.new_id("bat"),
            organization_id=organization.id,
            on_failure=OnFailure(request.on_failure),
            reply=(await self._one.reply_target(organization, request.callback_url)).as_dict(),
            idempotency_key=stored_key(key),
            request_hash=request.content_hash(),
            correlation_id=origin.correlation_id,
            traceparent=origin.traceparent,
        )
        each = await self._each(organization, request, group, origin)
        await self._admission.admit_group(organization, len(each), idempotency_key=group.idempotency_key)
        accepted = await self._groups.accept(group, each, answer_by_s=self._answer_by_s)
        if not accepted.created:
            if accepted.request_hash != group.request_hash:
                raise InvalidInputError(
                    "this idempotency key was used for another batch; take a new key", code="idempotency_key_reused"
                )
            return SubmittedGroup(accepted.group_id, created=False, idempotency_key=key)
        log.info("batch.accepted", batch_id=group.id, organization_id=organization.id, executions=len(accepted.items))
        queued = [
            one.execution_id
            for one in accepted.items
            if await self._busy_policy.apply(organization.id, organization.busy_policy, one) is Status.QUEUED
        ]
        if queued:  # its task takes the others along
            self._hints.publish(Hint(HintTask.DISPATCH, queued[0], organization.id))
        return SubmittedGroup(group.id, created=True, idempotency_key=key)

    async def _each(
        self, organization: Organization, request: BatchRequest, group: NewGroup, origin: Origin
    ) -> Sequence[NewExecution]:
        """Their keys are ours: callers name the batch."""
        prepared = []
        for place, asked in enumerate(request.requests):
            try:
                new = await self._one.prepare(
                    organization, asked, origin, key=f"{group.id}:{place}", reply=NoTarget().as_dict()
                )
            except InvalidInputError as error:
                raise InvalidInputError(f"requests.{place}: {error}", code=error.code) from error
            except NotFoundError as error:
                raise NotFoundError(f"requests.{place}: {error}", code=error.code, sought=error.sought) from error
            prepared.append(new)
        return prepared
