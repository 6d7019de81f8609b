"""Installing into a workspace: what goes out to the browser, what is believed when it comes back."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.slack.oauth import Installation, InstallState, authorize_url, exchange_code
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, UncertainError
from nubabel_workers.simulators.slack import Fault, FaultKind, SlackSimulator

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STATE = InstallState(SecretStr("state-key"))


def test_state_names_the_organization_that_started() -> None:
    state = STATE.issue("org_1", nonce="n", now=NOW)

    assert STATE.verify(state, nonce="n", now=NOW + timedelta(minutes=9)) == "org_1"


def test_state_expires() -> None:
    state = STATE.issue("org_1", nonce="n", now=NOW)

    with pytest.raises(InvalidInputError) as refused:
        STATE.verify(state, nonce="n", now=NOW + timedelta(minutes=11))

    assert refused.value.code == "expired_state"


def test_state_of_another_browser_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="another browser"):
        STATE.verify(STATE.issue("org_1", nonce="mine", now=NOW), nonce="yours", now=NOW)


@pytest.mark.parametrize("state", ["", ".", "x", "x.y", "가.나", "e30.e30", "!!!.???"])
def test_state_that_is_not_ours_is_refused(state: str) -> None:
    with pytest.raises(InvalidInputError):
        STATE.verify(state, nonce="n", now=NOW)


def test_state_signed_with_another_key_is_refused() -> None:
    forged = InstallState(SecretStr("another")).issue("org_evil", nonce="n", now=NOW)

    with pytest.raises(InvalidInputError):
        STATE.verify(forged, nonce="n", now=NOW)


def test_changed_claims_break_the_signature() -> None:
    ours, theirs = STATE.issue("org_1", nonce="n", now=NOW), STATE.issue("org_2", nonce="n", now=NOW)

    with pytest.raises(InvalidInputError):
        STATE.verify(ours.split(".")[0] + "." + theirs.split(".")[1], nonce="n", now=NOW)


def test_authorize_url_carries_scopes_and_state() -> None:
    url = urlsplit(authorize_url(client_id="1.2", state="a.b", redirect_uri="https://nub.example/back"))

    query = parse_qs(url.query)
    assert (url.netloc, url.path) == ("slack.com", "/oauth/v2/authorize")
    assert query["state"] == ["a.b"]
    assert query["redirect_uri"] == ["https://nub.example/back"]
    assert "chat:write" in query["scope"][0].split(",")


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator() as simulator:
        yield simulator


async def exchange(slack: SlackSimulator, code: str, secret: str | None = None) -> Installation:
    async with aiohttp.ClientSession() as session:
        return await exchange_code(
            session,
            client_id=slack.options.client_id,
            client_secret=SecretStr(secret or slack.options.client_secret),
            code=code,
            base_url=slack.api_url,
        )


async def code_for(slack: SlackSimulator, team_id: str) -> str:
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{slack.base_url}/_sim/oauth_code", json={"team_id": team_id})
        return str((await answer.json())["code"])


async def test_code_becomes_an_installation(slack: SlackSimulator) -> None:
    installation = await exchange(slack, await code_for(slack, "T0NEW"))

    workspace = slack.workspace("T0NEW")
    assert (installation.team_id, installation.enterprise_id) == ("T0NEW", None)
    assert installation.bot_token.get_secret_value() == workspace.bot_token
    assert installation.bot_user_id == workspace.bot_user_id
    assert "chat:write" in installation.scopes
    assert workspace.bot_token not in repr(installation)


async def test_code_is_good_once(slack: SlackSimulator) -> None:
    code = await code_for(slack, "T0NEW")
    await exchange(slack, code)

    with pytest.raises(InvalidInputError, match="invalid_code"):
        await exchange(slack, code)


async def test_wrong_client_secret_is_our_operators_affair(slack: SlackSimulator) -> None:
    with pytest.raises(CredentialsError, match="bad_client_secret"):
        await exchange(slack, "code", secret="wrong")


async def test_lost_answer_leaves_the_installation_open(slack: SlackSimulator) -> None:
    slack.faults.plan(Fault("oauth.v2.access", FaultKind.LOST_ANSWER))

    with pytest.raises(UncertainError):
        await exchange(slack, await code_for(slack, "T0NEW"))
