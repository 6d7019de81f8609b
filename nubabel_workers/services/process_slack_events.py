"""Turn stored Slack events into executions, cancellations and the end of workspaces."""

import asyncio
import hashlib
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.admission import LimitReachedError
from nubabel_workers.domain.dead_letters import DeadLetterReason, letter_of_event
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.executions import FINAL, Attachment, NewExecution, Status
from nubabel_workers.domain.hints import SIGN_WAIT_S, Hint, HintTask, turn_hint
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import NewNotification, NotificationKind, SlackTarget
from nubabel_workers.domain.ports import (
    Chance,
    ClaimedInbound,
    ExecutionStore,
    HintPublisher,
    InboundStore,
    TenantStore,
)
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, next_attempt
from nubabel_workers.domain.slack_events import SlackEvent, SlackEventKind, is_stop_word
from nubabel_workers.domain.tenants import BusyPolicy
from nubabel_workers.domain.wording import language_of, say
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.allow_by_button import AllowByButton
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.batches import BatchLimits, Tally, took_all
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.log_context import about_request

log = structlog.get_logger(__name__)

_MESSAGES = frozenset({SlackEventKind.MENTION, SlackEventKind.DIRECT_MESSAGE, SlackEventKind.THREAD_REPLY})
_APOLOGIES = {**dict.fromkeys(_MESSAGES, "failed"), SlackEventKind.BUTTON: "press_failed"}
_ADDRESSED = frozenset({SlackEventKind.MENTION, SlackEventKind.DIRECT_MESSAGE})
_STOPPED = "stopped in the thread"
_DELETED = "the question was deleted"


@dataclass
class _Batch:
    """Events that were claimed together.

    Those of one conversation are claimed one at a time, so each that ends may make another ready. last_ones: how many
    are known not to have done so.
    """

    lease: Lease
    last_ones: int = 0


class ProcessSlackEvents:
    """Each claimed event ends done, retried or as a dead letter; running one twice changes nothing."""

    def __init__(
        self,
        inbound: InboundStore,
        executions: ExecutionStore,
        tenants: TenantStore,
        admission: AdmitRequests,
        canceller: CancelExecution,
        busy_policy: ApplyBusyPolicy,
        allow_by_button: AllowByButton,
        leases: LeaseHolder,
        hints: HintPublisher,
        chance: Chance,
        *,
        retry: RetryPolicy,
        limits: BatchLimits,
        answer_by_s: float,
    ) -> None:
        self._inbound = inbound
        self._executions = executions
        self._tenants = tenants
        self._admission = admission
        self._canceller = canceller
        self._busy_policy = busy_policy
        self._allow_by_button = allow_by_button
        self._leases = leases
        self._hints = hints
        self._chance = chance
        self._retry = retry
        self._limits = limits
        self._answer_by_s = answer_by_s

    async def run(self, event_id: str | None) -> str:
        """Process the named event and others that are ready. Returns one line for Flower."""
        tally = Tally(self._limits)
        while not tally.full:
            async with self._leases.hold() as lease:
                claimed = await self._inbound.claim(event_id=event_id, limit=self._limits.batch, lease=lease)
                batch = _Batch(lease)
                await asyncio.gather(*(self._one(event, batch, tally) for event in claimed))
            if batch.last_ones == len(claimed) and took_all(claimed, self._limits.batch):
                return str(tally)
            event_id = None
        self._hints.publish(Hint(HintTask.PROCESS_SLACK_EVENTS, claimed[-1].id))
        return str(tally)

    async def _one(self, event: ClaimedInbound, batch: "_Batch", tally: Tally) -> None:
        with about_request(event, inbound_event_id=event.id):
            await tally.settle(
                event.id,
                self._process(event, batch),
                lambda error: self._after_failure(event, batch.lease, error),
            )

    async def _after_failure(self, event: ClaimedInbound, lease: Lease, error: NubabelError) -> str:
        decision = next_attempt(error, event.failures + 1, self._retry, jitter=self._chance.jitter())
        log.warning("slack.event_failed", error=str(error), failures=event.failures + 1)
        if isinstance(decision, GiveUp):
            return await self._park(event, lease, decision.reason, str(error))
        await self._inbound.retry(event, lease, wait_s=decision.wait_s)
        return "again"

    async def _park(self, event: ClaimedInbound, lease: Lease, reason: DeadLetterReason, error: str) -> str:
        """Set it aside; who wrote it is told, as for every request that cannot be served."""
        dead_letter = letter_of_event(
            event.id,
            event.organization_id,
            reason=reason,
            error=error,
            attempts=event.failures + 1,
        )
        words = _APOLOGIES.get(event.event.kind)
        apology = _reply(event, words) if words is not None else None
        notification_id = await self._inbound.fail(event, lease, dead_letter, apology=apology)
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, event.organization_id))
        return "parked"

    async def _process(self, claimed: ClaimedInbound, batch: "_Batch") -> str:
        """Do what the event asks for; return the word for the tally."""
        event, lease = claimed.event, batch.lease
        if claimed.lone_deliveries > self._limits.lone_deliveries:
            reason = DeadLetterReason.TOO_MANY_DELIVERIES
            return await self._park(claimed, lease, reason, "each worker that took it alone ended without a result")
        if event.kind in _MESSAGES:
            return await self._hear(claimed, batch)
        return await self._notice(claimed, lease)

    async def _notice(self, claimed: ClaimedInbound, lease: Lease) -> str:
        """What is no message but happens to one, or to the workspace."""
        match claimed.event.kind:
            case SlackEventKind.BUTTON:
                return await self._press(claimed, lease)
            case SlackEventKind.DELETED:
                return await self._cancel_deleted(claimed, lease)
            case SlackEventKind.EDITED:
                return await self._note_edit(claimed, lease)
            case SlackEventKind.UNINSTALLED | SlackEventKind.TOKENS_REVOKED:
                return await self._end_workspace(claimed, lease)
            case _:
                return await self._ignore(claimed, lease)

    async def _ignore(self, claimed: ClaimedInbound, lease: Lease) -> str:
        await self._end(claimed, lease, "nothing to do", None)
        return "ignored"

    async def _hear(self, claimed: ClaimedInbound, batch: "_Batch") -> str:
        event, lease = claimed.event, batch.lease
        if is_stop_word(event.text):
            stopped = await self._canceller.cancel_session(
                claimed.organization_id, session_key(claimed), reason=_STOPPED
            )
            await self._end(claimed, lease, f"stopped {len(stopped)}", None if stopped else "nothing_to_stop")
            return "stopped"
        if event.text.strip() or event.files:
            return await self._accept(claimed, batch)
        await self._end(claimed, lease, "nothing to do", "empty")
        return "ignored"

    async def _end(self, claimed: ClaimedInbound, lease: Lease, outcome: str, words: str | None) -> None:
        """Nothing more to do; whoever spoke to the bot, and not just beside it, is told so."""
        reply = _reply(claimed, words) if words and claimed.event.kind in _ADDRESSED else None
        notification_id = await self._inbound.done(claimed, lease, outcome=outcome, reply=reply)
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, claimed.organization_id))

    async def _accept(self, claimed: ClaimedInbound, batch: "_Batch") -> str:
        if claimed.workspace_ended:
            await self._end(claimed, batch.lease, "the workspace has ended", None)
            return "ignored"
        target = _target(claimed)
        new = new_execution(claimed, target)
        try:
            await self._admit(new)
        except LimitReachedError as error:
            return await self._refuse(claimed, batch.lease, error)
        accepted = await self._executions.accept(
            new,
            working=NewNotification(NotificationKind.WORKING, target.as_dict(), {}),
            answer_by_s=self._answer_by_s,
            inbound_event=(claimed.id, batch.lease),
        )
        batch.last_ones += accepted.is_last_event
        log.info(
            "execution.accepted",
            execution_id=accepted.execution_id,
            session_id=accepted.session_id,
            source="slack",
            busy=len(accepted.busy_execution_ids),
        )
        if not accepted.created:
            return "known"
        if accepted.working_notification_id is not None:
            sign_id = accepted.working_notification_id
            self._hints.publish(Hint(HintTask.DELIVER, sign_id, claimed.organization_id, may_wait_s=SIGN_WAIT_S))
        status = await self._busy_policy.apply(claimed.organization_id, BusyPolicy(claimed.busy_policy), accepted)
        if status is Status.QUEUED:
            long = accepted.line_is_long
            self._hints.publish(turn_hint(accepted.execution_id, claimed.organization_id, line_is_long=long))
        return "accepted"

    async def _admit(self, new: NewExecution) -> None:
        organization = await self._tenants.organization(new.organization_id)
        if organization is not None:
            await self._admission.admit(organization, idempotency_key=new.idempotency_key, session_key=new.session_key)

    async def _refuse(self, claimed: ClaimedInbound, lease: Lease, error: LimitReachedError) -> str:
        """The one outcome of this message says which limit it is, and when to ask again."""
        language = language_of(claimed.event.text)
        words = error.refusal.words(language)
        if claimed.event.kind is SlackEventKind.MENTION:  # its thread is nobody's yet: what is said there is not heard
            words = f"{words} {say('mention_again', language)}"
        reply = NewNotification(NotificationKind.OUTCOME, _target(claimed).as_dict(), {"markdown": words})
        notification_id = await self._inbound.done(claimed, lease, outcome=f"refused: {error.code}", reply=reply)
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, claimed.organization_id))
        return "refused"

    async def _press(self, claimed: ClaimedInbound, lease: Lease) -> str:
        pressed = await self._allow_by_button.press(claimed)
        notification_id = await self._inbound.done(claimed, lease, outcome=pressed.outcome, reply=pressed.reply)
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, claimed.organization_id))
        return "pressed"

    async def _cancel_deleted(self, claimed: ClaimedInbound, lease: Lease) -> str:
        key = message_key(claimed.workspace_id, claimed.event.channel, claimed.event.deleted_ts or "")
        execution_id = await self._executions.by_key(claimed.organization_id, key)
        if execution_id is not None:
            await self._canceller.cancel(claimed.organization_id, execution_id, reason=_DELETED)
        await self._inbound.done(claimed, lease, outcome="cancelled" if execution_id else "nothing to do")
        return "cancelled" if execution_id else "ignored"

    async def _note_edit(self, claimed: ClaimedInbound, lease: Lease) -> str:
        """What is answered are the first words. Whoever changed them meanwhile learns it, once for a message."""
        key = message_key(claimed.workspace_id, claimed.event.channel, claimed.event.ts)
        execution_id = await self._executions.by_key(claimed.organization_id, key)
        execution = await self._executions.find(claimed.organization_id, execution_id) if execution_id else None
        if execution is None or execution.status in FINAL:
            return await self._ignore(claimed, lease)
        words = {"text": say("edited", language_of(claimed.event.text or execution.prompt))}
        note = NewNotification(NotificationKind.NOTICE, _target(claimed).as_dict(), words)
        notification_id = await self._inbound.done(claimed, lease, outcome="told of the first words", reply=note)
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, claimed.organization_id))
        return "noted"

    async def _end_workspace(self, claimed: ClaimedInbound, lease: Lease) -> str:
        """What Slack said of an installation says nothing of the next one, which may come before this is read."""
        if claimed.installed_since:
            await self._inbound.done(claimed, lease, outcome="the app was installed again since")
            return "outdated"
        reason = str(claimed.event.kind)
        await self._tenants.end_workspace(
            claimed.organization_id, claimed.workspace_id, reason=reason, installed_at=claimed.installed_at
        )
        cancelled = await self._canceller.cancel_workspace(
            claimed.organization_id, claimed.workspace_id, reason=f"the app was removed from Slack ({reason})"
        )
        await self._inbound.done(claimed, lease, outcome=f"workspace ended, {len(cancelled)} cancelled")
        return "ended"


def session_key(claimed: ClaimedInbound) -> str:
    """Names a Slack conversation within its organization: one per thread."""
    return f"slack:{claimed.workspace_id}:{claimed.event.conversation_key}"


def _target(claimed: ClaimedInbound) -> SlackTarget:
    event = claimed.event
    return SlackTarget(claimed.workspace_id, event.channel, event.thread_ts, event.ts)


def _reply(claimed: ClaimedInbound, words: str) -> NewNotification:
    """The outcome of a message that becomes no execution."""
    text = say(words, language_of(claimed.event.text), reference=claimed.id)
    return NewNotification(NotificationKind.OUTCOME, _target(claimed).as_dict(), {"markdown": text})


def message_key(workspace_id: str, channel: str, ts: str) -> str:
    """The idempotency key of a Slack message: the same however it is delivered."""
    return f"slack:{workspace_id}:{channel}:{ts}"


def new_execution(claimed: ClaimedInbound, target: SlackTarget) -> NewExecution:
    event = claimed.event
    return NewExecution(
        organization_id=OrganizationId(claimed.organization_id),
        source="slack",
        prompt=event.text,
        session_key=session_key(claimed),
        idempotency_key=message_key(claimed.workspace_id, event.channel, event.ts),
        request_hash=hashlib.sha256(event.text.encode("utf-8", "replace")).hexdigest(),
        reply=target.as_dict(),
        user_id=event.user,
        workspace_id=claimed.workspace_id,
        attachments=_attachments(event),
        wants_thread_context=event.is_reply_in_thread and event.kind is SlackEventKind.MENTION,
        correlation_id=claimed.correlation_id,
        traceparent=claimed.traceparent,
    )


def _attachments(event: SlackEvent) -> tuple[Attachment, ...]:
    return tuple(Attachment(file.name, file.mimetype, file.size, file.url_private) for file in event.files)
