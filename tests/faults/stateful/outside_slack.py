"""Slack and webhooks at the port, over the simulator's world of channels; how each call is answered can be planned."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import SecretStr

from nubabel_workers.domain.errors import (
    PermanentError,
    RateLimitedError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.notifications import Button
from nubabel_workers.domain.slack_events import ThreadExcerpt
from nubabel_workers.simulators.slack.model import ApiError, Message, SlackWorld, Workspace


class Answer(StrEnum):
    """How Slack or a webhook's receiver answers one call."""

    OK = "ok"
    LOST = "lost"  # done, but the answer never comes (internal_error does that as well)
    BROKEN = "broken"  # 5xx: not done, but nobody can know
    LIMITED = "limited"
    AWAY = "away"  # no connection: certainly not done
    REFUSED = "refused"  # for good


@dataclass(frozen=True)
class Posted:
    """A message as Slack's own log has it."""

    team: str
    channel: str
    thread_ts: str
    ts: str
    delivery_id: str
    text: str

    @property
    def marked(self) -> bool:
        return "possibly repeated" in self.text or "다시 보낸" in self.text


class FakeMessenger:
    """Implements ports.Messenger over the simulator's world."""

    def __init__(self, world: SlackWorld) -> None:
        self.posted: list[Posted] = []
        self.plan: deque[Answer] = deque()  # of the next posts
        self.reads: deque[Answer] = deque()  # of the next look-ups
        self._world = world

    async def post(
        self,
        token: SecretStr,
        *,
        channel: str,
        thread_ts: str,
        markdown: str,
        delivery_id: str,
        button: Button | None = None,
    ) -> str:
        answer = self.plan.popleft() if self.plan else Answer.OK
        _refuse(answer)
        workspace = self._workspace(token)
        message = Message(
            ts=self._world.next_ts(),
            user=workspace.bot_user_id,
            bot_id=workspace.bot_id,
            text=markdown,
            thread_ts=thread_ts,
            metadata={"delivery_id": delivery_id},
        )
        with _words_of_slack():
            self._world.post(workspace, self._world.channel(workspace, channel), message)
        self.posted.append(Posted(workspace.team_id, channel, thread_ts, message.ts, delivery_id, markdown))
        if answer is Answer.LOST:
            raise UncertainError("no answer to the post")
        return message.ts

    async def update(self, token: SecretStr, *, channel: str, ts: str, text: str) -> None:
        workspace = self._workspace(token)
        with _words_of_slack():
            place = self._world.channel(workspace, channel)
            self._world.change(workspace, place, self._world.message(place, ts), text=text, blocks=[])

    async def delete(self, token: SecretStr, *, channel: str, ts: str) -> None:
        workspace = self._workspace(token)
        with _words_of_slack("message_not_found"):
            place = self._world.channel(workspace, channel)
            self._world.remove(workspace, place, self._world.message(place, ts))

    async def add_reaction(self, token: SecretStr, *, channel: str, ts: str, name: str) -> None:
        self._react(token, channel, ts, name, present=True)

    async def remove_reaction(self, token: SecretStr, *, channel: str, ts: str, name: str) -> None:
        self._react(token, channel, ts, name, present=False)

    async def find_by_delivery_id(
        self, token: SecretStr, *, channel: str, thread_ts: str, delivery_id: str, oldest: str
    ) -> str | None:
        answer = self.reads.popleft() if self.reads else Answer.OK
        if answer is not Answer.OK:
            _refuse(answer)
            raise UnavailableError("no answer to the look-up")
        workspace = self._workspace(token)
        with _words_of_slack():
            thread = list(self._world.channel(workspace, channel).thread(thread_ts))
        if not thread:
            raise PermanentError("thread_not_found", code="thread_not_found")
        found = [message for message in thread[1:] if (message.metadata or {}).get("delivery_id") == delivery_id]
        return next((message.ts for message in found if message.ts > oldest), None)

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
        return ThreadExcerpt(())

    async def count_replies(self, token: SecretStr, *, channel: str, thread_ts: str) -> int:
        return 0

    async def download_file(self, token: SecretStr, url: str, *, max_bytes: int) -> bytes:
        raise UnavailableError("no files here")

    def _react(self, token: SecretStr, channel: str, ts: str, name: str, *, present: bool) -> None:
        workspace = self._workspace(token)
        already = {"already_reacted"} if present else {"no_reaction", "message_not_found"}
        with _words_of_slack(*already):
            place = self._world.channel(workspace, channel)
            self._world.react(workspace, place, self._world.message(place, ts), name, present=present)

    def _workspace(self, token: SecretStr) -> Workspace:
        with _words_of_slack():
            return self._world.authorized(token.get_secret_value())


class FakeWebhooks:
    """Implements ports.WebhookSender; received: message id and payload, as the receiver saw them."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Mapping[str, Any]]] = []
        self.plan: deque[Answer] = deque()

    async def send(self, *, url: str, secrets: Sequence[str], message_id: str, payload: Mapping[str, Any]) -> None:
        answer = self.plan.popleft() if self.plan else Answer.OK
        if answer is Answer.BROKEN:
            raise UnavailableError("HTTP 503")
        _refuse(answer)
        self.received.append((message_id, payload))
        if answer is Answer.LOST:
            raise UnavailableError("no answer")


def _refuse(answer: Answer) -> None:
    """Raise what comes back from a call that did nothing."""
    match answer:
        case Answer.BROKEN:
            raise UncertainError("HTTP 503")
        case Answer.LIMITED:
            raise RateLimitedError("ratelimited", retry_after_s=20)
        case Answer.AWAY:
            raise UnavailableError("no connection")
        case Answer.REFUSED:
            raise PermanentError("is_archived", code="is_archived")
        case Answer.OK | Answer.LOST:
            return


@contextmanager
def _words_of_slack(*already: str) -> Iterator[None]:
    """The simulator's errors as the adapter tells them. already: codes that say that the wished-for state is there."""
    try:
        yield
    except ApiError as error:
        if error.code not in already:
            raise PermanentError(error.code, code=error.code) from error
