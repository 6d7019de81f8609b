"""Changes of a simulated session: stored, and told on the event streams in OpenCode's order."""

from typing import Any

from nubabel_workers.simulators.opencode import wire_forms
from nubabel_workers.simulators.opencode.directives import ReportedUsage
from nubabel_workers.simulators.opencode.identifiers import IdSource, now_ms
from nubabel_workers.simulators.opencode.state import Json, Message, SimulatedSession, Store
from nubabel_workers.simulators.opencode.streams import Streams


class Teller:
    """Every change goes through here, so that nothing is stored without being told."""

    def __init__(self, store: Store, streams: Streams, ids: IdSource) -> None:
        self.idle_twice = False
        self._store = store
        self._streams = streams
        self._ids = ids

    def event(self, session: SimulatedSession, kind: str, **properties: Any) -> None:
        """An event that is not a stored change."""
        self._streams.publish(session, kind, {"sessionID": session.id, **properties})

    def deltas(self, session: SimulatedSession, part: Json, words: list[str]) -> None:
        self._streams.publish_deltas(session, part["messageID"], part["id"], words)

    def end_text(self, session: SimulatedSession, part: Json, words: list[str]) -> None:
        part["text"] = "".join(words)
        part["time"] = part["time"] | {"end": now_ms()}
        self.part(session, part)

    def end_step(
        self,
        session: SimulatedSession,
        message: Message,
        finish: str,
        usage: ReportedUsage | None,
        *,
        error: Json | None = None,
    ) -> None:
        """The step is over: its usage and its reason. The message is told twice, as the real server does."""
        told = {"tokens": wire_forms.tokens(usage), "cost": wire_forms.cost(usage)}
        self.add_part(session, message, "step-finish", reason=finish, **told)
        self.complete(session, message, finish=finish, **told, **({"error": error} if error is not None else {}))
        _add_usage(session, message)
        self.message(session, message)
        self.message(session, message)

    def complete(self, session: SimulatedSession, message: Message, **fields: Any) -> None:
        message.info |= fields
        message.info["time"] = message.info["time"] | {"completed": now_ms()}
        self._store.touch(session)

    def session_created(self, session: SimulatedSession) -> None:
        properties = {"sessionID": session.id, "info": session.info}
        self._streams.publish(session, "session.created", properties, stored=True)

    def add_user(self, session: SimulatedSession, *, agent: str, model: Json, message_id: str | None = None) -> Message:
        """A new user message, newer than every other one. message_id: None is one of the server's own."""
        newest = session.newest_user()
        created = max(now_ms(), newest.info["time"]["created"] + 1 if newest is not None else 0)
        info = {
            "id": message_id or self._ids.new("msg"),
            "role": "user",
            "sessionID": session.id,
            "time": {"created": created},
            "agent": agent,
            "model": model,
        }
        message = session.add(Message(info))
        self._store.owners[message.id] = session
        return message

    def tool_state(self, session: SimulatedSession, part: Json, status: str, **fields: Any) -> None:
        before = part["state"]
        time = before.get("time") or {"start": now_ms()}
        if status in {"completed", "error"}:
            time = time | {"end": now_ms()}
        kept = {"input": before.get("input", {})}
        if "metadata" in before and status != "error":
            kept["metadata"] = before["metadata"]
        part["state"] = {"status": status, **kept, **fields, "time": time}
        self.part(session, part)

    def open_assistant(self, session: SimulatedSession, user: Message, *, summary: bool = False) -> Message:
        info = wire_forms.assistant_info(
            self._ids.new("msg"), session_id=session.id, user=user.info, directory=session.directory, summary=summary
        )
        message = session.add(Message(info))
        self.message(session, message)
        return message

    def add_part(self, session: SimulatedSession, message: Message, kind: str, **fields: Any) -> Json:
        part = wire_forms.part(self._ids.new("prt"), message.info, kind, **fields)
        message.parts.append(part)
        self.part(session, part)
        return part

    def part(self, session: SimulatedSession, part: Json) -> None:
        properties = {"sessionID": session.id, "part": part, "time": now_ms()}
        self._streams.publish(session, "message.part.updated", properties, stored=True)

    def message(self, session: SimulatedSession, message: Message) -> None:
        if message.is_user:
            message.info.setdefault("summary", {"diffs": []})
        properties = {"sessionID": session.id, "info": message.info}
        self._streams.publish(session, "message.updated", properties, stored=True)

    def session(self, session: SimulatedSession, *, with_diff: bool = True) -> None:
        properties = {"sessionID": session.id, "info": session.info}
        self._streams.publish(session, "session.updated", properties, stored=True)
        if with_diff:
            self._streams.publish(session, "session.diff", {"sessionID": session.id, "diff": []})

    def busy(self, session: SimulatedSession) -> None:
        self.status(session, wire_forms.BUSY)

    def status(self, session: SimulatedSession, status: Json) -> None:
        self._store.set_status(session, status)
        self._streams.publish(session, "session.status", {"sessionID": session.id, "status": status})

    def idle(self, session: SimulatedSession) -> None:
        self._store.set_status(session, None)
        for _ in range(2 if self.idle_twice else 1):
            properties = {"sessionID": session.id, "status": wire_forms.IDLE}
            self._streams.publish(session, "session.status", properties)
            self._streams.publish(session, "session.idle", {"sessionID": session.id})


def _add_usage(session: SimulatedSession, message: Message) -> None:
    """A session's totals; sub-agents are not in them."""
    told = message.info["tokens"]
    total = session.info["tokens"]
    session.info["tokens"] = {
        "input": total["input"] + told["input"],
        "output": total["output"] + told["output"],
        "reasoning": 0,
        "cache": {
            "read": total["cache"]["read"] + told["cache"]["read"],
            "write": total["cache"]["write"] + told["cache"]["write"],
        },
    }
    session.info["cost"] = round(session.info["cost"] + message.info["cost"], 9)
