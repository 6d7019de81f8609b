"""Slack's Web API as the services need it: every failure in our taxonomy, nothing retried or slept on in here."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING, getLogger
from typing import Any, Final

import aiohttp
import orjson
from pydantic import SecretStr
from slack_sdk.web.async_client import AsyncWebClient
from yarl import URL

from nubabel_workers.adapters.slack import errors
from nubabel_workers.domain.errors import InvalidInputError, PermanentError, UncertainError
from nubabel_workers.domain.notifications import Button
from nubabel_workers.domain.slack_events import ThreadExcerpt, ThreadMessage, files_of, is_from_bot, plain_text
from nubabel_workers.domain.slack_mrkdwn import to_mrkdwn
from nubabel_workers.domain.slack_text import MAX_TEXT_BYTES, fallback_text, neutralise

SLACK_API_URL: Final = "https://slack.com/api/"
METADATA_EVENT_TYPE: Final = "nubabel_reply"

_MAX_PLAIN_TEXT_CHARS: Final = 40_000  # Slack truncates `text` of a post beyond this
_BLOCKS_REFUSED: Final = ("invalid_blocks", "msg_blocks_too_long", "msg_too_long")
_LOOKUP_LIMIT: Final = 100
_FILE_HOSTS: Final = ("slack.com", "slack-files.com")
_CHUNK_BYTES: Final = 64 * 1024
_SPOKEN_SUBTYPES: Final = frozenset({None, "", "file_share", "thread_broadcast", "bot_message"})


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """Whose token it is, by `auth.test`. Values that Slack left out are empty."""

    team_id: str
    team_name: str
    bot_user_id: str
    bot_id: str
    enterprise_id: str | None


class SlackMessenger:
    """One instance, one connection pool, all workspaces. Implements `domain.ports.Messenger`."""

    def __init__(
        self,
        *,
        base_url: str = SLACK_API_URL,
        timeout_s: float = 10.0,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """session: shared with others and closed by its owner; without one, an own session opens on first use."""
        self._base_url = URL(base_url if base_url.endswith("/") else f"{base_url}/")
        self._timeout_s = timeout_s
        self._session = session
        self._owns_session = session is None
        self._client: AsyncWebClient | None = None

    async def close(self) -> None:
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = self._client = None

    # --- signs and messages --------------------------------------------------------------------------------------

    async def add_reaction(self, token: SecretStr, *, channel: str, ts: str, name: str) -> None:
        arguments = {"channel": channel, "timestamp": ts, "name": name}
        await self._change("reactions.add", token, arguments, already=errors.REACTION_IS_THERE)

    async def remove_reaction(self, token: SecretStr, *, channel: str, ts: str, name: str) -> None:
        arguments = {"channel": channel, "timestamp": ts, "name": name}
        await self._change("reactions.remove", token, arguments, already=errors.REACTION_IS_GONE)

    async def post(
        self,
        token: SecretStr,
        *,
        channel: str,
        thread_ts: str,
        markdown: str,
        delivery_id: str,
        button: Button | None = None,
        client_msg_id: str | None = None,
    ) -> str:
        """Post one part in the thread; return its ts. Not idempotent: UncertainError when the outcome is unknown.

        markdown: at most 12,000 characters (`domain.slack_text.reply_parts` cuts). delivery_id goes into the message's
        metadata, which everybody in the workspace can read. client_msg_id: a UUID; Slack is said to refuse seconds of
        it, which is undocumented, so nothing relies on it. When Slack refuses the blocks, the text is posted without.
        """
        markdown = neutralise(markdown)
        arguments: dict[str, Any] = {
            "channel": channel,
            "thread_ts": thread_ts,
            "text": fallback_text(markdown),
            "blocks": [{"type": "markdown", "text": markdown}, *([] if button is None else [_actions(button)])],
            "metadata": {"event_type": METADATA_EVENT_TYPE, "event_payload": {"delivery_id": delivery_id}},
            "unfurl_links": False,
            "unfurl_media": False,
        }
        if client_msg_id is not None:
            arguments["client_msg_id"] = client_msg_id
        try:
            answer = await self._call("chat.postMessage", token, json=arguments, repeatable=False)
        except PermanentError as error:
            if not error.code.startswith(_BLOCKS_REFUSED):
                raise
            del arguments["blocks"]
            arguments["text"] = to_mrkdwn(markdown)[:_MAX_PLAIN_TEXT_CHARS]
            answer = await self._call("chat.postMessage", token, json=arguments, repeatable=False)
        ts = answer.get("ts")
        if not isinstance(ts, str) or not ts:
            raise UncertainError("chat.postMessage: Slack confirmed without a ts")
        return ts

    async def update(self, token: SecretStr, *, channel: str, ts: str, text: str) -> None:
        """Replace a message by markdown `text`, shortened to what Slack takes in an edit. Removes its blocks: an empty
        list does so by every edition of Slack's documentation, leaving them out does not.
        """
        arguments = {
            "channel": channel,
            "ts": ts,
            "text": fallback_text(neutralise(text), MAX_TEXT_BYTES),
            "blocks": [],
        }
        await self._call("chat.update", token, json=arguments, repeatable=True)

    async def delete(self, token: SecretStr, *, channel: str, ts: str) -> None:
        await self._change("chat.delete", token, {"channel": channel, "ts": ts}, already=errors.MESSAGE_IS_GONE)

    # --- reading -----------------------------------------------------------------------------------------------

    async def auth_test(self, token: SecretStr) -> BotIdentity:
        answer = await self._call("auth.test", token, params={}, repeatable=True)
        return BotIdentity(
            team_id=_text(answer.get("team_id")),
            team_name=_text(answer.get("team")),
            bot_user_id=_text(answer.get("user_id")),
            bot_id=_text(answer.get("bot_id")),
            enterprise_id=_text(answer.get("enterprise_id")) or None,
        )

    async def find_by_delivery_id(
        self, token: SecretStr, *, channel: str, thread_ts: str, delivery_id: str, oldest: str
    ) -> str | None:
        """The ts of our own post with that delivery id, None when the thread since `oldest` (a ts) has none.

        Costs one call of the read quota. Raises UncertainError when the thread has more than one answer can show.
        """
        own_bot_id = (await self.auth_test(token)).bot_id
        answer = await self._read_thread(
            token, channel, thread_ts, oldest=oldest, limit=_LOOKUP_LIMIT, include_all_metadata=True
        )
        for message in _messages(answer):
            if _delivery_id(message) == delivery_id and message.get("bot_id", own_bot_id) == own_bot_id:
                return _text(message.get("ts")) or None
        if answer.get("has_more") is True:
            raise UncertainError("conversations.replies: the thread is longer than one look-up shows")
        return None

    async def thread_messages(
        self,
        token: SecretStr,
        *,
        channel: str,
        thread_ts: str,
        limit: int,
        before_ts: str | None = None,
        after_ts: str | None = None,
        cursor: str | None = None,
    ) -> ThreadExcerpt:
        """A page of the thread, at most limit messages, oldest first, its root on the first page only.

        before_ts: leave out that message and later ones (the mention that asks has its own place). Slack has no way to
        ask for the newest page: whoever wants it follows the cursors, or guesses after_ts, which leaves out what stands
        between the root and it.
        Source: https://docs.slack.dev/reference/methods/conversations.replies
        """
        bounds = {"oldest": after_ts, "latest": before_ts, "inclusive": False, "limit": limit, "cursor": cursor}
        answer = await self._read_thread(token, channel, thread_ts, **bounds)
        messages = tuple(
            ThreadMessage(
                user=_text(message.get("user")) or _text(message.get("bot_id")),
                text=plain_text(_text(message.get("text"))),
                ts=_text(message.get("ts")),
                is_bot=is_from_bot(message),
                files=files_of(message),
            )
            for message in _messages(answer)
            if message.get("subtype") in _SPOKEN_SUBTYPES
            and message.get("ts") != before_ts
            and not (cursor and message.get("ts") == thread_ts)
        )
        return ThreadExcerpt(messages, next_cursor=_next_cursor(answer))

    async def count_replies(self, token: SecretStr, *, channel: str, thread_ts: str) -> int:
        """As the root itself tells it. https://docs.slack.dev/reference/methods/conversations.history"""
        params = {"channel": channel, "oldest": thread_ts, "latest": thread_ts, "inclusive": True, "limit": 1}
        answer = await self._call("conversations.history", token, params=params, repeatable=True, http_verb="GET")
        counts = [message.get("reply_count") for message in _messages(answer) if message.get("ts") == thread_ts]
        return next((count for count in counts if isinstance(count, int)), 0)

    async def download_file(self, token: SecretStr, url: str, *, max_bytes: int) -> bytes:
        """The content of an attached file. Our token only travels to Slack's own hosts, and never along a redirect.

        Raises PermanentError: `file_too_large`, `file_not_readable` (moved, or a sign-in page instead of the file).
        """
        target = self._checked_file_url(url)
        session, _ = self._connected()
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        try:
            async with session.get(
                target, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=self._timeout_s)
            ) as response:
                _require_file(response)
                return await _read_bounded(response, max_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.translate(error, method="file download", repeatable=True) from error

    def _checked_file_url(self, url: str) -> URL:
        try:
            target = URL(url)
            own = target.origin() == self._base_url.origin()
        except (ValueError, TypeError) as error:
            raise InvalidInputError("the file's address is not a URL", code="file_url_refused") from error
        host = target.host or ""
        slack_owned = target.scheme == "https" and target.port == 443 and _is_slack_host(host)  # noqa: PLR2004 - https
        if not (own or slack_owned) or target.user is not None:
            raise InvalidInputError("the file is not on a host of Slack", code="file_url_refused")
        return target

    # --- calls -------------------------------------------------------------------------------------------------

    async def _change(
        self, method: str, token: SecretStr, arguments: dict[str, Any], *, already: frozenset[str] = frozenset()
    ) -> None:
        """A call that may be repeated. already: codes that say that the wished-for state is there."""
        await self._call(method, token, params=arguments, repeatable=True, already=already)

    async def _read_thread(self, token: SecretStr, channel: str, thread_ts: str, **options: Any) -> Mapping[str, Any]:
        params = {"channel": channel, "ts": thread_ts, **options}
        return await self._call("conversations.replies", token, params=params, repeatable=True, http_verb="GET")

    async def _call(
        self,
        method: str,
        token: SecretStr,
        *,
        repeatable: bool,
        json: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        already: frozenset[str] = frozenset(),
        http_verb: str = "POST",
    ) -> Mapping[str, Any]:
        """Arguments as json or params, whichever slack_sdk uses for that method: stand-ins for Slack know that form."""
        _, client = self._connected()
        secret = {"token": token.get_secret_value()}
        try:
            async with asyncio.timeout(self._timeout_s):
                if params is not None:
                    response = await client.api_call(method, http_verb=http_verb, params={**params, **secret})
                else:
                    response = await client.api_call(method, json={**(json or {}), **secret})
        except Exception as error:  # noqa: BLE001 - the SDK leaks AttributeError and others for unexpected bodies
            if errors.error_code(error) in already:
                return {}
            raise errors.translate(error, method=method, repeatable=repeatable) from None
        data = response.data
        return data if isinstance(data, dict) else {}

    def _connected(self) -> tuple[aiohttp.ClientSession, AsyncWebClient]:
        """Session and client, made inside the running loop on first use."""
        if self._session is None:
            self._session = slack_http_session(self._timeout_s)
        if self._client is None:
            self._client = web_client(str(self._base_url), self._session)
        return self._session, self._client


def slack_http_session(timeout_s: float) -> aiohttp.ClientSession:
    """A pool for all workspaces: no proxies from the environment, and no cookies, which would mix tenants."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=timeout_s / 2),
        connector=aiohttp.TCPConnector(limit=100),
        cookie_jar=aiohttp.DummyCookieJar(),
        json_serialize=lambda value: orjson.dumps(value).decode(),
    )


def web_client(base_url: str, session: aiohttp.ClientSession) -> AsyncWebClient:
    """slack_sdk's client, tamed: it retries lost answers by itself (a doubled post), obeys proxy variables, and builds
    a debug line with the whole message for every call unless its logger has a level of its own.
    """
    logger = getLogger("slack_sdk.quiet")
    logger.setLevel(WARNING)
    client = AsyncWebClient(base_url=base_url, session=session, retry_handlers=[], logger=logger)
    client.proxy = None
    return client


def _is_slack_host(host: str) -> bool:
    return any(host == owned or host.endswith(f".{owned}") for owned in _FILE_HOSTS)


def _require_file(response: aiohttp.ClientResponse) -> None:
    if response.status == 200 and response.content_type != "text/html":  # noqa: PLR2004 - HTTP OK
        return
    if response.status == 429 or response.status >= 500:  # noqa: PLR2004 - HTTP's own numbers
        raise aiohttp.ClientPayloadError(f"HTTP {response.status}")
    raise PermanentError(f"file download: HTTP {response.status} {response.content_type}", code="file_not_readable")


async def _read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    too_large = PermanentError(f"file download: more than {max_bytes} bytes", code="file_too_large")
    if (response.content_length or 0) > max_bytes:
        raise too_large
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            raise too_large
    return bytes(content)


def _actions(button: Button) -> dict[str, Any]:
    """Source: https://docs.slack.dev/reference/block-kit/block-elements/button-element/"""
    element = {
        "type": "button",
        "action_id": button.action_id,
        "value": button.value,
        "text": {"type": "plain_text", "text": button.label},
    }
    return {"type": "actions", "elements": [element]}


def _next_cursor(answer: Mapping[str, Any]) -> str | None:
    """None at the end, of which Slack says so in two ways."""
    told = answer.get("response_metadata")
    cursor = _text(told.get("next_cursor")) if isinstance(told, dict) else ""
    return cursor if cursor and answer.get("has_more") is True else None


def _messages(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    messages = answer.get("messages")
    return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def _delivery_id(message: Mapping[str, Any]) -> str | None:
    metadata = message.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("event_type") != METADATA_EVENT_TYPE:
        return None
    payload = metadata.get("event_payload")
    return payload.get("delivery_id") if isinstance(payload, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
