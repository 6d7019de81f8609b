"""What both clients of the library share: how they are told of their server, and how a prompt becomes a call."""

from pydantic import SecretStr

from nubabel_workers.adapters.opencode import endpoints
from nubabel_workers.adapters.opencode.wire import Call
from nubabel_workers.opencode.prompts import Prompt

ANSWER_TIMEOUT_S = 600.0
MAX_CONNECTIONS = 20


def secret(password: SecretStr | str | None) -> SecretStr | None:
    return SecretStr(password) if isinstance(password, str) else password


def submit_call(
    session_id: str, prompt: Prompt, *, agent: str | None, model: str | None, system: str | None
) -> Call[None]:
    return endpoints.submit_prompt(
        session_id, message_id=prompt.message_id, parts=prompt.parts, agent=agent, model=model, system=system
    )
