"""Organizations as operators handle them: names, policies, what is said when something doesn't fit."""

import pytest

from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.tenants import BusyPolicy, Organization, PolicyChange
from nubabel_workers.services.manage_organizations import ManageOrganizations
from tests.fakes.administration import FakeOrganizations
from tests.fakes.clock import FakeChance

ACME = Organization(OrganizationId("org_a"), "Acme")


@pytest.fixture
def registry() -> FakeOrganizations:
    return FakeOrganizations()


@pytest.fixture
def manage(registry: FakeOrganizations) -> ManageOrganizations:
    return ManageOrganizations(registry, FakeChance(), lambda count: b"r" * count)


async def test_a_new_organization_gets_an_id_and_keeps_its_creator(
    manage: ManageOrganizations, registry: FakeOrganizations
) -> None:
    created = await manage.create("  Acme ", busy_policy=BusyPolicy.REJECT, actor="cli:anna")

    assert created.id.startswith("org_")
    assert (created.name, created.busy_policy) == ("Acme", BusyPolicy.REJECT)
    assert registry.actors == ["cli:anna"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "two\nlines", "bell\x07"])
async def test_a_name_that_cannot_be_read_is_refused(name: str, manage: ManageOrganizations) -> None:
    with pytest.raises(InvalidInputError, match="an organization's name"):
        await manage.create(name, actor="cli:anna")


async def test_a_taken_name_is_refused(manage: ManageOrganizations, registry: FakeOrganizations) -> None:
    registry.put(ACME)

    with pytest.raises(InvalidInputError, match="exists already"):
        await manage.create("acme", actor="cli:anna")


async def test_an_organization_is_meant_by_id_or_by_name(
    manage: ManageOrganizations, registry: FakeOrganizations
) -> None:
    registry.put(ACME)

    assert await manage.resolve("org_a") is ACME
    assert await manage.resolve("ACME") is ACME
    with pytest.raises(NotFoundError, match="nubabel orgs list"):
        await manage.resolve("Acne")


async def test_an_ambiguous_name_asks_for_an_id(manage: ManageOrganizations, registry: FakeOrganizations) -> None:
    registry.put(ACME)
    registry.put(Organization(OrganizationId("org_b"), "acme"))

    with pytest.raises(InvalidInputError, match="org_a, org_b"):
        await manage.resolve("Acme")


async def test_an_id_wins_over_an_organization_named_like_it(
    manage: ManageOrganizations, registry: FakeOrganizations
) -> None:
    registry.put(Organization(OrganizationId("org_b"), "org_a"))
    registry.put(ACME)

    assert await manage.resolve("org_a") is ACME


async def test_disabled_ones_can_be_left_out_of_the_list(
    manage: ManageOrganizations, registry: FakeOrganizations
) -> None:
    registry.put(ACME)
    await manage.disable(ACME, actor="cli:anna")

    assert len(await manage.list()) == 1
    assert await manage.list(include_disabled=False) == []
    assert (await manage.enable(ACME, actor="cli:anna")).disabled_at is None


async def test_a_policy_change_of_nothing_is_refused(manage: ManageOrganizations, registry: FakeOrganizations) -> None:
    registry.put(ACME)

    with pytest.raises(InvalidInputError, match="nothing to change"):
        await manage.set_policy(ACME, PolicyChange(), actor="cli:anna")

    changed = await manage.set_policy(ACME, PolicyChange(busy_policy=BusyPolicy.INTERRUPT), actor="cli:anna")
    assert changed.busy_policy is BusyPolicy.INTERRUPT


async def test_a_webhook_secret_has_the_standards_form(
    manage: ManageOrganizations, registry: FakeOrganizations
) -> None:
    registry.put(ACME)

    secret = await manage.new_webhook_secret(ACME, actor="cli:anna")

    assert secret.get_secret_value() == "whsec_cnJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnI="
    assert registry.secrets["org_a"] == secret
    assert registry.overlaps_s["org_a"] == 86400


async def test_an_organization_deleted_meanwhile_is_not_found(manage: ManageOrganizations) -> None:
    with pytest.raises(NotFoundError, match="does not exist any more"):
        await manage.disable(ACME, actor="cli:anna")
