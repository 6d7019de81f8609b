"""Rows of `executions` as domain values, and the fragments of SQL that several statements share."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.claims import from_stored
from nubabel_workers.adapters.storage.row_sets import OPEN_SQL
from nubabel_workers.domain.executions import (
    Attachment,
    Execution,
    ExecutionError,
    NewExecution,
    Overrides,
    Status,
    Usage,
)
from nubabel_workers.domain.ids import ExecutionId, InstanceId, OrganizationId, SessionId
from nubabel_workers.domain.notifications import reply_target
from nubabel_workers.domain.rollout import Orchestrator, Rollout

OPEN = OPEN_SQL

# A session belongs to one instance and one OpenCode session; until an execution has run there, its own columns are
# empty and the session's count.
EXECUTION_COLUMNS = """
  e.*, s.session_key, s.opencode_directory, s.created_at = e.created_at AS begins_session,
  s.instance_id AS session_instance_id, s.opencode_session_id AS session_opencode_id
"""


def execution_from(row: Mapping[str, Any]) -> Execution:
    return Execution(
        id=ExecutionId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        session_id=SessionId(row["session_id"]),
        source=row["source"],
        status=Status(row["status"]),
        prompt=row["prompt"],
        created_at=row["created_at"],
        group_id=row["group_id"],
        orchestrator=Orchestrator(row["orchestrator"]),
        user_id=row["user_id"],
        workspace_id=row["workspace_id"],
        reply=row["reply"],
        overrides=from_stored(Overrides, row["overrides"]),
        analysis=row["analysis"],
        attachments=tuple(from_stored(Attachment, attachment) for attachment in row["attachments"]),
        wants_thread_context=row["wants_thread_context"],
        context=row["context"],
        notes=tuple(row["notes"]),
        metadata=row["request_metadata"],
        attempt=row["attempt"],
        failures=row["failures"],
        replays=row["replays"],
        pauses=row["pauses"],
        waiting_for=row["waiting_for"],
        session_key=row["session_key"],
        begins_session=row["begins_session"],
        not_before=row["not_before"],
        instance_id=_instance(row),
        opencode_session_id=row["session_opencode_id"],
        opencode_directory=row["opencode_directory"],
        message_created_ms=row["message_created_ms"],
        known_assistant_ids=tuple(row.get("known_assistant_ids") or ()),
        answer_by=row["answer_by"],
        deadline_at=row["deadline_at"],
        deadline_s=row["deadline_s"],
        cancel_reason=row["cancel_reason"],
        output=row["output"],
        output_cut=row["output_cut"],
        usage=usage_from(row["usage"]),
        error=from_stored(ExecutionError, row["error"]) if row["error"] else None,
        correlation_id=row["correlation_id"],
        traceparent=row["traceparent"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def salvaged_execution(row: Mapping[str, Any]) -> Execution:
    """What a row that cannot be read is about: enough to end it and to tell whoever asked."""
    unread: dict[str, Any] = {
        "overrides": {},
        "attachments": [],
        "analysis": None,
        "context": None,
        "notes": [],
        "usage": None,
    }
    unread |= {"error": None, "request_metadata": {}, "known_assistant_ids": None}
    return execution_from({**row, **unread, "reply": _readable_reply(row["reply"])})


def _readable_reply(stored: Any) -> Mapping[str, Any]:
    try:
        reply_target(stored)
    except (AttributeError, KeyError, TypeError):
        return {}
    return dict(stored)


def _instance(row: Mapping[str, Any]) -> InstanceId | None:
    found = row["session_instance_id"]
    return InstanceId(found) if found else None


def usage_as_dict(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cost": usage.cost,
        "lower_bound": usage.lower_bound,
        "cost_computed": usage.cost_computed,
    }


def usage_from(stored: Mapping[str, Any] | None) -> Usage | None:
    return from_stored(Usage, stored) if stored else None


def new_execution_params(new: NewExecution, rollout: Rollout) -> dict[str, Any]:
    """Parameters for the columns that a request brings along."""
    overrides = {
        "category": new.overrides.category,
        "skills": list(new.overrides.skills) if new.overrides.skills is not None else None,
        "agent": new.overrides.agent,
        "model": new.overrides.model,
    }
    return {
        "organization_id": new.organization_id,
        "session_key": new.session_key,
        "source": new.source,
        "prompt": new.prompt,
        "user_id": new.user_id,
        "workspace_id": new.workspace_id,
        "reply": Jsonb(dict(new.reply)),
        "overrides": Jsonb(overrides),
        "attachments": Jsonb([_attachment_as_dict(attachment) for attachment in new.attachments]),
        "wants_thread_context": new.wants_thread_context,
        "request_metadata": Jsonb(dict(new.metadata)),
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "correlation_id": new.correlation_id,
        "traceparent": new.traceparent,
        "deadline_s": new.deadline_s,
        "batch": new.batch,
        "orchestrator": rollout.choose(new.organization_id, new.session_key).value,
    }


def _attachment_as_dict(attachment: Attachment) -> dict[str, Any]:
    return {
        "name": attachment.name,
        "mime_type": attachment.mime_type,
        "size_bytes": attachment.size_bytes,
        "url": attachment.url,
    }


def json_list(items: Sequence[Mapping[str, Any]]) -> Jsonb:
    """Rows for `jsonb_to_recordset`: several inserts in the one statement of a state change."""
    return Jsonb([dict(item) for item in items])
