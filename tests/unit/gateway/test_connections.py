"""An organization's connections over HTTP: what goes in, what comes out, what never does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from nubabel_workers.domain.errors import CredentialsError, UnavailableError
from nubabel_workers.domain.tools import ConnectionStatus
from tests.fakes.front_door import OTHER, FrontDoor
from tests.unit.gateway.conftest import client_of

SECRET = "t0ken-of-acme"


async def add(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/v1/connections", json=body or {"preset": "notion"})
    assert answer.status_code == 201, answer.text
    added: dict[str, Any] = answer.json()
    return added


async def test_a_known_provider_is_connected_by_its_name(http: httpx.AsyncClient) -> None:
    added = await add(http, preset="notion")

    assert added["provider"] == "notion"
    assert added["url"] == "https://mcp.notion.com/mcp"
    assert (added["authentication"], added["status"]) == ("oauth", "pending_authorization")
    assert (await http.get("/v1/connections")).json() == {"data": [added]}
    assert (await http.get("/v1/connections/notion")).json() == added
    assert (await http.get(f"/v1/connections/{added['id']}")).json() == added


async def test_a_given_token_is_never_shown(http: httpx.AsyncClient) -> None:
    added = await http.post("/v1/connections", json={"preset": "github", "token": SECRET})
    replaced = await http.put("/v1/connections/github/credentials", json={"token": f"{SECRET}-2"})
    checked = await http.post("/v1/connections/github/check")

    assert added.json()["status"] == "active"
    assert replaced.status_code == checked.status_code == 200
    for answer in (added, replaced, checked, await http.get("/v1/connections")):
        assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_input"),
        ({"preset": "notion", "url": "https://mcp.example/mcp"}, "invalid_input"),
        ({"preset": "unheard-of"}, "invalid_input"),
        ({"preset": "notion", "token": SECRET}, "invalid_input"),
        ({"url": "https://mcp.example/mcp"}, "invalid_input"),
        ({"url": "https://127.0.0.1/mcp", "provider": "p"}, "egress_refused"),
        ({"url": "http://mcp.example/mcp", "provider": "p"}, "egress_refused"),
        ({"url": "https://u:p@mcp.example/mcp", "provider": "p"}, "invalid_url"),
        ({"url": "https://mcp.example/mcp", "provider": "Not A Name"}, "invalid_request"),
        ({"url": "https://mcp.example/mcp", "provider": "p", "token": "new\nline"}, "invalid_input"),
        ({"command": "rm"}, "not_in_catalogue"),
        ({"command": "/bin/sh"}, "invalid_request"),
        ({"command": "files", "arguments": ["-c"]}, "invalid_request"),
        ({"command": "files", "environment": {"LD_PRELOAD": "x"}}, "invalid_input"),
        ({"preset": "github", "token": SECRET, "client_secret": SECRET}, "invalid_input"),
        ({"preset": "notion", "allowed_tools": []}, "invalid_request"),
        ({"preset": "github", "token": SECRET, "token_header": "X-Key\r\nHost"}, "invalid_input"),
        ({"preset": "github", "token": SECRET, "token_header": "Content-Length"}, "invalid_input"),
        ({"preset": "notion", "token_header": "X-Api-Key"}, "invalid_input"),
    ],
)
async def test_what_does_not_fit_is_explained_without_what_was_sent(
    http: httpx.AsyncClient, body: dict[str, Any], code: str
) -> None:
    answer = await http.post("/v1/connections", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert SECRET not in answer.text


async def test_a_command_server_comes_from_the_operators_catalogue_only(http: httpx.AsyncClient) -> None:
    known = (await http.get("/v1/tool-providers")).json()
    added = await add(http, command="files", environment={"FILES_TOKEN": SECRET})

    assert known["commands"] == [{"name": "files", "environment": ["FILES_TOKEN"]}]
    assert (added["kind"], added["command"], added["url"]) == ("command", "files", None)
    assert "/usr/bin" not in str(known) + str(added)  # how it is started is the operators' matter


async def test_a_name_is_taken_once(http: httpx.AsyncClient) -> None:
    await add(http, preset="notion")

    again = await http.post("/v1/connections", json={"preset": "notion"})
    second = await http.post("/v1/connections", json={"preset": "notion", "provider": "notion-sales"})

    assert (again.status_code, again.json()["code"]) == (409, "connection_exists")
    assert second.status_code == 201


async def test_another_organization_sees_and_changes_nothing(door: FrontDoor, http: httpx.AsyncClient) -> None:
    added = await add(http, preset="notion")

    async with client_of(door, token=door.token(OTHER)) as other:
        path = f"/v1/connections/{added['id']}"
        answers = [
            await other.get(path),
            await other.delete(path),
            await other.post(f"{path}/authorize"),
            await other.post(f"{path}/check"),
            await other.post(f"{path}/disable"),
            await other.put(f"{path}/default", json={"default": True}),
            await other.put(f"{path}/allowed-tools", json={"allowed_tools": None}),
            await other.put(f"{path}/repeatable-tools", json={"repeatable_tools": ["a"]}),
            await other.put(f"{path}/credentials", json={"token": SECRET}),
        ]
        listed = (await other.get("/v1/connections")).json()

    assert {answer.status_code for answer in answers} == {404}
    assert listed == {"data": []}
    assert (await http.get(path)).json() == added


async def test_tools_default_and_status_are_set_in_the_callers_name(door: FrontDoor, http: httpx.AsyncClient) -> None:
    added = await add(http, preset="github", token=SECRET)

    allowed = await http.put("/v1/connections/github/allowed-tools", json={"allowed_tools": ["b", "a"]})
    default = await http.put("/v1/connections/github/default", json={"default": True})
    disabled = await http.post("/v1/connections/github/disable")
    enabled = await http.post("/v1/connections/github/enable")
    removed = await http.delete("/v1/connections/github")

    assert allowed.json()["allowed_tools"] == ["a", "b"]
    assert default.json()["is_default"] is True
    assert (disabled.json()["status"], enabled.json()["status"]) == ("disabled", "active")
    assert (removed.status_code, removed.content) == (204, b"")
    assert (await http.get(f"/v1/connections/{added['id']}")).status_code == 404
    assert all(actor.startswith("token:tok_") for actor in door.tool_connections.actors)


async def test_repeatable_tools_are_a_list_or_what_the_server_says(http: httpx.AsyncClient) -> None:
    added = await add(http, preset="github", token=SECRET)

    answers = [
        await http.put("/v1/connections/github/repeatable-tools", json={"repeatable_tools": value})
        for value in (["b", "a"], [], None, ["a b"])
    ]

    assert added["repeatable_tools"] is None
    assert [answer.json()["repeatable_tools"] for answer in answers[:3]] == [["a", "b"], [], None]
    assert answers[3].status_code == 422


async def test_a_token_may_go_into_a_header_of_its_own(door: FrontDoor, http: httpx.AsyncClient) -> None:
    added = await add(
        http,
        url="https://mcp.example/mcp",
        provider="crm",
        token=SECRET,
        token_header="X-Api-Key",
    )
    await http.post("/v1/connections/crm/check")

    assert added["token_header"] == "X-Api-Key"
    ((_, shown),) = door.tool_servers.asked
    assert shown.headers == {"X-Api-Key": SECRET}


async def authorized(http: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    await add(http, preset="notion")
    link, state = await link_of(http)
    await browser.get(link)
    await browser.get("/connections/callback", params={"state": state, "code": "c"})


async def test_a_removed_connection_is_revoked_at_its_provider(
    door: FrontDoor, http: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    await authorized(http, browser)

    await http.delete("/v1/connections/notion")

    assert door.authorization_servers.revoked == [("refresh_token", "refresh-1"), ("access_token", "access-1")]


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
async def test_a_provider_that_does_not_revoke_holds_no_removal_back(
    door: FrontDoor, http: httpx.AsyncClient, browser: httpx.AsyncClient, trouble: str
) -> None:
    await authorized(http, browser)
    door.authorization_servers.refuses_revocation = trouble == "refuses"
    door.authorization_servers.hold = asyncio.Event() if trouble == "hangs" else None

    removed = await http.delete("/v1/connections/notion")

    assert removed.status_code == 204
    assert (await http.get("/v1/connections/notion")).status_code == 404


@pytest.fixture
async def browser(door: FrontDoor) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(door) as opened:
        yield opened


def browser_of(door: FrontDoor) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(door.app), base_url="https://nubabel.example")


async def link_of(http: httpx.AsyncClient) -> tuple[str, str]:
    """A new authorization link, and the state in it."""
    link = (await http.post("/v1/connections/notion/authorize")).json()["url"]
    return link, parse_qs(urlsplit(link).query)["state"][0]


async def test_the_link_leads_to_the_provider_and_back(http: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    await add(http, preset="notion")
    link, state = await link_of(http)

    sent_on = await browser.get(link)
    back = await browser.get("/connections/callback", params={"state": state, "code": "c"})

    assert link.startswith("https://nubabel.example/connections/authorize?state=")
    asked = parse_qs(urlsplit(sent_on.headers["location"]).query)
    assert (asked["code_challenge_method"], asked["state"]) == (["S256"], [state])
    assert asked["resource"] == ["https://mcp.notion.com/mcp"]
    assert "httponly" in sent_on.headers["set-cookie"].lower()
    assert (back.status_code, back.headers["referrer-policy"]) == (200, "no-referrer")
    assert "notion is connected" in back.text
    assert (await http.get("/v1/connections/notion")).json()["status"] == "active"


async def test_a_provider_that_is_away_is_named(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await add(http, preset="notion")
    door.authorization_servers.away = "mcp.notion.com could not be reached (ClientConnectorDNSError)"

    answer = await http.post("/v1/connections/notion/authorize")

    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert answer.json()["detail"] == f"{door.authorization_servers.away}: nothing was done; send it again later"
    assert answer.headers["retry-after"] == "1"


async def test_a_browser_that_did_not_open_the_link_connects_nothing(
    door: FrontDoor, http: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    await add(http, preset="notion")
    link, state = await link_of(http)
    await browser.get(link)

    async with browser_of(door) as other:
        answer = await other.get("/connections/callback", params={"state": state, "code": "c"})

    assert (answer.status_code, answer.json()["code"]) == (422, "authorization_other_browser")
    assert (await http.get("/v1/connections/notion")).json()["status"] == "pending_authorization"


async def test_a_state_is_good_once_and_a_guessed_one_never(
    http: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    await add(http, preset="notion")
    link, state = await link_of(http)
    await browser.get(link)
    answer, cookies = {"state": state, "code": "c"}, dict(browser.cookies)

    first = await browser.get("/connections/callback", params=answer)
    browser.cookies.update(cookies)
    second = await browser.get("/connections/callback", params=answer)
    guessed = await browser.get("/connections/authorize", params={"state": "guessed"})

    assert first.status_code == 200
    assert [second.json()["code"], guessed.json()["code"]] == ["authorization_unknown"] * 2


async def test_a_check_says_what_is_wrong_and_it_is_kept(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await add(http, preset="github", token=SECRET)
    door.tool_servers.answers = [UnavailableError("the server could not be spoken to")]

    failed = (await http.post("/v1/connections/github/check")).json()
    kept = (await http.get("/v1/connections/github")).json()
    worked = (await http.post("/v1/connections/github/check")).json()

    assert (failed["healthy"], failed["problem"]) == (False, "the server could not be spoken to")
    assert (kept["healthy"], kept["health_detail"]) == (False, "the server could not be spoken to")
    assert (worked["healthy"], worked["tools"]) == (True, ["fetch", "search"])


async def test_a_check_of_refused_credentials_marks_the_connection(door: FrontDoor, http: httpx.AsyncClient) -> None:
    added = await add(http, preset="github", token=SECRET)
    door.tool_servers.answers = [CredentialsError("the server refuses the credentials (HTTP 401)")]

    checked = (await http.post("/v1/connections/github/check")).json()

    assert checked["connection"]["status"] == "refused"
    assert door.tool_connections.rows[added["id"]].connection.status is ConnectionStatus.REFUSED


async def test_without_a_token_nothing_is_told(door: FrontDoor) -> None:
    async with client_of(door) as nobody:
        answers = [await nobody.get("/v1/connections"), await nobody.get("/v1/tool-providers")]

    assert {answer.status_code for answer in answers} == {401}
