"""What a run used, its sub-agents included."""

from datetime import UTC, datetime
from typing import cast

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import Execution, Status, Usage
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, SessionId
from nubabel_workers.domain.ports import OpenCodeServer
from nubabel_workers.domain.prices import PriceTable, parse_prices
from nubabel_workers.domain.verdict import IDLE, PartKind, Role, RunMessage, RunPart, Verdict, decide
from nubabel_workers.services.count_usage import CountUsage

TASK = RunPart(PartKind.TOOL, tool="task", tool_status="completed")
BEGAN_MS = 1000


class Server:
    """Sessions by id, each with its messages and its children."""

    def __init__(self) -> None:
        self.messages: dict[str, list[RunMessage]] = {}
        self.children: dict[str, list[str]] = {}
        self.calls = 0

    async def sub_agents(self, opencode_session_id: str) -> list[str]:
        self.calls += 1
        return list(self.children.get(opencode_session_id, ()))

    async def run_messages(self, opencode_session_id: str, *, since: str) -> list[RunMessage]:
        self.calls += 1
        if opencode_session_id not in self.messages:
            raise NotFoundError("no such session")
        return self.messages[opencode_session_id]


def step(message_id: str, *parts: RunPart, tokens: int = 1, created_ms: int = BEGAN_MS) -> RunMessage:
    return RunMessage(
        message_id,
        Role.ASSISTANT,
        parent_id="msg_mine",
        created_ms=created_ms,
        completed=True,
        finish="stop",
        parts=(RunPart(PartKind.TEXT, text="x"), *parts),
        usage=Usage(input_tokens=tokens),
        model="stub/echo",
    )


def run_of(*steps: RunMessage) -> Verdict:
    messages = [RunMessage("msg_mine", Role.USER), *steps]
    return decide(messages, my_message_id="msg_mine", state=IDLE, settled=True)


async def counted(
    server: Server, run: Verdict, *, prices: PriceTable | None = None, known: tuple[str, ...] = ()
) -> Verdict:
    execution = Execution(
        id=ExecutionId("exe_1"),
        organization_id=OrganizationId("org_1"),
        session_id=SessionId("ses_1"),
        source="api",
        status=Status.RUNNING,
        prompt="hello",
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
        opencode_session_id="ses_root",
        known_assistant_ids=known,
    )
    return await CountUsage(prices or parse_prices({})).run(cast("OpenCodeServer", server), execution, run)


async def test_a_run_without_sub_agents_asks_the_server_nothing() -> None:
    server = Server()

    found = await counted(server, run_of(step("msg_a", tokens=11)))

    assert found.usage == Usage(input_tokens=11)
    assert server.calls == 0


async def test_sub_agents_and_their_own_sub_agents_are_added() -> None:
    server = Server()
    server.children = {"ses_root": ["ses_child"], "ses_child": ["ses_grandchild"]}
    server.messages = {"ses_child": [step("msg_b", TASK, tokens=20)], "ses_grandchild": [step("msg_c", tokens=300)]}

    found = await counted(server, run_of(step("msg_a", TASK, tokens=1)))

    assert found.usage == Usage(input_tokens=321)
    assert found.usage_by_model == {"stub/echo": Usage(input_tokens=321)}
    assert found.ended_ids == {"msg_a", "msg_b", "msg_c"}


async def test_what_a_sub_agent_used_for_earlier_runs_is_left_out() -> None:
    server = Server()
    server.children = {"ses_root": ["ses_child"]}
    server.messages = {
        "ses_child": [
            step("msg_old", tokens=1000, created_ms=BEGAN_MS - 1),
            step("msg_counted", tokens=500),
            step("msg_b", tokens=20),
        ]
    }

    found = await counted(server, run_of(step("msg_a", TASK, tokens=1)), known=("msg_counted",))

    assert found.usage == Usage(input_tokens=21)


async def test_a_sub_agent_that_is_gone_makes_it_a_lower_bound() -> None:
    server = Server()
    server.children = {"ses_root": ["ses_gone"]}

    found = await counted(server, run_of(step("msg_a", TASK, tokens=1)))

    assert found.usage == Usage(input_tokens=1, lower_bound=True)


async def test_sessions_that_name_each_other_are_counted_once() -> None:
    server = Server()
    server.children = {"ses_root": ["ses_child"], "ses_child": ["ses_root", "ses_child"]}
    server.messages = {"ses_child": [step("msg_b", TASK, tokens=2)]}

    found = await counted(server, run_of(step("msg_a", TASK, tokens=1)))

    assert found.usage.input_tokens == 3


async def test_prices_count_where_the_server_names_no_cost() -> None:
    prices = parse_prices({"models": {"stub/*": {"input": 1_000, "output": 1}}})

    found = await counted(Server(), run_of(step("msg_a", tokens=2_000)), prices=prices)

    assert found.usage == Usage(input_tokens=2_000, cost=2.0, cost_computed=True)


async def test_a_run_that_could_not_be_looked_at_stays_a_lower_bound() -> None:
    found = await counted(Server(), Verdict(run_of().kind, usage=Usage(lower_bound=True)))

    assert found.usage == Usage(lower_bound=True)
