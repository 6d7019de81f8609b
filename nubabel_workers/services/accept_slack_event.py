"""Ingress of Slack events: classify, store, hint. When `accept` returns, the event is committed and may be acked."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import structlog

from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import Chance, HintPublisher, InboundStore, TenantStore
from nubabel_workers.domain.slack_events import SlackEvent, SlackEventKind, classify
from nubabel_workers.domain.tenants import Workspace
from nubabel_workers.domain.trace import trace_id_of

log = structlog.get_logger(__name__)

_MAX_REMEMBERED = 1024  # twins come within a second; what comes later the store knows


class AcceptSlackEvent:
    """One call per delivery; a redelivery, a twin or an uninteresting event stores nothing."""

    def __init__(self, tenants: TenantStore, inbound: InboundStore, hints: HintPublisher, chance: Chance) -> None:
        self._tenants = tenants
        self._inbound = inbound
        self._hints = hints
        self._chance = chance
        self._stored: OrderedDict[tuple[str, str], asyncio.Future[bool]] = OrderedDict()

    async def accept(self, body: Mapping[str, Any]) -> None:
        """Raises TransientError while the event cannot be stored: then it must not be acknowledged.

        Raises InvalidInputError for a body that no Slack would send.
        """
        event = classify(body, None)
        if event.kind is SlackEventKind.IGNORED:
            return
        workspace = await self._tenants.workspace_by_installation(event.enterprise_id, event.team_id)
        if workspace is None or not workspace.active:
            log.warning("slack.unknown_workspace", team_id=event.team_id)
            return
        await self._store(classify(body, workspace.bot_user_id), workspace)

    async def _store(self, event: SlackEvent, workspace: Workspace) -> None:
        if event.kind is SlackEventKind.IGNORED:
            return
        correlation_id = self._chance.new_id("cor")
        traceparent = self._chance.new_traceparent()
        event_id = await self._add_once(workspace, event, correlation_id, traceparent)
        if event_id is None:
            log.debug("slack.event_not_new", slack_event_id=event.event_id, kind=event.kind)
            return
        log.info(
            "slack.event_stored",
            inbound_event_id=event_id,
            kind=event.kind,
            organization_id=workspace.organization_id,
            workspace_id=workspace.id,
            correlation_id=correlation_id,
            trace_id=trace_id_of(traceparent),
        )
        self._hints.publish(Hint(HintTask.PROCESS_SLACK_EVENTS, event_id, workspace.organization_id))

    async def _add_once(
        self, workspace: Workspace, event: SlackEvent, correlation_id: str, traceparent: str
    ) -> str | None:
        """None when it is stored already.

        The two events of a mention come together. The store knows twins for good; here the second one only waits for
        the first one's commit, which is cheaper than an insertion that waits for it.
        """
        key = (workspace.id, event.dedupe_key)
        earlier = self._stored.get(key)
        if earlier is not None and await asyncio.shield(earlier):
            return None
        stored = self._stored[key] = asyncio.get_running_loop().create_future()
        event_id = None
        try:
            event_id = await self._inbound.add(workspace, event, correlation_id=correlation_id, traceparent=traceparent)
        finally:
            stored.set_result(event_id is not None)
            if event_id is None and self._stored.get(key) is stored:
                del self._stored[key]
            if len(self._stored) > _MAX_REMEMBERED:
                self._stored.popitem(last=False)
        return event_id
