"""Every key of the cache says whose it is; those that cannot are listed here with the reason."""

import pytest

from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome
from nubabel_workers.domain.progress import ProgressSource, ToolProgress
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline

pytestmark = pytest.mark.integration

INSTANCE = "ins_1"
NOBODYS = {
    "nubabel:hint:": "whether a task was hinted at within the last second",
    "nubabel:blocks": "whether any block exists",
    "nubabel:breakers": "standings of OpenCode servers, by their ids: the operators'",
    "nubabel:listeners": "which listener is in charge of which OpenCode server",
    "nubabel:window:submits:": "prompts that a server got in this second, of all organizations",
    "nubabel:window:callback-asks:": "questions to a server about sessions whose owner is not known yet",
    "nubabel:window:callback-audit:": "refusals of a server's callbacks that are written down",
}
FINDS_THE_OWNER = {
    "nubabel:opencode:": "whose an OpenCode session is; its sealed value names the organization",
    "nubabel:root:": "the root of a sub-agent's session, whose owner is looked up after it",
    "nubabel:tool-breakers": "standings of tool servers, by connection; a connection is one organization's",
}


async def use_everything(pipeline: Pipeline) -> None:
    """A conversation in a thread, its progress, a sub-agent, limits of Slack, failures of both kinds of servers."""
    services = pipeline.services
    root = await pipeline.say("something to read first")
    await pipeline.mention("what do you think?", thread_ts=root.ts)
    await pipeline.answer_everything()
    done = await pipeline.one("SELECT id, opencode_session_id FROM executions")
    item = ToolProgress("ses_child", "call_1", "bash", "running")
    await services.progress.tell(ORGANIZATION, str(done["id"]), [item], ProgressSource.LISTENER)
    await services.mappings.remember_root(INSTANCE, "ses_child", str(done["opencode_session_id"]))
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.RATE_LIMITED, seconds=30))
    await pipeline.mention("and now?")
    await pipeline.answer_everything()
    for _ in range(20):
        services.breakers.saw(INSTANCE, CallKind.LOOK, CallOutcome.AWAY)
    await services.breakers.report()


async def test_every_key_names_its_organization_or_is_listed_with_the_reason(pipeline: Pipeline) -> None:
    await use_everything(pipeline)

    keys = {key async for key in pipeline.services.cache.scan_iter("*")}

    assert {key.split(":")[1] for key in keys} >= {"session", "opencode", "root", "progress", "window", "breakers"}
    assert any(key.startswith(f"nubabel:window:slack-read:{ORGANIZATION}:") for key in keys)
    listed = tuple(NOBODYS | FINDS_THE_OWNER)
    assert [key for key in keys if ORGANIZATION not in key.split(":") and not key.startswith(listed)] == []
    nobodys = [key for key in keys if key.startswith(tuple(NOBODYS))]
    assert [key for key in nobodys if ORGANIZATION in key or "ses_" in key or "exe_" in key] == []
