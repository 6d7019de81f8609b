"""Accepting a prompt: messages and parts are upserted by id, the run loop is woken."""

from dataclasses import dataclass
from typing import Any

from nubabel_workers.simulators.opencode import wire_forms
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.disk import Disk
from nubabel_workers.simulators.opencode.engine import Engine
from nubabel_workers.simulators.opencode.identifiers import IdSource, now_ms
from nubabel_workers.simulators.opencode.state import Json, Message, SimulatedSession, Store
from nubabel_workers.simulators.opencode.telling import Teller


class BadRequestError(Exception):
    """The body is refused; the text is what the server says."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The body of a prompt, checked as far as the server checks it before its 204."""

    message_id: str | None
    parts: list[Json]
    agent: str | None
    model: Json | None
    system: str | None
    tools: dict[str, bool]
    no_reply: bool


def read_prompt(body: Any) -> Prompt:
    parts = body.get("parts") if isinstance(body, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) and "type" in part for part in parts):
        raise BadRequestError('Missing key\n  at ["parts"]')
    message_id = body.get("messageID")
    if message_id is not None and not str(message_id).startswith("msg"):
        raise BadRequestError(f'Expected a string starting with "msg", got "{message_id}"\n  at ["messageID"]')
    return Prompt(
        message_id=message_id,
        parts=parts,
        agent=body.get("agent"),
        model=body.get("model"),
        system=body.get("system"),
        tools=body.get("tools") or {},
        no_reply=bool(body.get("noReply")),
    )


class PromptDesk:
    """Takes prompts for sessions."""

    def __init__(
        self, config: SimulatorConfig, store: Store, tell: Teller, ids: IdSource, engine: Engine, disk: Disk
    ) -> None:
        self.accepted = 0
        self._disk = disk
        self._config = config
        self._store = store
        self._tell = tell
        self._ids = ids
        self._engine = engine
        self._agents = {agent.name for agent in config.agents}

    def accept(self, session: SimulatedSession, prompt: Prompt) -> None:
        """What happens before and after the 204. An unknown agent shows only as an event."""
        self.accepted += 1
        agent = prompt.agent or self._config.default_agent
        if agent not in self._agents:
            self._refuse_agent(session, agent)
            return
        model = prompt.model or _session_model(session) or _model_of(self._config.models[0])
        owner = self._store.owners.get(prompt.message_id or "")
        message = self._upsert_message(owner or session, prompt, agent=agent, model=model)
        self._remember_choices(session, agent=agent, model=model, tools=prompt.tools)
        self._tell.message(owner or session, message)
        for part in prompt.parts:
            self._upsert_part(owner or session, message, part)
        self._tell.session(session, with_diff=False)
        if owner is not None and owner is not session:
            error = wire_forms.unknown_error("No user message found in stream. This should never happen.", stack=True)
            self._tell.event(session, "session.error", error=error)
        elif not self._disk.load(session.directory):
            self._refuse_directory(session)
        elif not prompt.no_reply:
            self._engine.start(session)

    def _refuse_directory(self, session: SimulatedSession) -> None:
        text = f"PlatformError: NotFound: FileSystem.realPath ({session.directory})"
        self._tell.event(session, "session.error", error=wire_forms.unknown_error(text))
        self._tell.idle(session)

    def _refuse_agent(self, session: SimulatedSession, agent: str) -> None:
        known = ", ".join(sorted(a.name for a in self._config.agents if not a.hidden))
        text = f'Agent not found: "{agent}". Available agents: {known}'
        self._tell.event(session, "session.error", error=wire_forms.unknown_error(text))
        error = wire_forms.unknown_error("UnknownError: UnknownError", stack=True)
        self._tell.event(session, "session.error", error=error)

    def _upsert_message(self, session: SimulatedSession, prompt: Prompt, *, agent: str, model: Json) -> Message:
        message = session.messages.get(prompt.message_id or "")
        if message is None:
            message = self._tell.add_user(session, agent=agent, model=model, message_id=prompt.message_id)
        else:  # its time is renewed, its place in the list stays
            message.info |= {"agent": agent, "model": model, "time": {"created": now_ms()}}
        if prompt.system is not None:
            message.info["system"] = prompt.system
        return message

    def _upsert_part(self, session: SimulatedSession, message: Message, given: Json) -> None:
        part = {**given, "id": given.get("id") or self._ids.new("prt")}
        part |= {"messageID": message.id, "sessionID": session.id}
        for at, known in enumerate(message.parts):
            if known["id"] == part["id"]:
                message.parts[at] = part
                break
        else:
            message.parts.append(part)
        self._tell.part(session, part)

    def _remember_choices(self, session: SimulatedSession, *, agent: str, model: Json, tools: dict[str, bool]) -> None:
        session.info["agent"] = agent
        session.info["model"] = {"id": model["modelID"], "providerID": model["providerID"], "variant": "default"}
        self._store.touch(session)
        for tool, allowed in tools.items():  # sticky: kept as rules of the session
            rule = {"permission": tool, "pattern": "*", "action": "allow" if allowed else "deny"}
            session.info.setdefault("permission", []).append(rule)
        self._tell.session(session, with_diff=False)


def _session_model(session: SimulatedSession) -> Json | None:
    model = session.info.get("model")
    return {"providerID": model["providerID"], "modelID": model["id"]} if model else None


def _model_of(name: str) -> Json:
    provider, _, model = name.partition("/")
    return {"providerID": provider, "modelID": model}
