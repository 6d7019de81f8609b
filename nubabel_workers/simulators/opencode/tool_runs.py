"""Tool calls of the simulated agent: permissions, questions, sub-agents, results."""

import asyncio
import itertools
from collections.abc import Callable

from nubabel_workers.simulators.opencode import tools, wire_forms
from nubabel_workers.simulators.opencode.directives import ToolCall
from nubabel_workers.simulators.opencode.identifiers import IdSource
from nubabel_workers.simulators.opencode.state import Ask, Json, Message, Run, SimulatedSession, Store
from nubabel_workers.simulators.opencode.telling import Teller

_FORBIDDEN = "The user has specified a rule which prevents you from using this specific tool call."
_REJECTED = "The user rejected permission to use this specific tool call"


class ToolRunner:
    """start: begins the run loop of a sub-agent's session."""

    def __init__(self, tell: Teller, store: Store, ids: IdSource, *, start: Callable[[SimulatedSession], Run]) -> None:
        self._tell = tell
        self._store = store
        self._ids = ids
        self._start = start
        self._call_numbers = itertools.count(1)

    async def run(self, session: SimulatedSession, message: Message, call: ToolCall) -> bool:
        """Run one tool call; whether a refusal ends the run."""
        call_id = f"call_{next(self._call_numbers):08d}"
        part = wire_forms.tool_part(self._ids.new("prt"), message.info, call.name, call_id)
        message.parts.append(part)
        self._tell.part(session, part)
        offered = [tool for tool in tools.TOOLS if session.offers(tool)]
        if call.name not in offered:
            await self._invalid_call(session, part, call, offered)
            return False
        self._tell.tool_state(session, part, "running", input=call.arguments)
        if call.name == "question":
            return await self._question(session, part, call)
        if (refused := await self._refused(session, part, call)) is not None:
            return refused
        if call.name == "task":
            await self._sub_agent(session, part, call)
            return False
        result = tools.run_tool(call)
        self._tell.tool_state(session, part, "running", metadata={"output": ""})
        await asyncio.sleep(result.seconds)
        self._tell.tool_state(session, part, "running", metadata={"output": result.output})
        self._tell.tool_state(session, part, "completed", output=result.output, title=result.title)
        return False

    async def _invalid_call(self, session: SimulatedSession, part: Json, call: ToolCall, offered: list[str]) -> None:
        error = tools.unavailable(call.name, offered)
        part["tool"] = "invalid"
        self._tell.tool_state(session, part, "running", input={"tool": call.name, "error": error})
        output = f"The arguments provided to the tool are invalid: {error}"
        self._tell.tool_state(session, part, "completed", output=output, title="Invalid Tool", metadata={})

    async def _refused(self, session: SimulatedSession, part: Json, call: ToolCall) -> bool | None:
        """None: allowed. Otherwise the call has failed, and True means that the run ends with it."""
        pattern = tools.pattern_of(call)
        action = session.action(call.name, pattern)
        if action == "allow":
            return None
        if action == "deny":
            self._tell.tool_state(
                session, part, "error", error="The user has specified a rule which prevents this call."
            )
            return False
        request: Json = {
            "permission": call.name,
            "patterns": [pattern],
            "metadata": {"command": pattern},
            "always": [f"{pattern.split(' ')[0]} *"],
        }
        granted, message = await self._ask("permission.asked", "per", session, part, request)
        if granted:
            return None
        told = f"{_REJECTED} with the following feedback: {message}" if message else f"{_REJECTED}."
        self._tell.tool_state(session, part, "error", error=told)
        return message is None

    async def _question(self, session: SimulatedSession, part: Json, call: ToolCall) -> bool:
        request: Json = {"questions": call.arguments.get("questions", [])}
        granted, message = await self._ask("question.asked", "que", session, part, request)
        if granted:
            self._tell.tool_state(
                session, part, "completed", output=message or "", title="Asked 1 question", metadata={}
            )
        else:
            self._tell.tool_state(session, part, "error", error="The user dismissed this question")
        return not granted

    async def _ask(
        self, kind: str, prefix: str, session: SimulatedSession, part: Json, request: Json
    ) -> tuple[bool, str | None]:
        ask_id = self._ids.new(prefix)
        tool = {"messageID": part["messageID"], "callID": part["callID"]}
        told = {"id": ask_id, **request, "tool": tool}
        ask = Ask(ask_id, session, {"sessionID": session.id, **told}, asyncio.get_running_loop().create_future())
        self._store.asks[ask_id] = ask
        self._tell.event(session, kind, **told)
        answer = await ask.answer  # an abort leaves it in the list, as the real server does
        del self._store.asks[ask_id]
        return answer

    async def _sub_agent(self, session: SimulatedSession, part: Json, call: ToolCall) -> None:
        """`task`: the prompt runs in a child session, which inherits no metadata."""
        agent = str(call.arguments.get("subagent_type") or "Sisyphus-Junior")
        title = str(call.arguments.get("description") or "Sub-agent")
        info = wire_forms.session_info(
            self._ids.new("ses"), directory=session.directory, title=title, given={"parentID": session.id}
        )
        child = self._store.add(SimulatedSession(info))
        self._tell.session_created(child)
        metadata = {
            "category": call.arguments.get("category"),
            "load_skills": call.arguments.get("load_skills", []),
            "agent": agent,
            "sessionId": child.id,
            "model": _model_of(session),
        }
        self._tell.tool_state(session, part, "running", metadata=metadata)
        prompt = str(call.arguments.get("prompt", ""))
        user = self._tell.add_user(child, agent=agent, model=_model_of(session))
        self._tell.message(child, user)
        self._tell.add_part(child, user, "text", text=prompt)
        run = self._start(child)
        if run.task is not None:
            await asyncio.wait({run.task})
        last = child.last_assistant()
        output = last.text if last is not None else ""
        self._tell.tool_state(session, part, "completed", output=output, title=title, metadata=metadata)


def _model_of(session: SimulatedSession) -> Json:
    model: Json = next(m for m in reversed(session.messages.values()) if m.is_user).info["model"]
    return model
