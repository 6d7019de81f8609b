"""The answer of an installation that has no model to fall back on."""

from nubabel_workers.domain.ports.orchestrators import Call, CallAnswer
from nubabel_workers.domain.wording import language_of, say


class CannedAnswer:
    """Implements ports.orchestrators.CallableOrchestrator: says what is missing, in the language of the question."""

    async def check(self) -> str:
        return "no model is configured: every answer says so (NUBABEL_FALLBACK_API)"

    async def answer(self, call: Call, *, timeout_s: float) -> CallAnswer:  # noqa: ARG002 - the port's
        return CallAnswer(say("no_model", language_of(call.texts[-1])), canned=True)
