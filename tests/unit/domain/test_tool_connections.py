"""Which connections fit, and what OAuth needs of each."""

import base64
import hashlib
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.oauth import (
    Grant,
    OAuthClient,
    authorization_url,
    check_issuer,
    client_auth_method,
    code_challenge,
    random_text,
)
from nubabel_workers.domain.tool_connections import (
    PRESETS,
    Authentication,
    NewConnection,
    checked_provider,
    checked_repeatable_tools,
    checked_token_header,
    checked_tools,
    first_status,
    target_of,
)
from nubabel_workers.domain.tools import (
    CommandServer,
    ConnectionKind,
    ConnectionStatus,
    ToolConnection,
    ToolCredentials,
)

TOKEN = {"token": SecretStr("t")}
FILES = CommandServer("files", "/bin/files", environment={"MODE": "ro"}, credential_names=frozenset({"KEY"}))
CATALOGUE = {"files": FILES}
GRANT = Grant(
    issuer="https://auth.example",
    authorization_endpoint="https://auth.example/authorize?tenant=1",
    token_endpoint="https://auth.example/token",
    resource="https://mcp.example/mcp",
    redirect_uri="https://nubabel.example/connections/callback",
    client=OAuthClient("c", None, "none"),
    scope="read offline_access",
)


@pytest.mark.parametrize(
    ("new", "provider", "kind", "authentication", "status"),
    [
        (NewConnection(preset="notion"), "notion", "http", "oauth", "pending_authorization"),
        (NewConnection(preset="linear"), "linear", "http", "oauth", "pending_authorization"),
        (NewConnection(preset="linear", secrets=TOKEN), "linear", "http", "token", "active"),
        (NewConnection(preset="github", secrets=TOKEN), "github", "http", "token", "active"),
        (NewConnection(preset="github", client_id="c"), "github", "http", "oauth", "pending_authorization"),
        (NewConnection(preset="notion", provider="wiki"), "wiki", "http", "oauth", "pending_authorization"),
        (NewConnection(url="https://a.example/", provider="a"), "a", "http", "oauth", "pending_authorization"),
        (NewConnection(url="https://a.example/", provider="a", secrets=TOKEN), "a", "http", "token", "active"),
        (
            NewConnection(url="https://a.example/", provider="a", authentication=Authentication.NONE),
            *("a", "http", "none", "active"),
        ),
        (NewConnection(command_name="files"), "files", "command", "none", "active"),
        (
            NewConnection(command_name="files", secrets={"KEY": SecretStr("k")}),
            *("files", "command", "environment", "active"),
        ),
    ],
)
def test_what_is_asked_for_decides_name_kind_and_authentication(
    new: NewConnection, provider: str, kind: str, authentication: str, status: str
) -> None:
    target = target_of(new, CATALOGUE)

    assert (target.provider, target.kind, target.authentication) == (provider, kind, authentication)
    assert first_status(target) == ConnectionStatus(status)
    assert (target.url is None) == (target.kind is ConnectionKind.COMMAND)


@pytest.mark.parametrize(
    "new",
    [
        NewConnection(),
        NewConnection(preset="notion", command_name="files"),
        NewConnection(preset="Notion"),
        NewConnection(preset="notion", authentication=Authentication.TOKEN),
        NewConnection(url="https://a.example/"),
        NewConnection(url="https://a.example/", provider="a", authentication=Authentication.ENVIRONMENT),
        NewConnection(command_name="sh"),
        NewConnection(command_name="files", secrets={"PATH": SecretStr("/opt")}),
        NewConnection(command_name="files", authentication=Authentication.OAUTH),
    ],
)
def test_what_does_not_fit_is_refused(new: NewConnection) -> None:
    with pytest.raises(InvalidInputError):
        target_of(new, CATALOGUE)


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a" * 41, "a/b", "../a"])
def test_names_are_simple(name: str) -> None:
    with pytest.raises(InvalidInputError):
        checked_provider(name)


def test_every_preset_is_a_public_https_address() -> None:
    assert {urlsplit(preset.url).scheme for preset in PRESETS.values()} == {"https"}
    assert set(PRESETS) == {"notion", "linear", "github"}


@pytest.mark.parametrize("names", [[], ["a b"], ["x" * 129], ["é"], [str(number) for number in range(501)]])
def test_a_list_of_tools_that_means_nothing_is_refused(names: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        checked_tools(names)


def test_a_list_of_repeatable_tools_may_be_empty() -> None:
    assert checked_repeatable_tools([]) == frozenset()
    assert checked_repeatable_tools(None) is None
    with pytest.raises(InvalidInputError):
        checked_repeatable_tools(["a b"])


@pytest.mark.parametrize(
    ("listed", "of_the_server", "of_the_other"),
    [(None, True, False), (frozenset(), False, False), (frozenset({"write"}), False, True)],
    ids=["as its server says", "never", "these and no others"],
)
def test_whoever_keeps_the_connection_has_the_last_word_on_repeats(
    listed: frozenset[str] | None, *, of_the_server: bool, of_the_other: bool
) -> None:
    connection = ToolConnection(
        ToolConnectionId("mcp_1"),
        OrganizationId("org_a"),
        "a",
        ConnectionKind.HTTP,
        ConnectionStatus.ACTIVE,
        repeatable_tools=listed,
    )

    assert connection.repeats("read", server_says=True) is of_the_server
    assert connection.repeats("write", server_says=False) is of_the_other


BY_TOKEN = target_of(NewConnection(url="https://a.example/", provider="a", secrets=TOKEN), {})


@pytest.mark.parametrize("name", ["X-Api-Key", "apikey", "X_Key_2", "x-goog-api-key"])
def test_a_token_goes_into_the_header_that_the_service_wants(name: str) -> None:
    assert checked_token_header(BY_TOKEN, name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "X Api Key", "X-Api-Key:", "X-Key\r\nHost", "X-Key\n", "Ä", "x" * 65, ":authority"),
        *("Authorization", "authorization", "Host", "Connection", "Transfer-Encoding", "TE", "Keep-Alive", "Upgrade"),
        *("Content-Length", "Content-Type", "Accept", "Cookie", "Proxy-Authorization", "Mcp-Session-Id"),
        *("mcp-protocol-version", "Last-Event-ID", "Sec-Fetch-Mode", "X-Forwarded-For", "User-Agent"),
    ],
)
def test_a_header_that_means_something_else_or_breaks_the_message_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        checked_token_header(BY_TOKEN, name)


def test_a_header_is_for_tokens_only() -> None:
    by_oauth = target_of(NewConnection(preset="notion"), {})

    with pytest.raises(InvalidInputError):
        checked_token_header(by_oauth, "X-Api-Key")


def test_a_command_server_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ours")
    given = ToolCredentials(1, environment={"KEY": "k", "PATH": "/opt/evil", "OTHER": "x"})

    environment = FILES.environment_with(given)

    assert environment["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert environment["HOME"] == "/nonexistent"
    assert {name: environment.get(name) for name in ("MODE", "KEY", "OTHER")} == {
        "MODE": "ro",
        "KEY": "k",
        "OTHER": None,
    }


def test_the_bare_environment_overwrites_all_that_the_sdk_hands_on() -> None:
    from mcp.client.stdio import DEFAULT_INHERITED_ENV_VARS

    assert set(DEFAULT_INHERITED_ENV_VARS) <= set(FILES.environment_with(ToolCredentials(1)))


def test_the_browser_is_sent_with_state_challenge_and_resource() -> None:
    url = authorization_url(GRANT, state="s", challenge="c")

    asked = parse_qs(urlsplit(url).query)
    assert asked["tenant"] == ["1"]
    assert (asked["state"], asked["code_challenge"], asked["code_challenge_method"]) == (["s"], ["c"], ["S256"])
    assert (asked["resource"], asked["scope"]) == (["https://mcp.example/mcp"], ["read offline_access"])
    assert asked["prompt"] == ["consent"]


def test_a_verifier_is_as_long_as_pkce_wants_it_and_its_challenge_is_the_digest() -> None:
    verifier = random_text(bytes(range(32)))

    assert len(verifier) == 43
    assert code_challenge(SecretStr(verifier)) == base64.urlsafe_b64encode(
        hashlib.sha256(verifier.encode()).digest()
    ).decode().rstrip("=")


@pytest.mark.parametrize(
    ("says", "answered", "fits"),
    [
        (False, None, True),
        (True, None, False),
        (False, "https://auth.example", True),
        (True, "https://auth.example", True),
        (False, "https://evil.example", False),
        (True, "https://auth.example/", False),
    ],
)
def test_the_answer_has_to_come_from_the_server_that_was_asked(says: bool, answered: str | None, fits: bool) -> None:
    grant = replace(GRANT, says_issuer=says)

    if fits:
        check_issuer(grant, answered)
        return
    with pytest.raises(InvalidInputError) as refused:
        check_issuer(grant, answered)
    assert refused.value.code == "authorization_mixed_up"


@pytest.mark.parametrize(
    ("offered", "has_secret", "method"),
    [
        (("client_secret_post", "client_secret_basic"), True, "client_secret_basic"),
        (("client_secret_post", "none"), True, "client_secret_post"),
        (("private_key_jwt",), True, "client_secret_basic"),
        (("client_secret_basic",), False, "none"),
    ],
)
def test_how_a_client_shows_who_it_is(offered: tuple[str, ...], has_secret: bool, method: str) -> None:
    assert client_auth_method(offered, has_secret=has_secret) == method
