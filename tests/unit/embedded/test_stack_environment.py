"""The embedded processes see the stack's settings and nothing of the user's own."""

import os
from pathlib import Path

import pytest
from dotenv import dotenv_values

from config.settings import Settings
from nubabel_workers.embedded.stack_environment import (
    StackAddresses,
    StackSecrets,
    base_environment,
    settings_environment,
    write_env_file,
)

_ADDRESSES = StackAddresses(
    database_url="postgresql://postgres@/nubabel?host=/tmp/x",
    broker_url="redis://127.0.0.1:1/0",
    cache_url="redis://127.0.0.1:1/1",
    slack_url="http://127.0.0.1:2",
    http_port=3,
    flower_port=4,
)


def test_settings_of_the_user_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUBABEL_ENVIRONMENT", "production")
    monkeypatch.setenv("SOME_TOKEN", "private")

    environment = base_environment()

    assert environment["NUBABEL_ENV_FILE"] == os.devnull
    assert not {"NUBABEL_ENVIRONMENT", "SOME_TOKEN"} & set(environment)


@pytest.mark.parametrize("slack_mode", ["socket", "events"])
def test_the_environment_makes_valid_settings(monkeypatch: pytest.MonkeyPatch, slack_mode: str) -> None:
    for name in [name for name in os.environ if name.startswith("NUBABEL_")]:
        monkeypatch.delenv(name)
    made = settings_environment(_ADDRESSES, StackSecrets(), slack_mode=slack_mode, overrides={"lease_s": "3"})
    for name, value in made.items():
        monkeypatch.setenv(name, value)

    settings = Settings()

    assert settings.slack_mode == slack_mode
    assert settings.slack_api_base_url == "http://127.0.0.1:2/api"
    assert settings.http_port == 3
    assert settings.lease_s == 3


def test_secrets_differ_between_stacks_and_are_not_shown() -> None:
    one, other = StackSecrets(), StackSecrets()

    assert one.encryption_key != other.encryption_key
    assert one.flower_password not in repr(one)


@pytest.mark.parametrize("value", ["plain", "it's", r"back\slash", r"\'", 'a "quoted" word', "# no comment", "two  "])
def test_the_file_of_a_stacks_settings_gives_every_value_back(tmp_path: Path, value: str) -> None:
    written = {"NUBABEL_LOG_FORMAT": "json", "NUBABEL_FALLBACK_MODEL": value, "NUBABEL_LEASE_S": "3"}

    write_env_file(tmp_path / "env", written)

    assert dotenv_values(tmp_path / "env") == written
