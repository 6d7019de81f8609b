"""How each kind of notification is told in Slack. Posts are never repeated blindly: look first, mark if in doubt."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import structlog
from pydantic import SecretStr

from nubabel_workers.domain.errors import (
    CredentialsError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnansweredError,
)
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import (
    Button,
    Notification,
    NotificationKind,
    SlackTarget,
    button_of,
    reply_target,
    slack_read_quota,
)
from nubabel_workers.domain.ports import (
    ClaimedNotification,
    Incident,
    Incidents,
    Messenger,
    NotificationStore,
    TenantStore,
    Throttle,
)
from nubabel_workers.domain.slack_text import reply_parts
from nubabel_workers.domain.tenants import Workspace
from nubabel_workers.domain.wording import language_of, say
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.written_down import in_doubt_unless_written

log = structlog.get_logger(__name__)

WORKING_REACTION = "eyes"
WORKSPACE_ENDED = "workspace_ended"  # code of an error: the app is not installed there any more
_MAX_CALL_S = 10.0
_SIGN_S = 2.0  # the answer stands already, and is not yet written down as told
_TAKEN_WITHIN_S = 60.0  # a post that Slack did not answer in time, and that is not there after that, was not taken
_LOOK_FOR_S = 600  # so long a doubtful post waits for the read quota; then it is posted marked
_LOOK_BACK = timedelta(minutes=5)  # Slack's clock and the database's may differ
_QUOTA_WAIT_S = 15.0


class LookUpLaterError(TransientError):
    """Whether an earlier post arrived cannot be read now: Slack's read quota is used up."""


class WorkspaceEndedError(PermanentError):
    """The app was removed."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__("the app is not installed in this workspace any more", code=WORKSPACE_ENDED)
        self.workspace = workspace


class TokenReplacedError(TransientError):
    """The app was installed again since the token was read that Slack refused."""

    def __init__(self) -> None:
        super().__init__("Slack refused a token that has been replaced since")


class TokenRefusedError(CredentialsError):
    """Slack refused the token of this installation."""

    def __init__(self, workspace: Workspace, refused: CredentialsError) -> None:
        super().__init__(str(refused), code=refused.code)
        self.workspace = workspace


class DeliverToSlack:
    """`deliver` returns the message ids now standing, or None when nothing needs to be told any more."""

    def __init__(
        self,
        messenger: Messenger,
        tenants: TenantStore,
        notifications: NotificationStore,
        throttle: Throttle,
        leases: LeaseHolder,
        incidents: Incidents,
        *,
        read_quota_per_minute: int,
    ) -> None:
        self._messenger = messenger
        self._tenants = tenants
        self._notifications = notifications
        self._throttle = throttle
        self._leases = leases
        self._incidents = incidents
        self._read_quota_per_minute = read_quota_per_minute

    async def deliver(self, claimed: ClaimedNotification, lease: Lease) -> Sequence[str] | None:
        notification = claimed.notification
        target = reply_target(notification.destination)
        if not isinstance(target, SlackTarget):
            raise PermanentError("the notification names no Slack conversation", code="bad_destination")
        workspace = await self._workspace_of(notification.organization_id, target.workspace_id)
        edits = notification.kind is NotificationKind.PROGRESS or notification.is_edit
        limited = NotificationKind.PROGRESS if edits else notification.kind
        limit = _limit_key(limited, notification.organization_id, target)
        blocked_s = await self._throttle.blocked_for_s(limit)
        if blocked_s > 0:
            raise RateLimitedError("Slack asked to wait", retry_after_s=blocked_s)
        try:
            match notification.kind:
                case NotificationKind.WORKING:
                    return await self._show_working(workspace.bot_token, notification, target, lease)
                case NotificationKind.PROGRESS:
                    return await self._show_progress(workspace.bot_token, notification, target, lease)
                case _:
                    return await self._post_parts(workspace.bot_token, notification, target, lease)
        except RateLimitedError as error:
            if error.retry_after_s and not isinstance(error, LookUpLaterError):
                await self._throttle.block(limit, for_s=error.retry_after_s)
            raise
        except CredentialsError as error:
            raise await self._refused(workspace, error) from error

    async def _workspace_of(self, organization_id: str, workspace_id: str) -> Workspace:
        workspace = await self._tenants.workspace(organization_id, workspace_id)
        if workspace is not None and not workspace.installed:  # it may have been installed again in these seconds
            workspace = await self._tenants.workspace(organization_id, workspace_id, afresh=True)
        if workspace is None:
            raise PermanentError("there is no such workspace", code=WORKSPACE_ENDED)
        if not workspace.installed:
            raise WorkspaceEndedError(workspace)
        return workspace

    async def _refused(self, used: Workspace, error: CredentialsError) -> NubabelError:
        """Whether the app was installed again since the token that Slack refused was remembered here."""
        current = await self._tenants.workspace(used.organization_id, used.id, afresh=True)
        if current is not None and current.installed and current.bot_token != used.bot_token:
            return TokenReplacedError()
        return TokenRefusedError(used, error)

    async def take_sign_away(self, notification: Notification) -> bool:
        """The working sign goes with the outcome. False when it could not be taken away: its own row will try."""
        target = reply_target(notification.destination)
        if not notification.payload.get("clears_working") or not isinstance(target, SlackTarget):
            return True
        workspace = await self._tenants.workspace(notification.organization_id, target.workspace_id)
        limit = _limit_key(NotificationKind.WORKING, notification.organization_id, target)
        if workspace is None or await self._throttle.blocked_for_s(limit):
            return False
        try:
            async with asyncio.timeout(_SIGN_S):
                await self._messenger.remove_reaction(workspace.bot_token, **_sign(target))
        except (NubabelError, TimeoutError) as error:
            log.info("notification.sign_left", error=str(error))
            return False
        return True

    async def _show_working(
        self, token: SecretStr, notification: Notification, target: SlackTarget, lease: Lease
    ) -> Sequence[str] | None:
        if not notification.payload.get("removed"):
            # A process that was stopped must not show it after others have taken it away.
            async with _time_limit(self._leases.time_to_act_s(lease, _MAX_CALL_S), "the sign"):
                await self._messenger.add_reaction(token, **_sign(target))
            return [WORKING_REACTION]
        if not (notification.sent_parts or notification.uncertain or notification.failures):
            return None
        await self._messenger.remove_reaction(token, **_sign(target))
        return []

    async def _show_progress(
        self, token: SecretStr, notification: Notification, target: SlackTarget, lease: Lease
    ) -> Sequence[str] | None:
        posted = list(notification.sent_parts)
        if not posted and notification.uncertain:
            found = await self._find(token, notification, target, part=1)
            posted = [found] if found else []
        pauses = bool(notification.payload.get("paused"))  # there may be progress again
        if pauses or notification.payload.get("removed"):
            for ts in posted:
                await self._messenger.delete(token, channel=target.channel, ts=ts)
            return [] if posted or pauses else None
        text = str(notification.payload.get("text", ""))
        if posted:
            await self._messenger.update(token, channel=target.channel, ts=posted[0], text=text)
            return posted
        return [await self._post(token, notification, target, lease, text, 1)]

    async def _post_parts(
        self, token: SecretStr, notification: Notification, target: SlackTarget, lease: Lease
    ) -> Sequence[str]:
        """Post what is still missing, one part after the other; each is written down before the next."""
        posted = list(notification.sent_parts)
        marked = notification.repeated
        if notification.is_edit:
            return await self._edit(token, notification, target)
        if notification.uncertain:
            found = None
            if _doubtful_for_long(notification):
                await self._give_up_looking(notification, lease)
                marked = True
            else:
                found = await self._find(token, notification, target, part=len(posted) + 1)
            posted += [found] if found else []
        parts = _parts(notification, marked=marked)
        if len(posted) == len(parts) and notification.payload.get("edited"):  # found: posted before it was changed
            return await self._edit(token, notification, target, posted)
        for number in range(len(posted) + 1, len(parts) + 1):
            if number > len(notification.sent_parts) + 1:
                with in_doubt_unless_written("a part was told"):
                    await self._notifications.part_sent(notification, lease, posted[-1])
            button = button_of(notification.payload) if number == len(parts) else None
            posted.append(await self._post(token, notification, target, lease, parts[number - 1], number, button))
        return posted

    async def _edit(
        self, token: SecretStr, notification: Notification, target: SlackTarget, posted: Sequence[str] = ()
    ) -> Sequence[str]:
        """Of a told one the last part, which has the button, without it. Repeating that does no harm."""
        posted = posted or notification.sent_parts
        text = _parts(notification, marked=notification.repeated)[-1]
        await self._messenger.update(token, channel=target.channel, ts=posted[-1], text=text)
        return posted

    async def _give_up_looking(self, notification: Notification, lease: Lease) -> None:
        """One marked repeat, written down before it is posted. A second one would be a third message: never."""
        if notification.repeated:
            raise PermanentError("whether the repeated post arrived could not be read", code="outcome_unknown")
        await self._notifications.mark_repeated(notification, lease)
        self._incidents.count(Incident.MARKED_REPEAT)
        log.warning("notification.repeated_marked", parts_sent=len(notification.sent_parts))

    async def _find(
        self, token: SecretStr, notification: Notification, target: SlackTarget, *, part: int
    ) -> str | None:
        quota = slack_read_quota(notification.organization_id, target)
        if not await self._throttle.take(quota, per_s=60, limit=self._read_quota_per_minute):
            raise LookUpLaterError("Slack's read quota is used up", retry_after_s=_QUOTA_WAIT_S)
        since: datetime = notification.created_at - _LOOK_BACK
        try:
            found = await self._messenger.find_by_delivery_id(
                token,
                channel=target.channel,
                thread_ts=target.thread_ts,
                delivery_id=_delivery_id(notification, part),
                oldest=f"{since.timestamp():.6f}",
            )
        except PermanentError:
            raise
        except NubabelError as error:  # not readable now: that is not the same as "not there"
            asked_s = error.retry_after_s if isinstance(error, RateLimitedError) else None
            raise LookUpLaterError(
                f"looking up the earlier post failed: {error}", retry_after_s=asked_s or _QUOTA_WAIT_S
            ) from error
        if found is None and (wait_s := _may_come_for_s(notification)) > 0:
            raise LookUpLaterError("the earlier post is not there, but may still arrive", retry_after_s=wait_s)
        return found

    async def _post(
        self,
        token: SecretStr,
        notification: Notification,
        target: SlackTarget,
        lease: Lease,
        markdown: str,
        part: int,
        button: Button | None = None,
    ) -> str:
        # The last look at the lease before what cannot be undone, which must end while the lease still holds.
        async with _time_limit(self._leases.time_to_act_s(lease, _MAX_CALL_S), "the post"):
            return await self._messenger.post(
                token,
                channel=target.channel,
                thread_ts=target.thread_ts,
                markdown=markdown,
                delivery_id=_delivery_id(notification, part),
                button=button,
            )


@asynccontextmanager
async def _time_limit(limit_s: float, what: str) -> AsyncIterator[None]:
    """What takes longer may have taken effect."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise UnansweredError(f"Slack did not answer {what} within the lease") from error


def _sign(target: SlackTarget) -> dict[str, str]:
    return {"channel": target.channel, "ts": target.message_ts, "name": WORKING_REACTION}


def _doubtful_for_long(notification: Notification) -> bool:
    return notification.uncertain_for_s is not None and notification.uncertain_for_s > _LOOK_FOR_S


def _may_come_for_s(notification: Notification) -> float:
    """How long an earlier post that Slack did not answer may still appear; 0 or less: not any more."""
    return _TAKEN_WITHIN_S - notification.uncertain_for_s if notification.uncertain_for_s is not None else 0.0


def _parts(notification: Notification, *, marked: bool) -> Sequence[str]:
    markdown = str(notification.payload.get("markdown") or notification.payload.get("text") or "")
    if marked:
        markdown = f"{markdown}\n\n{say('repeated', language_of(markdown))}"
    return reply_parts(markdown) or ["…"]


def _delivery_id(notification: Notification, part: int) -> str:
    return f"{notification.id}:{part}"


def _limit_key(kind: NotificationKind, organization_id: str, target: SlackTarget) -> str:
    """Slack counts per method and workspace, and posts per channel: one channel's limit holds up no other."""
    workspace = f"{organization_id}:{target.workspace_id}"
    if kind is NotificationKind.WORKING:
        return f"slack-react:{workspace}"
    if kind is NotificationKind.PROGRESS:
        return f"slack-edit:{workspace}:{target.channel}"
    return f"slack-post:{workspace}:{target.channel}"
