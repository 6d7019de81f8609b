"""Organizations, workspaces and credentials on a real PostgreSQL: who sees what, and how fast it ends."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.tenants import PostgresTenants
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.limits import parse_change
from nubabel_workers.domain.masking import MaskingPolicy
from nubabel_workers.domain.tenants import BusyPolicy, Organization, PolicyChange
from tests.integration.storage.seeds import add_organization, installation

pytestmark = pytest.mark.integration


@dataclass
class Stopwatch:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def tenants(database: Database, cipher: TokenCipher, stopwatch: Stopwatch) -> PostgresTenants:
    return PostgresTenants(database, cipher, keep_s=2.0, keep_workspaces_s=2.0, monotonic=stopwatch.monotonic)


@pytest.fixture
def organizations(database: Database, cipher: TokenCipher) -> PostgresOrganizations:
    return PostgresOrganizations(database, cipher)


@pytest.fixture
def workspaces(database: Database, cipher: TokenCipher) -> PostgresWorkspaces:
    return PostgresWorkspaces(database, cipher)


@pytest.fixture
def access(database: Database, cipher: TokenCipher) -> PostgresAccess:
    return PostgresAccess(database, cipher)


def _new(name: str, organization_id: str = "org_a") -> Organization:
    return Organization(OrganizationId(organization_id), name, busy_policy=BusyPolicy.INTERRUPT)


# --- organizations ---------------------------------------------------------------------------------------------------


async def test_a_created_organization_is_found_by_its_id(
    organizations: PostgresOrganizations, tenants: PostgresTenants
) -> None:
    created = await organizations.create(_new("Acme"), actor="cli:anna")

    assert created is not None
    assert created.created_at is not None
    assert await tenants.organization("org_a") == created
    assert created.busy_policy is BusyPolicy.INTERRUPT
    assert await tenants.organization("org_b") is None


async def test_a_name_is_taken_whatever_its_case(organizations: PostgresOrganizations) -> None:
    await organizations.create(_new("Acme"), actor="cli:anna")

    assert await organizations.create(_new("ACME", "org_b"), actor="cli:anna") is None
    assert [one.id for one in await organizations.named("acme")] == ["org_a"]


async def test_a_policy_change_leaves_the_rest_as_it_was(organizations: PostgresOrganizations) -> None:
    await organizations.create(_new("Acme"), actor="cli:anna")

    changed = await organizations.set_policy(
        "org_a", PolicyChange(plan="gold", masking=MaskingPolicy.OFF), actor="cli:anna"
    )

    assert changed is not None
    assert (changed.busy_policy, changed.plan, changed.masking) == (BusyPolicy.INTERRUPT, "gold", MaskingPolicy.OFF)
    assert await organizations.set_policy("org_none", PolicyChange(plan="gold"), actor="cli:anna") is None


async def test_every_change_of_an_organization_is_in_the_audit_log_with_its_actor(
    organizations: PostgresOrganizations, database: Database
) -> None:
    await organizations.create(_new("Acme"), actor="cli:anna")
    await organizations.set_disabled("org_a", disabled=True, actor="cli:ben")
    await organizations.set_policy("org_none", PolicyChange(BusyPolicy.QUEUE), actor="cli:ben")

    entries = await PostgresAuditTrail(database).list(organization_id="org_a", limit=10)

    assert [(entry.actor, entry.action, entry.subject) for entry in entries] == [
        ("cli:ben", AuditAction.ORGANIZATION_DISABLED, "org_a"),
        ("cli:anna", AuditAction.ORGANIZATION_CREATED, "org_a"),
    ]


async def test_a_refused_change_leaves_no_audit_entry(organizations: PostgresOrganizations, database: Database) -> None:
    await organizations.create(_new("Acme"), actor="cli:anna")
    await organizations.create(_new("Acme", "org_b"), actor="cli:anna")

    assert len(await PostgresAuditTrail(database).list(organization_id=None, limit=10)) == 1


async def test_an_organization_sees_its_own_audit_entries_only(
    organizations: PostgresOrganizations, database: Database
) -> None:
    await organizations.create(_new("Acme"), actor="cli:anna")
    await organizations.create(_new("Beta", "org_b"), actor="cli:anna")

    entries = await PostgresAuditTrail(database).list(organization_id="org_b", limit=10)

    assert [entry.subject for entry in entries] == ["org_b"]


# --- webhook secret --------------------------------------------------------------------------------------------------


async def test_the_webhook_secret_is_stored_encrypted_and_read_back(
    organizations: PostgresOrganizations, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    assert await tenants.webhook_secrets("org_a") == ()

    await organizations.set_webhook_secret("org_a", SecretStr("whsec_x"), overlap_s=60, actor="cli:anna")

    row = await database.system().one("SELECT webhook_secret FROM organizations")
    assert row is not None
    assert b"whsec_x" not in row["webhook_secret"]
    assert await tenants.webhook_secrets("org_a") == ("whsec_x",)


async def test_two_webhook_secrets_are_used_until_the_overlap_is_over(
    organizations: PostgresOrganizations, database: Database, cipher: TokenCipher
) -> None:
    async def used() -> Sequence[str]:
        return await PostgresTenants(database, cipher).webhook_secrets("org_a")

    async def replaced_by(secret: str, *, overlap_s: float) -> Sequence[str]:
        await organizations.set_webhook_secret("org_a", SecretStr(secret), overlap_s=overlap_s, actor="cli:anna")
        return await used()

    await add_organization(database, "org_a")

    assert await replaced_by("whsec_1", overlap_s=60) == ("whsec_1",)
    assert await replaced_by("whsec_2", overlap_s=60) == ("whsec_2", "whsec_1")
    await database.system().execute("UPDATE organizations SET previous_webhook_secret_until = now()")
    assert await used() == ("whsec_2",)
    assert await replaced_by("whsec_3", overlap_s=60) == ("whsec_3", "whsec_2")
    assert await replaced_by("whsec_4", overlap_s=0) == ("whsec_4",)


async def organization_with_two_secrets(database: Database, organizations: PostgresOrganizations) -> None:
    """The second replaced the first, which is good for another minute."""
    await add_organization(database, "org_a")
    for secret in ("whsec_1", "whsec_2"):
        await organizations.set_webhook_secret("org_a", SecretStr(secret), overlap_s=60, actor="cli:anna")


async def test_a_third_webhook_secret_is_stored_only_once_the_first_has_ended(
    organizations: PostgresOrganizations, tenants: PostgresTenants, database: Database
) -> None:
    await organization_with_two_secrets(database, organizations)

    third = await organizations.set_webhook_secret("org_a", SecretStr("whsec_3"), overlap_s=60, actor="cli:anna")

    assert third is None
    assert await organizations.old_webhook_secret_until("org_a") is not None
    assert await tenants.webhook_secrets("org_a") == ("whsec_2", "whsec_1")


async def test_of_two_who_replace_a_webhook_secret_at_once_one_is_refused(
    organizations: PostgresOrganizations, database: Database, cipher: TokenCipher
) -> None:
    await add_organization(database, "org_a")
    await organizations.set_webhook_secret("org_a", SecretStr("whsec_1"), overlap_s=60, actor="cli:anna")

    changed = await asyncio.gather(
        *(
            organizations.set_webhook_secret("org_a", SecretStr(secret), overlap_s=60, actor="cli:anna")
            for secret in ("whsec_2", "whsec_3")
        )
    )

    assert [one is None for one in changed].count(True) == 1
    newest, older = await PostgresTenants(database, cipher).webhook_secrets("org_a")
    assert (newest in {"whsec_2", "whsec_3"}, older) == (True, "whsec_1")


async def test_the_newest_webhook_secret_is_replaced_only_beside_an_older_one(
    organizations: PostgresOrganizations, tenants: PostgresTenants, database: Database
) -> None:
    await organization_with_two_secrets(database, organizations)

    replaced = await organizations.replace_newest_webhook_secret("org_a", SecretStr("whsec_3"), actor="cli:anna")

    assert replaced is not None
    assert await tenants.webhook_secrets("org_a") == ("whsec_3", "whsec_1")
    await organizations.end_previous_webhook_secret("org_a", actor="cli:anna")
    assert await organizations.replace_newest_webhook_secret("org_a", SecretStr("whsec_4"), actor="cli:anna") is None


async def test_an_older_webhook_secret_that_no_key_opens_keeps_no_webhook_from_being_signed(
    organizations: PostgresOrganizations, tenants: PostgresTenants, database: Database
) -> None:
    await organization_with_two_secrets(database, organizations)
    await database.system().execute("UPDATE organizations SET previous_webhook_secret = 'of another key'")

    assert await tenants.webhook_secrets("org_a") == ("whsec_2",)


async def test_an_older_webhook_secret_is_ended_also_when_its_time_is_over(
    organizations: PostgresOrganizations, database: Database
) -> None:
    """Else a key that is gone would be missed for it for ever."""
    await organization_with_two_secrets(database, organizations)
    await database.system().execute("UPDATE organizations SET previous_webhook_secret_until = now()")

    assert await organizations.end_previous_webhook_secret("org_a", actor="cli:anna")

    assert await database.system().one("SELECT previous_webhook_secret FROM organizations") == {
        "previous_webhook_secret": None
    }


async def test_the_older_webhook_secret_is_ended_before_its_time(
    organizations: PostgresOrganizations, tenants: PostgresTenants, database: Database
) -> None:
    await organization_with_two_secrets(database, organizations)

    ended = [await organizations.end_previous_webhook_secret("org_a", actor="cli:anna") for _ in range(2)]

    assert ended == [True, False]
    assert await tenants.webhook_secrets("org_a") == ("whsec_2",)
    audited = await PostgresAuditTrail(database).list(organization_id="org_a", limit=10)
    assert [entry.action for entry in audited] == [
        "organization.webhook_secret_ended",
        "organization.webhook_secret_set",
        "organization.webhook_secret_set",
    ]


async def test_a_secret_copied_to_another_organization_is_refused(
    organizations: PostgresOrganizations, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await add_organization(database, "org_b")
    await organizations.set_webhook_secret("org_a", SecretStr("whsec_x"), overlap_s=60, actor="cli:anna")

    await database.system().execute(
        "UPDATE organizations SET webhook_secret = (SELECT webhook_secret FROM organizations WHERE id = 'org_a')"
    )

    with pytest.raises(CredentialsError):
        await tenants.webhook_secrets("org_b")


# --- workspaces ------------------------------------------------------------------------------------------------------


async def test_an_installed_workspace_is_found_by_event_and_by_id(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")

    by_event = await tenants.workspace_by_installation(None, "T1")

    assert by_event is not None
    assert by_event == await tenants.workspace("org_a", "wsp_1")
    assert by_event.active
    assert by_event.bot_token.get_secret_value() == "xoxb-1"
    assert "xoxb-1" not in repr(by_event)


async def test_a_workspace_is_not_found_through_another_organization(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await add_organization(database, "org_b")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")

    assert await tenants.workspace("org_b", "wsp_1") is None


@pytest.mark.parametrize(
    ("installed", "event", "found"),
    [
        pytest.param(("E1", None), ("E1", "T1"), True, id="an org-wide installation covers its teams"),
        pytest.param((None, "T1"), ("E1", "T1"), True, id="installed by a token that named no enterprise"),
        pytest.param(("E1", "T1"), ("E1", "T1"), True, id="exactly this one"),
        pytest.param(("E1", "T1"), (None, "T1"), False, id="another enterprise's team is not guessed"),
        pytest.param(("E1", None), ("E2", "T1"), False, id="another enterprise"),
        pytest.param((None, "T1"), (None, "T2"), False, id="another team"),
        pytest.param((None, "T1"), (None, None), False, id="an event that names nobody"),
    ],
)
async def test_events_find_the_installation_that_covers_them(
    installed: tuple[str | None, str | None],
    event: tuple[str | None, str | None],
    found: bool,
    workspaces: PostgresWorkspaces,
    tenants: PostgresTenants,
    database: Database,
) -> None:
    await add_organization(database, "org_a")
    enterprise_id, team_id = installed
    await workspaces.save("org_a", "wsp_1", installation(team_id, enterprise_id), actor="cli:anna")

    assert (await tenants.workspace_by_installation(*event) is not None) is found


async def test_an_active_org_wide_installation_wins_over_a_teams_ended_one(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation("T1", "E1"), actor="cli:anna")
    await workspaces.save("org_a", "wsp_2", installation(None, "E1"), actor="cli:anna")
    await workspaces.end("org_a", "wsp_1", actor="cli:anna", reason="test")

    found = await tenants.workspace_by_installation("E1", "T1")

    assert found is not None
    assert found.id == "wsp_2"


async def test_installing_again_replaces_the_token_and_makes_it_active(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    await workspaces.end("org_a", "wsp_1", actor="cli:anna", reason="test")

    again = await workspaces.save("org_a", "wsp_1", installation(bot_token=SecretStr("xoxb-2")), actor="cli:anna")

    assert again is not None
    assert again.active
    found = await tenants.workspace("org_a", "wsp_1")
    assert found is not None
    assert found.bot_token.get_secret_value() == "xoxb-2"


async def test_an_installation_of_another_organization_is_left_alone(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await add_organization(database, "org_b")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")

    assert (
        await workspaces.save("org_b", "wsp_2", installation(bot_token=SecretStr("xoxb-evil")), actor="cli:eve") is None
    )

    found = await tenants.workspace_by_installation(None, "T1")
    assert found is not None
    assert (found.organization_id, found.bot_token.get_secret_value()) == ("org_a", "xoxb-1")


async def test_an_ended_workspace_is_inactive_and_its_token_forgotten(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    await tenants.workspace_by_installation(None, "T1")

    await tenants.end_workspace("org_a", "wsp_1", reason="app_uninstalled")

    found = await tenants.workspace_by_installation(None, "T1")
    assert found is not None
    assert not found.active
    assert found.bot_token.get_secret_value() == ""
    entries = await PostgresAuditTrail(database).list(organization_id="org_a", limit=1)
    assert (entries[0].actor, entries[0].detail) == ("slack", {"reason": "app_uninstalled"})
    for organization in ("org_a", None):
        (listed,) = await workspaces.list(organization)
        assert (listed.active, listed.ended_reason) == (False, "app_uninstalled")

    again = await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    assert again is not None
    assert (again.active, again.ended_reason) == (True, None)


async def test_a_workspace_ends_only_once_in_the_audit_log(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")

    assert await workspaces.end("org_a", "wsp_1", actor="cli:anna", reason="x")
    assert not await workspaces.end("org_a", "wsp_1", actor="cli:anna", reason="x")
    await tenants.end_workspace("org_a", "wsp_1", reason="app_uninstalled")

    entries = await PostgresAuditTrail(database).list(organization_id="org_a", limit=10)
    assert [entry.action for entry in entries].count(AuditAction.WORKSPACE_ENDED) == 1


async def test_an_installation_that_slack_ended_is_not_ended_where_a_later_one_took_its_place(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    refused = await tenants.workspace("org_a", "wsp_1")
    assert refused is not None
    await workspaces.save("org_a", "wsp_1", installation(), actor="slack")

    await tenants.end_workspace("org_a", "wsp_1", reason="token_revoked", installed_at=refused.installed_at)
    ended = await workspaces.end(
        "org_a", "wsp_1", actor="doctor", reason="token_revoked", installed_at=refused.installed_at
    )

    now = await tenants.workspace("org_a", "wsp_1", afresh=True)
    assert not ended
    assert now is not None
    assert (now.active, now.bot_token.get_secret_value()) == (True, "xoxb-1")


async def test_an_installation_that_slack_ended_makes_room_for_the_next(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    refused = await tenants.workspace("org_a", "wsp_1")
    assert refused is not None

    ended = await workspaces.end(
        "org_a", "wsp_1", actor="doctor", reason="token_revoked", installed_at=refused.installed_at
    )
    await workspaces.save("org_a", "wsp_1", installation(), actor="slack")

    now = await tenants.workspace("org_a", "wsp_1", afresh=True)
    assert (ended, now is not None and now.active) == (True, True)


async def test_what_another_process_ended_is_seen_after_a_moment(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database, stopwatch: Stopwatch
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    await tenants.workspace_by_installation(None, "T1")
    await workspaces.end("org_a", "wsp_1", actor="cli:anna", reason="x")

    remembered = await tenants.workspace_by_installation(None, "T1")
    stopwatch.now += 2.0
    seen = await tenants.workspace_by_installation(None, "T1")

    assert remembered is not None
    assert seen is not None
    assert (remembered.active, seen.active) == (True, False)


async def test_a_new_workspace_is_seen_at_once_after_a_miss(
    workspaces: PostgresWorkspaces, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    assert await tenants.workspace_by_installation(None, "T1") is None

    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")

    assert await tenants.workspace_by_installation(None, "T1") is not None


# --- tokens and keys -------------------------------------------------------------------------------------------------


async def _add_token(access: PostgresAccess, *, expires_in_s: float | None = None) -> None:
    await access.add_token(
        "tok_1",
        b"hash",
        organization_id="org_a",
        name="ci",
        expires_in_s=expires_in_s,
        actor="cli:anna",
    )


async def test_a_token_is_found_by_its_hash_until_it_is_revoked(
    access: PostgresAccess, tenants: PostgresTenants, database: Database, stopwatch: Stopwatch
) -> None:
    await add_organization(database, "org_a")
    await _add_token(access, expires_in_s=3600)
    found = await tenants.token(b"hash")

    first = await access.revoke_token("tok_1", actor="cli:anna")
    second = await access.revoke_token("tok_1", actor="cli:anna")
    stopwatch.now += 2.0

    assert found is not None
    assert (found.id, found.organization_id) == ("tok_1", "org_a")
    assert found.expires_at is not None
    assert first is not None
    assert first == second
    assert await tenants.token(b"hash") is None
    assert await access.revoke_token("tok_none", actor="cli:anna") is None


async def test_an_expired_token_is_refused(
    access: PostgresAccess, tenants: PostgresTenants, database: Database
) -> None:
    await add_organization(database, "org_a")
    await _add_token(access, expires_in_s=-1)

    assert await tenants.token(b"hash") is None


async def test_a_submit_key_is_read_back_until_it_is_revoked(
    access: PostgresAccess, tenants: PostgresTenants, database: Database, stopwatch: Stopwatch
) -> None:
    await add_organization(database, "org_a")
    await access.add_submit_key("key_1", SecretStr("nbk_x"), organization_id="org_a", name="etl", actor="cli:anna")
    found = await tenants.submit_key("key_1")

    await access.revoke_submit_key("key_1", actor="cli:anna")
    stopwatch.now += 2.0

    assert found is not None
    assert (found.organization_id, found.secret.get_secret_value()) == ("org_a", "nbk_x")
    assert await tenants.submit_key("key_1") is None
    assert [key.revoked_at is not None for key in await access.submit_keys("org_a")] == [True]


async def test_a_disabled_organization_is_refused_everywhere(
    organizations: PostgresOrganizations,
    workspaces: PostgresWorkspaces,
    access: PostgresAccess,
    tenants: PostgresTenants,
    database: Database,
) -> None:
    await add_organization(database, "org_a")
    await workspaces.save("org_a", "wsp_1", installation(), actor="cli:anna")
    await _add_token(access)
    await access.add_submit_key("key_1", SecretStr("nbk_x"), organization_id="org_a", name="etl", actor="cli:anna")

    await organizations.set_disabled("org_a", disabled=True, actor="cli:anna")

    workspace = await tenants.workspace_by_installation(None, "T1")
    assert workspace is not None
    assert not workspace.active
    assert await tenants.token(b"hash") is None
    assert await tenants.submit_key("key_1") is None


async def test_a_nonce_is_good_for_one_use_per_key(tenants: PostgresTenants) -> None:
    assert await tenants.use_nonce("key_1", "n")
    assert not await tenants.use_nonce("key_1", "n")
    assert await tenants.use_nonce("key_2", "n")


async def test_limits_change_with_their_old_and_new_values_in_the_audit_log(
    organizations: PostgresOrganizations, database: Database
) -> None:
    await organizations.create(_new("Acme"), actor="cli:anna")

    await organizations.set_limits("org_a", parse_change(["in_flight=20", "queued=none"]), actor="cli:anna")
    changed = await organizations.set_limits("org_a", parse_change(["in_flight=5", "queued=unset"]), actor="cli:ben")

    assert changed is not None
    assert changed.limits == {"in_flight": 5}
    second, first, _ = await PostgresAuditTrail(database).list(organization_id="org_a", limit=3)
    assert (first.action, first.actor) == (AuditAction.ORGANIZATION_LIMITS_SET, "cli:anna")
    assert first.detail == {"in_flight": {"old": "plan", "new": 20}, "queued": {"old": "plan", "new": None}}
    assert second.detail == {"in_flight": {"old": 20, "new": 5}, "queued": {"old": None, "new": "plan"}}


async def test_limits_of_an_unknown_organization_are_not_set(organizations: PostgresOrganizations) -> None:
    assert await organizations.set_limits("org_none", parse_change(["queued=1"]), actor="cli:anna") is None
