import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from config.setting_groups import GROUPS
from config.settings import Settings, SettingsError, env_example, load_settings, settings_of

KEY = base64.urlsafe_b64encode(bytes(32)).decode()
OTHER_KEY = base64.urlsafe_b64encode(bytes([1] * 32)).decode()
REQUIRED = {
    "NUBABEL_ENVIRONMENT": "development",
    "NUBABEL_DATABASE_URL": "postgresql://postgres:owner-pw@db:5432/nubabel?sslmode=require",
    "NUBABEL_BROKER_URL": "redis://broker:6379/0",
    "NUBABEL_CACHE_URL": "redis://cache:6379/1",
    "NUBABEL_ENCRYPTION_KEYS": KEY,
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing but the required settings."""
    import os

    for name in list(os.environ):
        if name.startswith("NUBABEL_"):
            monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_required_settings_suffice_for_development(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(None)

    assert settings.broker_url.get_secret_value() == "redis://broker:6379/0"
    assert settings.claim_batch == 32
    assert settings.slack_mode == "off"


def test_every_missing_setting_is_named_with_an_example_in_one_message(environment: pytest.MonkeyPatch) -> None:
    for name in ("NUBABEL_BROKER_URL", "NUBABEL_DATABASE_URL", "NUBABEL_ENCRYPTION_KEYS"):
        environment.delenv(name)

    with pytest.raises(SettingsError) as caught:
        load_settings(None)

    assert "NUBABEL_BROKER_URL: is missing, e.g. redis://" in str(caught.value)
    assert "NUBABEL_DATABASE_URL: is missing, e.g. postgresql://" in str(caught.value)
    assert "NUBABEL_ENCRYPTION_KEYS: is missing; `nubabel keys generate` makes one" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NUBABEL_BROKER_URL", "amqp://broker", "must be a URL beginning with redis:// or rediss://"),
        ("NUBABEL_DATABASE_URL", "mysql://db", "must be a URL beginning with postgresql:// or postgres://"),
        ("NUBABEL_HTTP_PORT", "70000", "less than or equal to 65535"),
        ("NUBABEL_LEASE_S", "1", "greater than or equal to 3"),
        ("NUBABEL_HINT_FLAG_MS", "5000", "less than or equal to 1000"),
        ("NUBABEL_OPERATOR_TOKENS", "night:abc", "entry 1 is not a line of"),
        ("NUBABEL_OPERATOR_TOKENS", "nbo_the-token-itself", "entry 1 is not a line of"),
        ("NUBABEL_SLACK_MODE", "both", "'events', 'socket' or 'off'"),
        ("NUBABEL_ENCRYPTION_KEYS", f"{KEY},hunter2", "key 2 is not a key made by"),
        ("NUBABEL_ENCRYPTION_KEYS", ",", "at least 1 item"),
        ("NUBABEL_PUBLIC_URL", "nubabel.example.com", "must be a URL beginning with https://"),
        ("NUBABEL_FLOWER_BASIC_AUTH", "hunter2", "must be user:password"),
        ("NUBABEL_REDIS_CA_FILE", "/no/such/hunter2.pem", "does not point to a file"),
    ],
)
def test_a_bad_value_is_explained_without_repeating_it(
    environment: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    environment.setenv(variable, value)

    with pytest.raises(SettingsError) as caught:
        load_settings(None)

    assert f"{variable}: " in str(caught.value)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"SLACK_MODE": "events"}, "NUBABEL_SLACK_SIGNING_SECRET is needed for slack_mode events"),
        ({"SLACK_MODE": "socket"}, "NUBABEL_SLACK_APP_TOKEN is needed for slack_mode socket"),
        ({"SLACK_BOT_TOKEN": "xoxb-1"}, "also needs NUBABEL_SLACK_TEAM_ID, NUBABEL_SLACK_ORGANIZATION"),
        ({"SLACK_CLIENT_ID": "1.2"}, "NUBABEL_SLACK_CLIENT_ID and NUBABEL_SLACK_CLIENT_SECRET belong together"),
        ({"ENVIRONMENT": "production"}, "NUBABEL_TENANT_DATABASE_URL is needed in production"),
        ({"ENVIRONMENT": "production", "PUBLIC_URL": "http://x"}, "must begin with https:// in production"),
        ({"DATABASE_POOL_MIN": "11"}, "NUBABEL_DATABASE_POOL_MIN is larger than"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    environment: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for name, value in given.items():
        environment.setenv(f"NUBABEL_{name}", value)

    with pytest.raises(SettingsError) as caught:
        load_settings(None)

    assert expected in str(caught.value)


def test_lists_are_separated_by_commas(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NUBABEL_ENCRYPTION_KEYS", f"{KEY}, {OTHER_KEY}")
    environment.setenv("NUBABEL_EGRESS_ALLOW", "127.0.0.1:9000,hooks.internal:443")

    settings = load_settings(None)

    assert [key.get_secret_value() for key in settings.encryption_keys] == [KEY, OTHER_KEY]
    assert settings.egress_allow == ("127.0.0.1:9000", "hooks.internal:443")


def test_an_empty_variable_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NUBABEL_METRICS_PORT", "")

    assert load_settings(None).metrics_port is None


@pytest.mark.parametrize(
    ("owner_url", "tenant_dsn"),
    [
        (
            "postgresql://postgres:pw@db:5432/nubabel?sslmode=require",
            "postgresql://nubabel_tenant@db:5432/nubabel?sslmode=require",
        ),
        ("postgresql://postgres@/nubabel?host=/tmp/run", "postgresql://nubabel_tenant@/nubabel?host=/tmp/run"),
    ],
)
def test_without_its_own_url_a_role_uses_the_owners_database(
    environment: pytest.MonkeyPatch, owner_url: str, tenant_dsn: str
) -> None:
    environment.setenv("NUBABEL_DATABASE_URL", owner_url)

    settings = load_settings(None)

    assert settings.tenant_dsn == tenant_dsn
    assert settings.system_dsn == tenant_dsn.replace("nubabel_tenant", "nubabel_system")


def test_a_roles_own_url_wins(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NUBABEL_TENANT_DATABASE_URL", "postgresql://nubabel_tenant:pw@db/nubabel")

    assert load_settings(None).tenant_dsn == "postgresql://nubabel_tenant:pw@db/nubabel"


def test_no_secret_shows_in_the_repr(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NUBABEL_SLACK_SIGNING_SECRET", "hunter2")

    shown = repr(load_settings(None))

    assert "hunter2" not in shown
    assert "owner-pw" not in shown
    assert KEY not in shown


def test_settings_do_not_change(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(None)

    with pytest.raises(ValueError, match="frozen"):
        settings.lease_s = 5  # type: ignore[misc]  # the point of the test


def test_a_file_is_read_and_the_environment_wins(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("NUBABEL_CLAIM_BATCH=5\nNUBABEL_ENVIRONMENT=production\n")

    settings = load_settings(env_file)

    assert settings.claim_batch == 5
    assert settings.environment == "development"


def test_settings_of_another_process_are_read_from_its_environment_alone(environment: pytest.MonkeyPatch) -> None:
    theirs = REQUIRED | {"NUBABEL_SLACK_MODE": "off", "NUBABEL_LEASE_S": "", "PATH": "/bin"}
    environment.setenv("NUBABEL_SYSTEM_DATABASE_URL", "postgresql://ours@db/ours")
    environment.setenv("NUBABEL_LEASE_S", "77")

    settings = settings_of(theirs)

    assert "ours" not in settings.system_dsn
    assert settings.lease_s == Settings.model_fields["lease_s"].default


def test_what_does_not_fit_there_is_named(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="NUBABEL_LATE_NOTICE_S: "):
        settings_of(REQUIRED | {"NUBABEL_LATE_NOTICE_S": "soon"})


def test_a_named_file_that_does_not_exist_is_said(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NUBABEL_ENV_FILE", "/nowhere/env")

    with pytest.raises(SettingsError, match="NUBABEL_ENV_FILE names /nowhere/env, which does not exist"):
        load_settings()


def test_the_env_example_lists_every_setting_of_this_version() -> None:
    written = Path(".env.example").read_text(encoding="utf-8")

    assert written == env_example(), "run: python -m config.settings --env-example > .env.example"


def test_every_setting_belongs_to_a_group_and_is_described() -> None:
    grouped = {name for group in GROUPS for name in group.model_fields}

    assert grouped == set(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_where_only_some_words_fit_they_are_named_with_the_setting() -> None:
    for name, field in Settings.model_fields.items():
        for word in words_of(field.annotation):
            assert re.search(rf"\b{word}\b", f"{field.description} {field.default}"), f"{name} does not name {word}"


def words_of(annotation: Any) -> Iterator[str]:
    """Of Literals, also where None fits as well."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from words_of(part)


def test_the_env_example_with_its_blanks_filled_is_valid(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    uncommented = env_example().replace("#NUBABEL_", "NUBABEL_")
    env_file.write_text(uncommented.replace("NUBABEL_ENCRYPTION_KEYS=\n", f"NUBABEL_ENCRYPTION_KEYS={KEY}\n"))
    for name in REQUIRED:
        environment.delenv(name)
    environment.setenv("NUBABEL_ENVIRONMENT", "development")

    settings = load_settings(env_file)

    for name, field in Settings.model_fields.items():
        if not field.is_required() and name != "environment":
            assert getattr(settings, name) == field.default, name
