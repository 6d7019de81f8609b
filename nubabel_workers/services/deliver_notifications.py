"""Tell people and upstream services what there is to tell; each claimed row ends told, waiting or parked.

How a kind is told lies in `deliver_to_slack.py`; here is what all share: claims, retries, limits, dead letters.
"""

import asyncio
from collections.abc import Sequence

import structlog

from nubabel_workers.domain.dead_letters import DeadLetterReason, letter_of_notification
from nubabel_workers.domain.errors import (
    NubabelError,
    PermanentError,
    RateLimitedError,
    UnansweredError,
    UncertainError,
)
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import CallbacksTarget, NotificationKind, WebhookTarget, reply_target
from nubabel_workers.domain.ports import (
    Chance,
    ClaimedNotification,
    Clock,
    HintPublisher,
    NotificationStore,
    TenantStore,
    WebhookSender,
)
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, next_attempt
from nubabel_workers.domain.sidecar import callback_body
from nubabel_workers.domain.tenants import TOKEN_ENDED, Workspace
from nubabel_workers.services.batches import BatchLimits, Tally, took_all
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.deliver_to_slack import (
    WORKSPACE_ENDED,
    DeliverToSlack,
    LookUpLaterError,
    TokenRefusedError,
    TokenReplacedError,
    WorkspaceEndedError,
)
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.log_context import about_request
from nubabel_workers.services.written_down import in_doubt_unless_written

log = structlog.get_logger(__name__)

# Decorations: their loss is not worth a dead letter, a repeat of them no harm.
_DECORATIONS = frozenset({NotificationKind.WORKING, NotificationKind.PROGRESS})
# Of a thread or an installation that is gone. Where its question was cancelled nobody waits for a word any more, and no
# operator can do anything (the end of a workspace is in the audit log); an answer that cannot be told is a dead letter.
_NOBODY_THERE = frozenset({"thread_not_found", "message_not_found", WORKSPACE_ENDED}) | TOKEN_ENDED
_LOOK_AFTER_S = 2.0  # Slack shows a post to readers a moment after it took it
_LIMIT_WAIT_S = 5.0  # where Slack does not say how long its limit holds
_LIMIT_SPREAD_S = 0.5


class DeliverNotifications:
    """Running it twice at once tells nothing twice: a row belongs to whoever holds its lease."""

    def __init__(
        self,
        notifications: NotificationStore,
        tenants: TenantStore,
        slack: DeliverToSlack,
        webhooks: WebhookSender,
        canceller: CancelExecution,
        leases: LeaseHolder,
        hints: HintPublisher,
        chance: Chance,
        clock: Clock,
        *,
        retry: RetryPolicy,
        limits: BatchLimits,
    ) -> None:
        self._notifications = notifications
        self._tenants = tenants
        self._slack = slack
        self._webhooks = webhooks
        self._canceller = canceller
        self._cancelling = asyncio.Lock()
        self._leases = leases
        self._hints = hints
        self._chance = chance
        self._clock = clock
        self._retry = retry
        self._limits = limits

    async def run(self, notification_id: str | None) -> str:
        """Deliver the named notification and others that are ready. Returns one line for Flower."""
        tally = Tally(self._limits)
        while not tally.full:
            async with self._leases.hold() as lease:
                claimed = await self._notifications.claim(
                    notification_id=notification_id, limit=self._limits.batch, lease=lease
                )
                await asyncio.gather(*(self._one(item, lease, tally) for item in claimed))
            notification_id = None
            if took_all(claimed, self._limits.batch):
                return str(tally)
        self._hints.publish(Hint(HintTask.DELIVER, claimed[-1].notification.id))
        return str(tally)

    async def _one(self, claimed: ClaimedNotification, lease: Lease, tally: Tally) -> None:
        notification = claimed.notification
        with about_request(
            notification,
            session_id=notification.session_id,
            execution_id=notification.execution_id,
            notification_id=notification.id,
        ):
            await tally.settle(
                notification.id,
                self._deliver(claimed, lease),
                lambda error: self._after_failure(claimed, lease, error),
            )

    async def _deliver(self, claimed: ClaimedNotification, lease: Lease) -> str:
        notification = claimed.notification
        if claimed.lone_deliveries > self._limits.lone_deliveries:
            await self._park(
                claimed, lease, DeadLetterReason.TOO_MANY_DELIVERIES, "its workers ended without a result each time"
            )
            return "parked"
        target = reply_target(notification.destination)
        if isinstance(target, WebhookTarget):
            parts: Sequence[str] | None = await self._call_webhook(claimed, target)
        elif isinstance(target, CallbacksTarget):
            parts = await self._call_back(claimed, target)
        else:
            parts = await self._slack.deliver(claimed, lease)
        if parts is None:
            await self._notifications.drop(notification, lease, reason="not needed any more")
            return "dropped"
        with in_doubt_unless_written("it was told"):
            sign_left = not await self._slack.take_sign_away(notification)
            again = await self._notifications.sent(claimed, lease, parts, sign_left=sign_left)
        if again:
            self._hints.publish(Hint(HintTask.DELIVER, notification.id, notification.organization_id))
        log.info("notification.sent", kind=notification.kind, parts=len(parts))
        return f"{notification.kind} sent"

    async def _call_webhook(self, claimed: ClaimedNotification, target: WebhookTarget) -> Sequence[str]:
        notification = claimed.notification
        secrets = await self._tenants.webhook_secrets(notification.organization_id)
        if not secrets:
            raise PermanentError("the organization has no webhook secret any more", code="no_webhook_secret")
        await self._webhooks.send(
            url=target.url, secrets=secrets, message_id=notification.id, payload=notification.payload
        )
        return [notification.id]

    async def _call_back(self, claimed: ClaimedNotification, target: CallbacksTarget) -> Sequence[str] | None:
        notification = claimed.notification
        is_progress = notification.kind is NotificationKind.PROGRESS
        url = target.progress if is_progress else target.session_update
        if url is None or notification.payload.get("removed"):  # a progress that its end has overtaken
            return None
        await self._webhooks.send(
            url=url,
            secrets=await self._tenants.webhook_secrets(notification.organization_id),
            message_id=f"{notification.id}_{claimed.revision}" if is_progress else notification.id,
            payload=callback_body(notification, now=self._clock.now()),
        )
        return [notification.id]

    async def _after_failure(self, claimed: ClaimedNotification, lease: Lease, error: NubabelError) -> str:
        notification = claimed.notification
        log.warning("notification.failed", kind=notification.kind, error=str(error), failures=notification.failures + 1)
        if isinstance(error, TokenRefusedError) and error.code in TOKEN_ENDED and not await self._end_workspace(error):
            error = TokenReplacedError()
        if isinstance(error, WorkspaceEndedError):  # whoever ended it may have died before it did this
            await self._cancel_rest_of(error.workspace, str(error))
        return await self._retry_or_park(claimed, lease, error)

    async def _retry_or_park(self, claimed: ClaimedNotification, lease: Lease, error: NubabelError) -> str:
        notification = claimed.notification
        if isinstance(error, LookUpLaterError | RateLimitedError):  # waiting for a limit is no failure
            wait_s = (error.retry_after_s or _LIMIT_WAIT_S) + self._chance.jitter() * _LIMIT_SPREAD_S
            await self._again(claimed, lease, error, wait_s, uncertain=notification.uncertain, failed=False)
            return "limited"
        if isinstance(error, UncertainError) and not notification.uncertain:
            await self._again(claimed, lease, error, _LOOK_AFTER_S, uncertain=True)
            return "uncertain"
        decision = next_attempt(error, notification.failures + 1, self._retry, jitter=self._chance.jitter())
        if not isinstance(decision, GiveUp):
            uncertain = notification.uncertain or decision.look_first
            await self._again(claimed, lease, error, decision.wait_s, uncertain=uncertain)
            return "again"
        unheard = decision.code in _NOBODY_THERE and notification.payload.get("status") == Status.CANCELLED
        if notification.kind in _DECORATIONS or notification.is_edit or unheard:
            await self._notifications.drop(notification, lease, reason=str(error))
            return "dropped"
        await self._park(claimed, lease, decision.reason, f"{decision.code}: {error}")
        return "parked"

    async def _again(
        self,
        claimed: ClaimedNotification,
        lease: Lease,
        error: NubabelError,
        wait_s: float,
        *,
        uncertain: bool,
        failed: bool = True,
    ) -> None:
        await self._notifications.retry(
            claimed.notification,
            lease,
            wait_s=wait_s,
            error=str(error),
            uncertain=uncertain,
            unanswered=isinstance(error, UnansweredError),
            failed=failed,
        )

    async def _park(self, claimed: ClaimedNotification, lease: Lease, reason: DeadLetterReason, error: str) -> None:
        notification = claimed.notification
        dead_letter = letter_of_notification(
            notification.id,
            notification.organization_id,
            reason=reason,
            error=error,
            attempts=notification.failures + 1,
        )
        await self._notifications.fail(notification, lease, error=error, dead_letter=dead_letter)

    async def _end_workspace(self, refused: TokenRefusedError) -> bool:
        """Slack refused the workspace's token for good: nobody there can be told anything any more.

        False, and nothing changes, when the app was installed again meanwhile.
        """
        workspace, code = refused.workspace, refused.code
        await self._tenants.end_workspace(
            workspace.organization_id, workspace.id, reason=code, installed_at=workspace.installed_at
        )
        now = await self._tenants.workspace(workspace.organization_id, workspace.id, afresh=True)
        if now is not None and now.installed:
            return False
        log.error("slack.workspace_ended", workspace_id=workspace.id, code=code)
        await self._cancel_rest_of(workspace, f"Slack refused the workspace's token ({code})")
        return True

    async def _cancel_rest_of(self, workspace: Workspace, reason: str) -> None:
        """One at a time: of many that find it out at once, the first does it and the others find nothing left."""
        async with self._cancelling:
            await self._canceller.cancel_workspace(workspace.organization_id, workspace.id, reason=reason)
