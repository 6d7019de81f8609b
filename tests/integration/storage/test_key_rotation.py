"""Changing encryption keys while the system works."""

import pytest
from pydantic import SecretStr
from sqlalchemy import LargeBinary

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher, generate_key
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.adapters.storage.key_rotation import SECRET_COLUMNS, PostgresKeyRotation
from nubabel_workers.adapters.storage.models import Base
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.tenants import PostgresTenants
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.domain.administration import RotationReport
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from tests.integration.storage.seeds import add_organization, installation

pytestmark = pytest.mark.integration

_NOT_SECRET = {("service_tokens", "token_hash"), ("mcp_authorizations", "state_hash")}


def test_every_binary_column_is_rotated_or_known_not_to_be_a_secret() -> None:
    binary = {
        (name, column.name)
        for name, table in Base.metadata.tables.items()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }

    assert binary - _NOT_SECRET == set(SECRET_COLUMNS)


async def _set_webhook_secret(database: Database, cipher: TokenCipher, organization_id: str, secret: str) -> None:
    await PostgresOrganizations(database, cipher).set_webhook_secret(
        organization_id, SecretStr(secret), overlap_s=60, actor="t"
    )


async def _store_secrets(database: Database, cipher: TokenCipher) -> None:
    for number in range(5):
        await add_organization(database, f"org_{number}")
        await _set_webhook_secret(database, cipher, f"org_{number}", f"whsec_{number}")
    await PostgresWorkspaces(database, cipher).save("org_0", "wsp_1", installation(), actor="t")
    await PostgresInstances(database, cipher, give_up_after_s=600).add(
        Instance(InstanceId("ins_1"), "http://oc", "opencode", SecretStr("pw")), actor="t"
    )
    for number in (1, 2):
        await PostgresInstances(database, cipher, give_up_after_s=600).add_callback_key(
            "ins_1", SecretStr(f"nck_{number}"), actor="t"
        )


async def test_after_rotation_the_old_key_is_not_needed_any_more(database: Database) -> None:
    old, new = generate_key(), generate_key()
    await _store_secrets(database, TokenCipher([old]))

    report = await PostgresKeyRotation(database, TokenCipher([new, old]), batch=2).rotate()

    assert report == RotationReport(rotated=9, current=0)
    only_new = TokenCipher([new])
    tenants = PostgresTenants(database, only_new)
    assert [await tenants.webhook_secrets(f"org_{n}") for n in range(5)] == [(f"whsec_{n}",) for n in range(5)]
    workspace = await tenants.workspace("org_0", "wsp_1")
    assert workspace is not None
    assert workspace.bot_token == SecretStr("xoxb-1")
    instances = PostgresInstances(database, only_new, give_up_after_s=600)
    assert (await instances.loads())[0].password == SecretStr("pw")
    assert await instances.callback_keys("ins_1") == (SecretStr("nck_2"), SecretStr("nck_1"))


async def test_both_webhook_secrets_of_an_overlap_are_rotated(database: Database) -> None:
    old, new = generate_key(), generate_key()
    await add_organization(database, "org_a")
    for secret in ("whsec_1", "whsec_2"):
        await _set_webhook_secret(database, TokenCipher([old]), "org_a", secret)

    report = await PostgresKeyRotation(database, TokenCipher([new, old])).rotate()

    assert report == RotationReport(rotated=2)
    assert await PostgresTenants(database, TokenCipher([new])).webhook_secrets("org_a") == ("whsec_2", "whsec_1")


async def test_a_second_rotation_finds_nothing_to_do(database: Database) -> None:
    old, new = generate_key(), generate_key()
    await _store_secrets(database, TokenCipher([old]))
    rotation = PostgresKeyRotation(database, TokenCipher([new, old]))
    await rotation.rotate()

    assert await rotation.rotate() == RotationReport(rotated=0, current=9)


async def test_a_secret_of_a_lost_key_is_named_and_does_not_stop_the_others(database: Database) -> None:
    lost, old, new = generate_key(), generate_key(), generate_key()
    await add_organization(database, "org_lost")
    await _set_webhook_secret(database, TokenCipher([lost]), "org_lost", "whsec_x")
    await _store_secrets(database, TokenCipher([old]))

    report = await PostgresKeyRotation(database, TokenCipher([new, old])).rotate()

    assert report == RotationReport(rotated=9, current=0, unreadable=(("organizations", "org_lost"),))


async def test_it_is_counted_how_many_secrets_the_keys_decrypt(database: Database) -> None:
    lost, new = generate_key(), generate_key()
    await _store_secrets(database, TokenCipher([lost]))
    await add_organization(database, "org_new")
    await _set_webhook_secret(database, TokenCipher([new]), "org_new", "whsec_x")

    assert await PostgresKeyRotation(database, TokenCipher([new])).readable() == (1, 10)
    assert await PostgresKeyRotation(database, TokenCipher([new, lost])).readable() == (10, 10)


async def test_the_forgotten_token_of_an_ended_workspace_is_passed_over(database: Database) -> None:
    old, new = generate_key(), generate_key()
    await _store_secrets(database, TokenCipher([old]))
    await PostgresWorkspaces(database, TokenCipher([old])).end("org_0", "wsp_1", actor="t", reason="x")

    report = await PostgresKeyRotation(database, TokenCipher([new, old])).rotate()

    assert report == RotationReport(rotated=8, current=0)
