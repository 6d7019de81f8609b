"""How a simulator is set up, and the faults it can be told to have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SecretStr

VERSION = "1.18.33"


@dataclass(frozen=True, slots=True)
class SimulatedAgent:
    name: str
    mode: str = "primary"
    hidden: bool = False


PLAIN_AGENTS = (
    SimulatedAgent("build"),
    SimulatedAgent("plan"),
    SimulatedAgent("general", "subagent"),
    SimulatedAgent("explore", "subagent"),
    SimulatedAgent("compaction", hidden=True),
    SimulatedAgent("summary", hidden=True),
    SimulatedAgent("title", hidden=True),
)

# oh-my-opencode 4.19.4: exact display names; OpenCode's own agents are demoted but usable.
OMO_AGENTS = (
    SimulatedAgent("Sisyphus - ultraworker"),
    SimulatedAgent("Hephaestus - Deep Agent"),
    SimulatedAgent("Prometheus - Plan Builder"),
    SimulatedAgent("Atlas - Plan Executor"),
    SimulatedAgent("Sisyphus-Junior", "subagent"),
    SimulatedAgent("Metis - Plan Consultant", "subagent"),
    SimulatedAgent("Momus - Plan Critic", "subagent"),
    SimulatedAgent("oracle", "subagent"),
    SimulatedAgent("librarian", "subagent"),
    SimulatedAgent("explore", "subagent"),
    SimulatedAgent("multimodal-looker", "subagent"),
    SimulatedAgent("build", "subagent", hidden=True),
    SimulatedAgent("plan", "subagent", hidden=True),
    SimulatedAgent("compaction", hidden=True),
    SimulatedAgent("summary", hidden=True),
    SimulatedAgent("title", hidden=True),
)

OMO_CATEGORIES: Mapping[str, str] = {
    "visual-engineering": "Frontend, UI/UX",
    "artistry": "unconventional approaches",
    "ultrabrain": "hard logic only",
    "deep": "research, one goal",
    "quick": "trivial tasks",
    "unspecified-low": "low effort",
    "unspecified-high": "high effort",
    "writing": "documentation, prose",
}


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """delay_s, tokens, gap_s: of answers whose prompt says nothing about them; 0 tokens is the echo.

    keep_sessions: how many sessions to remember; the oldest idle ones are forgotten first. None: all of them.
    retry_wait_s: the first wait of OpenCode's endless retries of its model; it doubles.
    directories: whether it makes a directory for each organization, as our image does on a shared server.
    """

    delay_s: float = 0.0
    tokens: int = 0
    gap_s: float = 0.0
    version: str = VERSION
    username: str = "opencode"
    password: SecretStr | None = None
    directory: str = "/srv/opencode"
    directories: bool = True
    plugin: Literal["oh-my-opencode", "none"] = "oh-my-opencode"
    models: tuple[str, ...] = ("stub/echo",)
    keep_sessions: int | None = None
    retry_wait_s: float = 2.0
    heartbeat_s: float = 10.0

    @property
    def agents(self) -> tuple[SimulatedAgent, ...]:
        return OMO_AGENTS if self.plugin == "oh-my-opencode" else PLAIN_AGENTS

    @property
    def categories(self) -> Mapping[str, str]:
        """Name -> meaning, as oh-my-opencode words them."""
        return OMO_CATEGORIES if self.plugin == "oh-my-opencode" else {}

    @property
    def default_agent(self) -> str:
        return self.agents[0].name


class Faults(BaseModel):
    """What goes wrong from now on. Counters count down; everything else lasts until it is set again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stall: int = 0  # next model calls that never answer
    lose_answers: int = 0  # next prompts that are accepted, but whose 204 never arrives
    refuse: int = 0  # next requests (whose path contains refuse_path) that are answered with refuse_status
    refuse_status: int = 500
    refuse_path: str = "/"
    idle_without_answer: int = 0  # next runs that end without an assistant message
    slow_accept_s: float = 0.0  # before a prompt's 204
    slow_s: float = 0.0  # before every answer
    idle_before_final_s: float = 0.0  # `session.idle` comes this long before the final message is stored
    duplicate_idle: bool = False
    deaf_s: float = 0.0  # new streams miss the events of their first moments (the real server: up to 50 ms)
    event_delay_s: float = 0.0  # events leave this long after they were made
    leak_bytes_per_s: float = 0.0  # memory that is not given back until the next crash
    mute_events: bool = False  # streams stay open and say nothing

    def changed(self, values: dict[str, Any]) -> "Faults":
        return Faults.model_validate(self.model_dump() | values)
