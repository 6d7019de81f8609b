"""Category and skills reach Sisyphus as system text, and what it did with them is read from its calls of `task`."""

from contextlib import aclosing

import pytest

from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.adapters.opencode import OpenCodeClient, new_http_client
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.domain.analysis import analyse
from nubabel_workers.domain.executions import Overrides
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.verdict import IDLE, Delegation, Verdict, VerdictKind, decide
from tests.contract.opencode_plugin.deployed import Deployed, at_once, delegated, delegation
from tests.waiting import eventually

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_MESSAGE = "msg_0123456789abABCDEFGHIJKLMN"
_SYSTEM_ROLES = {"system", "developer"}


def system_texts(shared: Deployed, since: int) -> list[str]:
    """Of each request to the model, helpers' requests left out."""
    return [
        "\n".join(str(m["content"]) for m in body["messages"] if m["role"] in _SYSTEM_ROLES)
        for body in shared.sent[since:]
        if body.get("tools")
    ]


async def test_the_servers_categories_are_read_from_it_and_are_those_of_the_rules(shared: Deployed) -> None:
    async with aclosing(new_http_client()) as http:
        client = OpenCodeClient(http, shared.server.url, username="opencode", password=shared.server.password)

        categories = await HttpOpenCodeServer(client).categories(None)

    assert set(categories or ()) == set(load_rules().categories)


async def test_what_was_asked_for_reaches_sisyphus_and_what_was_done_is_read_back(shared: Deployed) -> None:
    agents = [agent["name"] for agent in (await shared.http.get("/agent")).json()]
    analysis = analyse("x", Overrides(category="deep", skills=("git-master",)), load_rules(), agents)
    since = len(shared.sent)
    session_id = await shared.session()
    async with aclosing(new_http_client()) as http:
        client = OpenCodeClient(http, shared.server.url, username="opencode", password=shared.server.password)
        server = HttpOpenCodeServer(client)
        call = delegation("[[text=dug up]]", category="deep", load_skills=["git-master"])
        await server.submit(
            session_id,
            message_id=_MESSAGE,
            parts=[PromptPart("prt_0123456789abABCDEFGHIJKLMN", text=f"{call} [[text=answered]]")],
            agent=analysis.agent,
            model=None,
            system=analysis.instructions,
            timeout_s=30,
        )
        await eventually(lambda: shared.receiver.updates(session_id), timeout_s=60, what="the end of the run")
        messages = await server.run_messages(session_id, since=_MESSAGE)

    verdict: Verdict = decide(messages, my_message_id=_MESSAGE, state=IDLE, settled=True)
    assert (verdict.kind, verdict.text) == (VerdictKind.SUCCEEDED, "answered")
    (child,) = await shared.children(session_id)
    assert verdict.delegations == (Delegation(child, "deep", "Sisyphus-Junior", ("git-master",), "stub/echo"),)
    root, sub_agent, *_ = system_texts(shared, since)
    assert 'task(category="deep", load_skills=["git-master"], run_in_background=false)' in root
    assert "Git Master Agent" in sub_agent


async def test_every_category_of_the_analysis_has_a_sub_agent(shared: Deployed) -> None:
    categories = list(load_rules().categories)

    run = await shared.ask(f"{at_once([delegated('[[text=x]]', category=name) for name in categories])} [[text=over]]")

    told = [part["state"]["metadata"] for part in run.tools]
    assert [metadata.get("category") for metadata in told] == categories
    assert all(metadata.get("sessionId") for metadata in told)


async def test_every_skill_of_the_analysis_can_be_loaded(shared: Deployed) -> None:
    skills = list(load_rules().skills)

    run = await shared.ask(delegation("[[text=x]]", load_skills=skills) + " [[text=over]]")

    assert run.tools[0]["state"]["metadata"].get("load_skills") == skills, run.outcome("task")


async def test_a_skill_that_does_not_exist_delegates_nothing(shared: Deployed) -> None:
    run = await shared.ask(delegation("[[text=x]]", load_skills=["no-such-skill"]) + " [[text=over]]")

    assert "Skills not found" in run.outcome("task")[1]
    assert await shared.children(run.session_id) == []
