"""docs/slack-app-manifest.yaml: what the code needs from Slack, and nothing else."""

from typing import Any

import pytest
import yaml

from nubabel_workers.adapters.slack.oauth import BOT_SCOPES
from tests.unit.deployment.files import ROOT

FILE = ROOT / "docs" / "slack-app-manifest.yaml"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def test_scopes_are_those_that_an_installation_asks_for(manifest: dict[str, Any]) -> None:
    assert sorted(manifest["oauth_config"]["scopes"]["bot"]) == sorted(BOT_SCOPES)


def test_every_event_that_is_acted_on_is_subscribed_to(manifest: dict[str, Any]) -> None:
    events = set(manifest["settings"]["event_subscriptions"]["bot_events"])

    assert events == {
        "app_mention",
        "message.im",
        "message.mpim",
        "message.channels",
        "message.groups",
        "app_uninstalled",
        "tokens_revoked",
    }


def test_it_stays_valid_when_the_events_api_is_chosen() -> None:
    lines = FILE.read_text().splitlines()
    chosen = [line.replace("# request_url", "request_url", 1) for line in lines]

    manifest = yaml.safe_load("\n".join(chosen))

    assert manifest["settings"]["event_subscriptions"]["request_url"].endswith("/slack/events")
    assert manifest["settings"]["interactivity"]["request_url"].endswith("/slack/events")


def test_presses_of_buttons_come_in(manifest: dict[str, Any]) -> None:
    assert manifest["settings"]["interactivity"] == {"is_enabled": True}
