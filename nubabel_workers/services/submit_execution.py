"""The one door for requests that don't come from Slack: HTTP, broker, command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from nubabel_workers.domain.analysis import Rules, check_agent, check_overrides
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.executions import NewExecution, Overrides, Status
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.hints import turn_hint
from nubabel_workers.domain.notifications import CallbacksTarget, NoTarget, ReplyTarget, WebhookTarget
from nubabel_workers.domain.ports import Accepted, Chance, ExecutionStore, HintPublisher, InstanceStore, TenantStore
from nubabel_workers.domain.submission import BATCH, AskedRequest, SubmitRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Submitted:
    """What became of a request. created is False when the same request had been accepted before."""

    execution_id: str
    session_id: str
    status: Status
    created: bool
    idempotency_key: str


@dataclass(frozen=True)
class Origin:
    """Where a request came in. source: "api", "broker" or "cli"."""

    source: str
    correlation_id: str
    traceparent: str


class SubmitExecution:
    """Accepts a request: when `submit` returns, its row is committed (DESIGN invariant 1)."""

    def __init__(
        self,
        executions: ExecutionStore,
        tenants: TenantStore,
        admission: AdmitRequests,
        busy_policy: ApplyBusyPolicy,
        hints: HintPublisher,
        chance: Chance,
        rules: Rules,
        instances: InstanceStore,
        check_url: Callable[[str], object],
        *,
        answer_by_s: float,
        max_prompt_bytes: int,
    ) -> None:
        """check_url: raises InvalidInputError for an address that nothing may be sent to."""
        self._executions = executions
        self._tenants = tenants
        self._instances = instances
        self._check_url = check_url
        self._admission = admission
        self._busy_policy = busy_policy
        self._hints = hints
        self._chance = chance
        self._rules = rules
        self._answer_by_s = answer_by_s
        self._max_prompt_bytes = max_prompt_bytes

    async def submit(
        self,
        organization: Organization,
        request: SubmitRequest,
        *,
        source: str,
        correlation_id: str,
        traceparent: str,
        callbacks: CallbacksTarget | None = None,
    ) -> Submitted:
        """Store the request, idempotently by its key, then apply the organization's policy for a busy session.

        source: "api", "broker" or "cli". callbacks: instead of the request's callback_url. Raises InvalidInputError
        (code `idempotency_key_reused` when the key stands for another request; `unknown_category` and its like),
        NotFoundError for a session that the organization does not have, LimitReachedError when it is at a limit of its.
        """
        key = request.idempotency_key or self._chance.new_id("key")
        target = callbacks or await self.reply_target(organization, request.callback_url)
        origin = Origin(source, correlation_id, traceparent)
        new = await self.prepare(organization, request, origin, key=key, reply=target.as_dict())
        await self._admission.admit(organization, idempotency_key=new.idempotency_key, session_key=new.session_key)
        accepted = await self._executions.accept(new, working=None, answer_by_s=self._answer_by_s)
        if not accepted.created:
            return _repeated(accepted, new, key)
        log.info(
            "execution.accepted",
            execution_id=accepted.execution_id,
            session_id=accepted.session_id,
            organization_id=organization.id,
            source=source,
            busy=len(accepted.busy_execution_ids),
        )
        status = await self._busy_policy.apply(organization.id, organization.busy_policy, accepted)
        if status is Status.QUEUED:
            long = accepted.line_is_long
            self._hints.publish(turn_hint(accepted.execution_id, organization.id, line_is_long=long))
        return Submitted(accepted.execution_id, accepted.session_id, status, created=True, idempotency_key=key)

    async def prepare(
        self, organization: Organization, request: AskedRequest, origin: Origin, *, key: str, reply: Mapping[str, Any]
    ) -> NewExecution:
        """The request as it will be stored, or what is wrong with it, as `submit` raises it."""
        self._check_size(request.prompt)
        overrides = Overrides(request.category, request.skills, request.agent, request.model)
        check_overrides(overrides, self._rules)
        if overrides.agent is not None:
            await self._check_agent(overrides.agent)
        return NewExecution(
            organization_id=organization.id,
            source=origin.source,
            prompt=request.prompt,
            session_key=await self._session_key(organization, request, key),
            idempotency_key=stored_key(key),
            request_hash=request.content_hash(),
            reply=reply,
            user_id=request.user_id,
            overrides=overrides,
            metadata=request.metadata or {},
            correlation_id=origin.correlation_id,
            traceparent=origin.traceparent,
            deadline_s=request.deadline_s,
            batch=request.priority == BATCH,
        )

    async def _check_agent(self, agent: str) -> None:
        """Whether any server that is well has it; a new one may come, so a list that is empty says nothing."""
        servers = await self._instances.loads()
        check_agent(agent, sorted({name for server in servers if server.healthy for name in server.agents}))

    def _check_size(self, prompt: str) -> None:
        size = len(prompt.encode(errors="replace"))
        if size > self._max_prompt_bytes:
            raise InvalidInputError(
                f"the prompt has {size} bytes; at most {self._max_prompt_bytes} are accepted", code="prompt_too_large"
            )

    async def _session_key(self, organization: Organization, request: AskedRequest, key: str) -> str:
        """Names the conversation. One of its own is named after the idempotency key, so a repeat makes no other."""
        if request.session_id is not None:
            found = await self._executions.session_key(organization.id, request.session_id)
            if found is None:
                sought = Sought(organization.id, request.session_id)
                raise NotFoundError("there is no such session", code="session_not_found", sought=sought)
            return found
        if request.session_key is not None:
            return f"api:{request.session_key}"
        return f"once:{key}"

    async def reply_target(self, organization: Organization, callback_url: str | None) -> ReplyTarget:
        """Raises InvalidInputError: the address is not public, or the organization has nothing to sign with."""
        if callback_url is None:
            return NoTarget()
        self._check_url(callback_url)
        if not await self._tenants.webhook_secrets(organization.id):
            raise InvalidInputError(
                "callback_url needs a webhook secret of the organization, with which the callback is signed",
                code="no_webhook_secret",
            )
        return WebhookTarget(callback_url)


def _repeated(accepted: Accepted, new: NewExecution, key: str) -> Submitted:
    if accepted.request_hash != new.request_hash:
        raise InvalidInputError(
            "this idempotency key was used for another request; take a new key", code="idempotency_key_reused"
        )
    return Submitted(accepted.execution_id, accepted.session_id, accepted.status, created=False, idempotency_key=key)


def stored_key(idempotency_key: str) -> str:
    """A caller's key as it is stored: never mistaken for the keys that Slack messages have."""
    return f"key:{idempotency_key}"
