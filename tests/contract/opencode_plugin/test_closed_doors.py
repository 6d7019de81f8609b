"""A server that organizations share: whatever a model tries there, secrets and other organizations stay out of reach.

A canary stands in each place that must not be reached. What goes to the model and what comes back is searched for them.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence

import pytest
import pytest_asyncio

from nubabel_workers.embedded.opencode_server import install_plugins
from tests.contract.opencode_plugin.attempts import (
    AGENT,
    SUB_AGENT,
    Victim,
    attempts,
    attempts_with_hidden_tools,
    cell_of,
    seen_of,
)
from tests.contract.opencode_plugin.deployed import (
    ENVIRONMENT_CANARY,
    Call,
    Deployed,
    Run,
    at_once,
    delegation,
    directive,
)
from tests.tenancy.matrix import Seen, note
from tests.unit.deployment.test_opencode_server import plugin_settings
from tests.waiting import eventually

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

FILE_CANARY = "canary-of-a-file"
SESSION_CANARY = "canary-of-a-session"
OFFERED = {
    "task",
    "skill",
    "todowrite",
    "read",
    "write",
    "edit",
    "glob",
    "grep",
    "nubabel_mcp_list",
    "nubabel_mcp_invoke",
}
SWITCHES = ["ultrawork: do it all", "/start-work", "/ralph-loop go", "think hard", "search for it"]
# Hooks of oh-my-opencode 4.19.4 that stay on: they shape prompts and results of a run, and begin none.
KEPT_HOOKS = {
    "bash-file-read-guard",
    "category-skill-reminder",
    "compaction-todo-preserver",
    "delegate-task-retry",
    "directory-agents-injector",
    "directory-readme-injector",
    "edit-error-recovery",
    "empty-task-response-detector",
    "fsync-skip-warning",
    "hashline-read-enhancer",
    "hephaestus-agents-md-injector",
    "json-error-recovery",
    "non-interactive-env",
    "notepad-write-guard",
    "plan-format-validator",
    "prometheus-md-only",
    "question-label-truncator",
    "read-image-resizer",
    "rules-injector",
    "sisyphus-junior-notepad",
    "stop-continuation-guard",
    "task-resume-info",
    "tasks-todowrite-disabler",
    "todo-description-override",
    "tool-output-truncator",
    "tool-pair-validator",
    "webfetch-redirect-guard",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(shared: Deployed) -> Victim:
    """Another organization with a conversation, a sub-agent's session and a file."""
    session_id = await shared.session(organization="org_b", title=SESSION_CANARY)
    note = directive("write", {"filePath": "note.txt", "content": f"{FILE_CANARY}\n"})
    await shared.ask(
        f"{note} {delegation(f'[[text={SESSION_CANARY}]]')} [[text={SESSION_CANARY}]]", session_id=session_id
    )
    (child_id,) = await shared.children(session_id)
    file = shared.server.directory / "organizations" / "org_b" / "note.txt"
    assert file.read_text() == f"{FILE_CANARY}\n"
    return Victim(
        session_id,
        child_id,
        "org_b",
        file,
        shared.server.url,
        shared.server.password.get_secret_value(),
        shared.server.home,
        shared.server.process.pid,
    )


def found(shared: Deployed, run: Run, since: int) -> list[str]:
    """Names of the canaries that the model was shown, or that came back."""
    canaries = {
        "environment": ENVIRONMENT_CANARY,
        "password": shared.server.password.get_secret_value(),
        "bridge key": shared.bridge_key,
        "file": FILE_CANARY,
        "session": SESSION_CANARY,
    }
    haystack = json.dumps([shared.sent[since:], run.parts])
    return [name for name, canary in canaries.items() if canary in haystack]


async def _tried(shared: Deployed, calls: Sequence[Call], *, by_child: bool) -> tuple[Run, list[str]]:
    """One run that makes all these calls, and the canaries it found."""
    since = len(shared.sent)
    step = at_once(calls)
    run = await shared.ask(
        f"{delegation(f'{step} [[text=tried]]')} [[text=over]]" if by_child else f"{step} [[text=over]]"
    )
    assert run.answer.strip() == "over"
    return run, found(shared, run, since)


def account(request: pytest.FixtureRequest, calls: Sequence[Call], method: str) -> None:
    for call in calls:
        note(request, cell_of(call, method), seen_of(call))


async def told(shared: Deployed, run: Run, calls: Sequence[Call]) -> None:
    """Each call that is refused at a door: the root session that it was made below, the tool and the reason."""
    refused = [call for call in calls if seen_of(call) is Seen.AUDITED]
    # The one that goes to another agent is let through; what that agent tries is not.
    expected = Counter("read" if "subagent_type" in call.arguments else call.tool for call in refused)

    def tools() -> Counter[str]:
        return Counter(tool for tool, _ in shared.receiver.refused(run.session_id))

    await eventually(lambda: tools().total() >= expected.total(), what=f"{expected}")
    assert tools() == expected


async def _child_parts(shared: Deployed, run: Run) -> Run:
    (child,) = await shared.children(run.session_id)
    return Run(child, [part for message in await shared.messages(child) for part in message["parts"]])


async def test_every_hook_of_the_plugin_was_decided_on() -> None:
    """A new release with a new hook fails here until somebody has looked at it."""
    schema = (install_plugins() / "oh-my-opencode/dist/config/schema/hooks.d.ts").read_text()
    hooks = {name.strip('"') for name in re.findall(r'^    ("[\w-]+"|\w+): "', schema, re.MULTILINE)}
    off = plugin_settings()["disabled_hooks"]

    assert set(off) | KEPT_HOOKS == hooks
    assert set(off) & KEPT_HOOKS == set()


async def test_no_agent_is_offered_more_than_the_list(shared: Deployed) -> None:
    agents = [agent["name"] for agent in (await shared.http.get("/agent")).json()]
    since = len(shared.sent)
    await asyncio.gather(*(shared.ask("hello", agent=agent) for agent in agents))

    offered = shared.tools_offered(since)
    assert len(offered) >= len(agents)
    assert set().union(*offered) == OFFERED
    assert (await shared.http.get("/mcp")).json() == {}


async def test_every_offered_tool_has_attempts(victim: Victim) -> None:
    assert set(attempts(victim)) == OFFERED


@pytest.mark.parametrize("tool", sorted(OFFERED))
async def test_an_offered_tool_reaches_nothing_of_others(
    tool: str, shared: Deployed, victim: Victim, request: pytest.FixtureRequest
) -> None:
    calls = attempts(victim)[tool]
    account(request, calls, AGENT)

    run, canaries = await _tried(shared, calls, by_child=False)
    await told(shared, run, calls)

    assert canaries == []
    assert len([part for part in run.tools if part["tool"] == tool]) == len(calls)
    if tool in {"read", "write", "edit", "glob", "grep"}:
        assert {part["state"]["status"] for part in run.tools} == {"error"}


async def test_no_tool_of_a_sub_agent_reaches_anything_of_others(
    shared: Deployed, victim: Victim, request: pytest.FixtureRequest
) -> None:
    calls = [call for tool, calls in attempts(victim).items() for call in calls if tool != "task"]
    account(request, calls, SUB_AGENT)
    since = len(shared.sent)

    run, canaries = await _tried(shared, calls, by_child=True)
    await told(shared, run, calls)

    assert canaries == []
    child = await _child_parts(shared, run)
    assert len(child.tools) == len(calls)
    assert all(tools <= OFFERED for tools in shared.tools_offered(since))
    outcomes = {(part["tool"], part["state"]["status"]) for part in child.tools}
    assert not {("read", "completed"), ("glob", "completed"), ("grep", "completed")} & outcomes


@pytest.mark.parametrize("by_child", [False, True], ids=["root", "sub-agent"])
async def test_hidden_tools_are_not_there(
    by_child: bool, shared: Deployed, victim: Victim, request: pytest.FixtureRequest
) -> None:
    calls = attempts_with_hidden_tools(victim)
    for call in calls:
        note(request, cell_of(call, SUB_AGENT if by_child else AGENT), Seen.STOPPED_BEFORE)

    run, canaries = await _tried(shared, calls, by_child=by_child)

    assert canaries == []
    tried = await _child_parts(shared, run) if by_child else run
    assert [part["tool"] for part in tried.tools] == ["invalid"] * len(calls)


async def test_calls_name_the_session_they_were_made_in(shared: Deployed, victim: Victim) -> None:
    for path in ("/api/sidecar/mcp/invoke", "/api/sidecar/mcp/tools"):
        assert shared.receiver.asked(path, victim.session_id) == []


async def test_the_others_are_as_they_were(shared: Deployed, victim: Victim) -> None:
    """Runs after the attempts above. What is there is what our plugin makes."""
    assert victim.file.read_text() == f"{FILE_CANARY}\n"
    assert len(await shared.messages(victim.session_id)) == 4  # question, two tool steps, answer
    assert len(await shared.messages(victim.child_id)) == 2
    assert sorted(path.name for path in shared.server.directory.iterdir()) == ["directories", "organizations"]


async def test_an_organization_works_with_its_own_files(shared: Deployed) -> None:
    steps = [
        directive("write", {"filePath": "notes/plan.md", "content": "first step\n"}),
        directive("read", {"filePath": "notes/plan.md"}),
        directive("edit", {"filePath": "notes/plan.md", "oldString": "first", "newString": "second"}),
        directive("grep", {"pattern": "second step", "output_mode": "content"}),
    ]

    run = await shared.ask(f"{' '.join(steps)} [[text=done]]")

    assert [part["state"]["status"] for part in run.tools] == ["completed"] * 4
    assert "first step" in run.outcome("read")[1]
    assert "second step" in run.outcome("grep")[1]
    assert (shared.server.directory / "organizations/org_a/notes/plan.md").read_text() == "second step\n"


async def test_a_conversation_goes_on_in_its_own_sub_agents_session(shared: Deployed) -> None:
    run = await shared.ask(f"{delegation('[[text=one]]')} [[text=x]]")
    (child,) = await shared.children(run.session_id)

    again = await shared.ask(f"{delegation('[[text=two]]', task_id=child)} [[text=y]]", session_id=run.session_id)

    status, text = again.outcome("task")
    assert status == "completed"  # whether oh-my-opencode lets it go on so soon is its own affair
    assert child in text
    assert await shared.children(run.session_id) == [child]


async def test_text_of_a_person_is_no_switch(shared: Deployed) -> None:
    """oh-my-opencode reads modes and commands out of texts; here a text is a text."""
    texts = [f"{text} [[text=ok]]" for text in SWITCHES]
    since = len(shared.sent)

    runs = await asyncio.gather(*(shared.ask(text) for text in texts))

    first = [(await shared.messages(run.session_id))[0] for run in runs]
    assert [[part["text"] for part in message["parts"]] for message in first] == [[text] for text in texts]
    assert len(shared.tools_offered(since)) == len(texts)
