"""Installing the app into a workspace by OAuth v2: where to send the browser, and what its return brings.

Nothing is stored here. Source: https://docs.slack.dev/authentication/installing-with-oauth
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import orjson
from pydantic import SecretStr

from nubabel_workers.adapters.slack import errors
from nubabel_workers.adapters.slack.messenger import SLACK_API_URL, web_client
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, NubabelError, PermanentError

AUTHORIZE_URL: Final = "https://slack.com/oauth/v2/authorize"
BOT_SCOPES: Final = (
    *("app_mentions:read", "chat:write", "reactions:write", "files:read"),
    *("im:history", "mpim:history", "channels:history", "groups:history"),
)
STATE_LIFETIME: Final = timedelta(minutes=10)

_CALLERS_FAULT: Final = frozenset({"invalid_code", "code_already_used", "bad_redirect_uri"})
_OUR_CREDENTIALS: Final = frozenset({"bad_client_secret", "invalid_client_id"})


@dataclass(frozen=True, slots=True)
class Installation:
    """What Slack grants for one workspace. team_id is None for an org-wide installation."""

    team_id: str | None
    team_name: str
    enterprise_id: str | None
    app_id: str
    bot_user_id: str
    bot_token: SecretStr
    scopes: tuple[str, ...] = field(default=())


class InstallState:
    """The `state` that travels through the browser: which organization installs, signed and expiring.

    It proves that we sent the browser on its way; the caller binds it to that browser (a cookie with the nonce).
    """

    def __init__(self, key: SecretStr, lifetime: timedelta = STATE_LIFETIME) -> None:
        self._key = key
        self._lifetime = lifetime

    def issue(self, organization_id: str, *, nonce: str, now: datetime) -> str:
        claims = {"organization": organization_id, "nonce": nonce, "until": (now + self._lifetime).timestamp()}
        payload = orjson.dumps(claims)
        return f"{_encoded(payload)}.{_encoded(self._signature(payload))}"

    def verify(self, state: str, *, nonce: str, now: datetime) -> str:
        """Return the organization; InvalidInputError when the state is not ours, not this browser's, or too old."""
        claims = self._claims(state)
        if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
            raise InvalidInputError(
                "the installation was started in another browser: open the link and agree in one browser",
                code="invalid_state",
            )
        if now.timestamp() > float(claims["until"]):
            raise InvalidInputError("the installation took too long: start it again", code="expired_state")
        return str(claims["organization"])

    def _claims(self, state: str) -> dict[str, Any]:
        payload, _, signature = state.partition(".")
        try:
            raw = _decoded(payload)
            genuine = hmac.compare_digest(_decoded(signature), self._signature(raw))
        except ValueError:
            genuine = False
        if not genuine:
            raise InvalidInputError(
                "this link is incomplete, or not one of ours: ask for a new one", code="invalid_state"
            )
        claims: dict[str, Any] = orjson.loads(raw)
        return claims

    def _signature(self, payload: bytes) -> bytes:
        key = self._key.get_secret_value().encode()
        return hmac.new(key, b"slack-install-state\x00" + payload, hashlib.sha256).digest()


def authorize_url(
    *,
    client_id: str,
    state: str,
    redirect_uri: str | None = None,
    scopes: Sequence[str] = BOT_SCOPES,
    base_url: str = AUTHORIZE_URL,
) -> str:
    """Where to send the browser of somebody who wants to install the app."""
    query = {"client_id": client_id, "scope": ",".join(scopes), "state": state}
    if redirect_uri is not None:
        query["redirect_uri"] = redirect_uri
    return f"{base_url}?{urlencode(query)}"


async def exchange_code(
    session: aiohttp.ClientSession,
    *,
    client_id: str,
    client_secret: SecretStr,
    code: str,
    redirect_uri: str | None = None,
    base_url: str = SLACK_API_URL,
) -> Installation:
    """Trade the code that the browser brought back; it is good for one use.

    Raises InvalidInputError (the code or redirect), CredentialsError (our own client secret), UncertainError (the
    answer got lost: the user starts again).
    """
    method = "oauth.v2.access"
    arguments = {"code": code} | ({"redirect_uri": redirect_uri} if redirect_uri is not None else {})
    basic = base64.b64encode(f"{client_id}:{client_secret.get_secret_value()}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}  # the SDK's own way rests on a class that aiohttp is dropping
    try:
        answer = await web_client(base_url, session).api_call(method, data=arguments, headers=headers)
    except Exception as error:  # noqa: BLE001 - the SDK leaks whatever its parsing raises
        raise _refusal(error, method) from None
    return _installation(answer.data if isinstance(answer.data, dict) else {})


def _refusal(error: Exception, method: str) -> NubabelError:
    code = errors.error_code(error)
    if code in _CALLERS_FAULT:
        return InvalidInputError(f"Slack refused the installation: {code}", code=code)
    if code in _OUR_CREDENTIALS:
        return CredentialsError(f"Slack refused this app's client credentials: {code}", code=code)
    return errors.translate(error, method=method, repeatable=False)


def _installation(answer: Mapping[str, Any]) -> Installation:
    token, bot_user_id = answer.get("access_token"), answer.get("bot_user_id")
    if not isinstance(token, str) or not isinstance(bot_user_id, str) or answer.get("token_type") != "bot":
        raise PermanentError("Slack granted no bot token", code="no_bot_token")
    team, enterprise = _part(answer, "team"), _part(answer, "enterprise")
    return Installation(
        team_id=team.get("id"),
        team_name=str(team.get("name") or enterprise.get("name") or ""),
        enterprise_id=enterprise.get("id"),
        app_id=str(answer.get("app_id") or ""),
        bot_user_id=bot_user_id,
        bot_token=SecretStr(token),
        scopes=tuple(str(answer.get("scope") or "").split(",")),
    )


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
