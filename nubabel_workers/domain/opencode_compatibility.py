"""Which OpenCode servers this release can work with, by the version and the agents that they tell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# The API that was measured (opencode 1.18.33) is that of 1.x. Another generation needs an adapter of its own, beside
# the one that `adapters/opencode/servers.py` chooses.
_GENERATION: Final = 1
_VERSION: Final = re.compile(r"v?(\d+)\.\d+")
_SHOWN_AGENTS: Final = 10
_MAX_SHOWN_CHARS: Final = 40


@dataclass(frozen=True)
class Incompatibility:
    """Why a server that answers gets no work, and what operators do about it."""

    reason: str
    advice: str


def incompatibility(version: str, agents: Sequence[str], *, main_agent: str) -> Incompatibility | None:
    """None where it may have work, also where its version says nothing (a build).

    Only what makes every request without words of its own fail is fatal: another API, and no agent that works by
    default, for which OpenCode would take one that nobody chose. Categories and skills are words to that agent.
    main_agent: how its name begins.
    """
    match = _VERSION.match(version)
    if match is not None and int(match[1]) != _GENERATION:
        return Incompatibility(
            f"OpenCode {version[:_MAX_SHOWN_CHARS]} speaks another API: this release works with {_GENERATION}.x",
            f"run OpenCode {_GENERATION}.x there",
        )
    if not any(agent.startswith(main_agent) for agent in agents):
        return Incompatibility(
            f"it has no agent whose name begins with {main_agent!r} (it has: {_shown(agents)})",
            "see why oh-my-opencode is not loaded there; where another of its agents is to work by default, name that "
            "one in NUBABEL_OPENCODE_AGENT_PREFIX, for all processes",
        )
    return None


def _shown(agents: Sequence[str]) -> str:
    shown = [agent[:_MAX_SHOWN_CHARS] for agent in agents[:_SHOWN_AGENTS]]
    more = len(agents) - len(shown)
    return (", ".join(shown) or "none") + (f" and {more} more" if more else "")
