"""Whose session a plugin speaks of: only those on the server that signed, children by their root."""

from collections.abc import Sequence

import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NubabelError,
    RateLimitedError,
    UnavailableError,
)
from nubabel_workers.services import find_callback_session, report_foreign_ids
from nubabel_workers.services.find_callback_session import CallbackSession, FindCallbackSession
from tests.fakes.administration import FakeAudit
from tests.fakes.callbacks import FakeCallbacks, FakeSessions
from tests.fakes.clock import FakeClock
from tests.fakes.hints import FakeHints
from tests.fakes.progress import FakeProgress
from tests.fakes.tenants import FakeTenants

OURS = CallbackSession("ins_1", "org_acme", "ses_ours", "ses_root")


class Finding:
    """Session `ses_ours` of Acme on ins_1 as `ses_root`; `ses_theirs` on another server, as `ses_away`."""

    def __init__(self) -> None:
        self.audit = FakeAudit()
        self.clock = FakeClock()
        callbacks = FakeCallbacks(FakeTenants(), self.audit, FakeProgress(), FakeHints(), self.clock)
        self.sessions: FakeSessions = callbacks.sessions
        self.find: FindCallbackSession = callbacks.parts.find
        self.foreign_ids = callbacks.foreign_ids
        self.sessions.add("ses_ours", "org_acme", "ins_1", "ses_root")
        self.sessions.add("ses_theirs", "org_other", "ins_2", "ses_away")
        self.sessions.parents = {"ses_root": None, "ses_child": "ses_root", "ses_grandchild": "ses_child"}

    async def of(self, *session_ids: str, told: str | None = None) -> CallbackSession:
        return await self.find.run("ins_1", session_ids, told_organization=told)

    async def audited(self) -> Sequence[tuple[str, str | None, str, object]]:
        await self.foreign_ids.settled()
        return [(one.action, one.organization_id, one.subject, one.detail["reason"]) for one in self.audit.entries]


@pytest.fixture
def finding() -> Finding:
    return Finding()


@pytest.mark.parametrize("named", ["ses_root", "ses_ours", "ses_child", "ses_grandchild"])
async def test_a_session_is_found_by_either_id_and_by_its_sub_agents(finding: Finding, named: str) -> None:
    assert await finding.of(named) == OURS


async def test_several_ids_of_one_session_are_one(finding: Finding) -> None:
    assert await finding.of("ses_ours", "ses_root", "ses_child", "ses_child") == OURS


async def test_the_root_of_a_sub_agent_is_asked_for_once(finding: Finding) -> None:
    await finding.of("ses_grandchild")
    await finding.of("ses_grandchild")

    assert finding.sessions.asked == ["ses_grandchild", "ses_child", "ses_root"]


@pytest.mark.parametrize("named", ["ses_theirs", "ses_away"])
async def test_a_session_of_another_server_is_refused_and_audited(finding: Finding, named: str) -> None:
    with pytest.raises(CredentialsError) as refused:
        await finding.of(named)

    assert refused.value.code == "session_not_served"
    assert await finding.audited() == [(AuditAction.CALLBACK_REFUSED, "org_other", "ses_theirs", "other_server")]


async def test_a_server_that_lies_about_parents_gets_nowhere(finding: Finding) -> None:
    finding.sessions.parents |= {"ses_invented": "ses_away", "ses_away": None}

    with pytest.raises(CredentialsError, match="no such session"):
        await finding.of("ses_invented")

    assert await finding.audited() == [(AuditAction.CALLBACK_REFUSED, "org_other", "ses_theirs", "other_server")]
    assert finding.sessions.roots == {}


@pytest.mark.parametrize("told", ["ses_unknown", "ses_stranger"])
async def test_what_nobody_knows_is_refused_in_the_same_words(finding: Finding, told: str) -> None:
    finding.sessions.parents["ses_stranger"] = None

    with pytest.raises(CredentialsError) as unknown:
        await finding.of(told)
    with pytest.raises(CredentialsError) as elsewhere:
        await finding.of("ses_away")

    assert str(unknown.value) == str(elsewhere.value)
    assert len(await finding.audited()) == 1


async def test_parents_in_a_circle_have_an_end(finding: Finding) -> None:
    finding.sessions.parents |= {"ses_a": "ses_b", "ses_b": "ses_a"}

    with pytest.raises(CredentialsError):
        await finding.of("ses_a")


async def test_while_the_server_is_away_a_child_waits_and_a_root_is_known(finding: Finding) -> None:
    finding.sessions.error = UnavailableError("away")

    assert await finding.of("ses_root") == OURS
    with pytest.raises(UnavailableError):
        await finding.of("ses_child")


async def test_unknown_sessions_are_not_asked_for_without_end(finding: Finding) -> None:
    finding.sessions.limits["callback-asks:ins_1"] = 2
    outcomes: list[NubabelError] = []
    for number in range(4):
        with pytest.raises(NubabelError) as refused:
            await finding.of(f"ses_guess{number}")
        outcomes.append(refused.value)

    assert [type(one) for one in outcomes] == [CredentialsError, CredentialsError, RateLimitedError, RateLimitedError]
    assert len(finding.sessions.asked) == 2


async def test_another_organization_than_the_sessions_is_refused_and_audited(finding: Finding) -> None:
    assert await finding.of("ses_root", told="org_acme") == OURS

    with pytest.raises(CredentialsError) as refused:
        await finding.of("ses_root", told="org_other")

    assert refused.value.code == "organization_mismatch"
    assert await finding.audited() == [(AuditAction.CALLBACK_REFUSED, "org_acme", "ses_ours", "other_organization")]


async def test_the_audit_log_is_not_filled_by_who_has_a_key(finding: Finding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_foreign_ids, "LISTED_PER_MINUTE", 3)

    for _ in range(5):
        with pytest.raises(CredentialsError):
            await finding.of("ses_away")

    assert len(await finding.audited()) == 3
    await finding.foreign_ids.close()
    assert finding.audit.entries[-1].organization_id == "org_other"
    assert finding.audit.entries[-1].detail == {"action": AuditAction.CALLBACK_REFUSED, "refused": 2}


async def test_a_server_is_asked_for_what_is_elsewhere_as_for_what_nobody_knows(finding: Finding) -> None:
    """By our question it would learn, of any id, whether another server has such a session."""
    for name in ("ses_unknown", "ses_away"):
        with pytest.raises(CredentialsError):
            await finding.of(name)
    assert finding.sessions.asked == ["ses_unknown", "ses_away"]

    finding.sessions.error = UnavailableError("away")
    for name in ("ses_unknown", "ses_away"):
        with pytest.raises(CredentialsError):  # nor by a second one: neither is asked for again at once
            await finding.of(name)
    finding.clock.advance(60)
    for name in ("ses_unknown", "ses_away"):
        with pytest.raises(UnavailableError):
            await finding.of(name)


async def test_who_speaks_at_length_of_sessions_that_left_its_server_still_gets_its_sub_agents_found(
    finding: Finding,
) -> None:
    finding.sessions.limits["callback-asks:ins_1"] = 2

    for _ in range(20):
        with pytest.raises(CredentialsError):
            await finding.of("ses_away")

    assert await finding.of("ses_child") == OURS
    assert finding.sessions.asked == ["ses_away", "ses_child", "ses_root"]
    assert len(await finding.audited()) == 20  # each is seen


async def test_a_session_that_was_asked_for_in_vain_is_served_as_soon_as_it_is_ours(finding: Finding) -> None:
    with pytest.raises(CredentialsError):
        await finding.of("ses_later")

    finding.sessions.add("ses_new", "org_acme", "ins_1", "ses_later")

    assert (await finding.of("ses_later")).session_id == "ses_new"


async def test_a_server_that_did_not_answer_is_asked_again_at_once(finding: Finding) -> None:
    finding.sessions.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await finding.of("ses_child")
    finding.sessions.error = None

    assert await finding.of("ses_child") == OURS


async def test_only_so_many_sessions_are_remembered_as_asked_for_in_vain(
    finding: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_callback_session, "_MOST_REMEMBERED", 2)

    for name in ("ses_1", "ses_2", "ses_3", "ses_3", "ses_1"):
        with pytest.raises(CredentialsError):
            await finding.of(name)

    assert finding.sessions.asked == ["ses_1", "ses_2", "ses_3", "ses_1"]


@pytest.mark.parametrize("named", ["ses_unknown", "ses_away"])
async def test_a_parent_that_a_server_invents_tells_it_nothing_of_what_is_elsewhere(
    finding: Finding, named: str
) -> None:
    """Whether nobody has the session or another server, it gets its own root, by the same looks, now and later."""
    finding.sessions.parents[named] = "ses_root"

    assert await finding.of(named) == OURS
    assert finding.sessions.asked == [named, "ses_root"]
    assert finding.sessions.looked_up == [named, named, "ses_root"]
    assert finding.sessions.roots == {("ins_1", named): "ses_root"}

    assert await finding.of(named) == OURS
    assert finding.sessions.asked == [named, "ses_root"]
    assert finding.sessions.looked_up == [named, named, "ses_root", "ses_root"]


async def test_an_invented_parent_of_what_is_elsewhere_is_audited_and_changes_nothing_there(finding: Finding) -> None:
    finding.sessions.parents["ses_away"] = "ses_root"

    await finding.of("ses_away")

    assert await finding.audited() == [(AuditAction.CALLBACK_REFUSED, "org_other", "ses_theirs", "other_server")]
    theirs = await finding.find.run("ins_2", ["ses_away"], told_organization="org_other")
    assert theirs == CallbackSession("ins_2", "org_other", "ses_theirs", "ses_away")


@pytest.mark.parametrize("named", ["ses_unknown", "ses_away"])
async def test_a_parent_elsewhere_is_looked_for_whoever_has_the_session(finding: Finding, named: str) -> None:
    finding.sessions.add("ses_third", "org_third", "ins_2", "ses_root3")
    finding.sessions.parents |= {named: "ses_root3", "ses_root3": None}

    with pytest.raises(CredentialsError, match="no such session"):
        await finding.of(named)

    assert finding.sessions.looked_up == [named, named, "ses_root3", "ses_root3"]
    assert finding.sessions.roots == {}


async def test_several_sessions_in_one_call_are_refused(finding: Finding) -> None:
    finding.sessions.add("ses_second", "org_acme", "ins_1", "ses_root2")

    with pytest.raises(InvalidInputError, match="several sessions"):
        await finding.of("ses_root", "ses_root2")


async def test_an_organization_has_so_many_callbacks_a_second(finding: Finding) -> None:
    finding.sessions.limits["callbacks:org_acme"] = 1
    finding.sessions.add("ses_third", "org_third", "ins_1", "ses_root3")
    await finding.of("ses_root")

    with pytest.raises(RateLimitedError) as refused:
        await finding.of("ses_root")

    assert refused.value.retry_after_s == 1
    assert (await finding.of("ses_root3")).organization_id == "org_third"
