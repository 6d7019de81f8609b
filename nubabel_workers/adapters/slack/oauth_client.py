"""The OAuth v2 installation as one object: this app's credentials, where browsers come back to, Slack's endpoints."""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import aiohttp
from pydantic import SecretStr

from nubabel_workers.adapters.slack.messenger import SLACK_API_URL
from nubabel_workers.adapters.slack.oauth import AUTHORIZE_URL, InstallState, authorize_url, exchange_code
from nubabel_workers.domain.administration import Installation

LINK_LIFETIME: Final = timedelta(hours=24)


@dataclass(frozen=True)
class SlackOAuthClient:
    """Implements services.install_workspace.SlackOAuth. redirect_uri must be one that the app's settings list."""

    session: aiohttp.ClientSession = field(repr=False)
    client_id: str
    client_secret: SecretStr
    redirect_uri: str
    api_base_url: str = SLACK_API_URL
    authorize_base_url: str = AUTHORIZE_URL

    def authorize_url(self, state: str) -> str:
        return authorize_url(
            client_id=self.client_id, state=state, redirect_uri=self.redirect_uri, base_url=self.authorize_base_url
        )

    async def exchange(self, code: str) -> Installation:
        granted = await exchange_code(
            self.session,
            client_id=self.client_id,
            client_secret=self.client_secret,
            code=code,
            redirect_uri=self.redirect_uri,
            base_url=self.api_base_url,
        )
        return Installation(
            team_id=granted.team_id,
            enterprise_id=granted.enterprise_id,
            team_name=granted.team_name,
            bot_user_id=granted.bot_user_id,
            bot_token=granted.bot_token,
            app_id=granted.app_id,
            scopes=granted.scopes,
        )


def install_states(encryption_key: SecretStr) -> tuple[InstallState, InstallState]:
    """What signs installation links (they hold a day) and OAuth states (minutes).

    The key is derived from the installation's first encryption key: rotating that ends links that are under way.
    """
    secret = encryption_key.get_secret_value().encode()

    def key(purpose: bytes) -> SecretStr:
        return SecretStr(hmac.new(secret, b"nubabel slack " + purpose, hashlib.sha256).hexdigest())

    return InstallState(key(b"link"), LINK_LIFETIME), InstallState(key(b"state"))
