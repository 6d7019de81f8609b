"""Slack's events are handed on; the installation stays in the browser, and the organization, that it began with."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import Request, Response
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from nubabel_workers.adapters.slack.oauth import InstallState
from nubabel_workers.domain.administration import Installation, WorkspaceSummary
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.ids import OrganizationId, WorkspaceId
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.gateway.app import create_app
from nubabel_workers.gateway.dependencies import SlackParts
from nubabel_workers.services.install_workspace import InstallWorkspace
from tests.fakes.front_door import ACME, FrontDoor

KEY = SecretStr("a key")


class FakeOAuth:
    def authorize_url(self, state: str) -> str:
        return f"https://slack.example/authorize?state={state}"

    async def exchange(self, code: str) -> Installation:
        assert code == "good"
        return Installation("T1", None, "Team <One>", "UBOT", SecretStr("xoxb-1"))


class FakeWorkspaces:
    def __init__(self) -> None:
        self.installed: list[str] = []
        self.refusal = ""

    async def install(self, organization: Organization, installation: Installation, *, actor: str) -> WorkspaceSummary:
        if self.refusal:
            raise InvalidInputError(self.refusal)
        self.installed.append(organization.id)
        return WorkspaceSummary(
            WorkspaceId("wsp_1"),
            OrganizationId(organization.id),
            installation.team_id or "",
            None,
            installation.team_name,
            installation.bot_user_id,
            active=True,
            installed_at=datetime(2026, 11, 21, tzinfo=UTC),
            revoked_at=None,
        )


async def events(request: Request) -> Response:
    return Response(await request.body(), headers={"x-seen": "1"})


@pytest.fixture
def workspaces() -> FakeWorkspaces:
    return FakeWorkspaces()


@pytest.fixture
def install(door: FrontDoor, workspaces: FakeWorkspaces) -> InstallWorkspace:
    links, states = InstallState(KEY, timedelta(hours=24)), InstallState(KEY)
    return InstallWorkspace(links, states, FakeOAuth(), door.tenants, workspaces, door.clock, door.chance)  # type: ignore[arg-type] # one method of ManageWorkspaces is used


@pytest.fixture
async def browser(door: FrontDoor, install: InstallWorkspace) -> AsyncIterator[httpx.AsyncClient]:
    slack = SlackParts(events=events, install=install)
    app = create_app(replace(door.parts, slack=slack, registry=CollectorRegistry()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://gateway") as client:
        yield client


async def state_after_leaving(browser: httpx.AsyncClient, install: InstallWorkspace) -> str:
    answer = await browser.get("/slack/install", params={"link": install.link(ACME)})
    assert answer.status_code == 302
    return parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]


async def test_events_reach_their_handler_unread(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/slack/events", content=b'{"raw": 1}')

    assert (answer.content, answer.headers["x-seen"]) == (b'{"raw": 1}', "1")


async def test_the_organization_of_the_link_gets_the_workspace(
    browser: httpx.AsyncClient, install: InstallWorkspace, workspaces: FakeWorkspaces
) -> None:
    state = await state_after_leaving(browser, install)

    answer = await browser.get("/slack/oauth_redirect", params={"state": state, "code": "good"})

    assert answer.status_code == 200
    assert "Team &lt;One&gt;" in answer.text
    assert workspaces.installed == [ACME.id]


async def test_the_cookie_is_for_our_eyes_only(browser: httpx.AsyncClient, install: InstallWorkspace) -> None:
    answer = await browser.get("/slack/install", params={"link": install.link(ACME)})

    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "secure", "samesite=lax", "path=/slack", "max-age=600"))


async def test_another_browser_cannot_complete_it(
    browser: httpx.AsyncClient, install: InstallWorkspace, workspaces: FakeWorkspaces
) -> None:
    state = await state_after_leaving(browser, install)
    browser.cookies.clear()

    answer = await browser.get("/slack/oauth_redirect", params={"state": state, "code": "good"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_state")
    assert workspaces.installed == []


async def test_a_link_ends_after_a_day(door: FrontDoor, browser: httpx.AsyncClient, install: InstallWorkspace) -> None:
    link = install.link(ACME)
    door.clock.advance(25 * 3600)

    answer = await browser.get("/slack/install", params={"link": link})

    assert (answer.status_code, answer.json()["code"]) == (422, "expired_state")


@pytest.mark.parametrize("link", ["x", "a.b", "eyJ9.!!"])
async def test_a_link_that_is_not_ours_leads_nowhere(browser: httpx.AsyncClient, link: str) -> None:
    answer = await browser.get("/slack/install", params={"link": link})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_state")


async def test_declining_at_slack_installs_nothing(
    browser: httpx.AsyncClient, install: InstallWorkspace, workspaces: FakeWorkspaces
) -> None:
    state = await state_after_leaving(browser, install)

    answer = await browser.get("/slack/oauth_redirect", params={"state": state, "error": "access_denied"})

    assert (answer.status_code, answer.json()["code"]) == (400, "installation_declined")
    assert workspaces.installed == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param("/slack/install?link=x", "link", id="a link that is not ours"),
        pytest.param("/slack/install", "does not fit", id="no link"),
        pytest.param("/slack/oauth_redirect?state=x&code=good", "", id="a state that is not ours"),
    ],
)
async def test_a_refused_person_is_shown_a_page(browser: httpx.AsyncClient, asked: str, words: str) -> None:
    answer = await browser.get(asked, headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})

    assert (answer.status_code, answer.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert words in answer.text
    assert answer.headers["x-correlation-id"] in answer.text
    assert "{" not in answer.text


async def test_a_person_who_installs_another_organizations_workspace_is_shown_a_page_without_its_name(
    browser: httpx.AsyncClient, install: InstallWorkspace, workspaces: FakeWorkspaces
) -> None:
    state = await state_after_leaving(browser, install)
    workspaces.refusal = "the Slack workspace 'Team <One>' belongs to another organization"

    answer = await browser.get(
        "/slack/oauth_redirect", params={"state": state, "code": "good"}, headers={"accept": "text/html"}
    )

    assert answer.status_code == 422
    assert "<p>The Slack workspace &#x27;Team &lt;One&gt;&#x27; belongs to another organization." in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_without_slack_its_paths_do_not_exist(http: httpx.AsyncClient) -> None:
    assert (await http.post("/slack/events", content=b"{}")).status_code == 404
    assert (await http.get("/slack/install")).status_code == 404
