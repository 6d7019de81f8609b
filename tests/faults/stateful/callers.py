"""Those who want something: people in Slack, upstream services, operators; and what they were promised."""

from dataclasses import dataclass, field
from typing import Any

from nubabel_workers.bootstrap import Services, manage_dead_letters
from nubabel_workers.domain.dead_letters import Replayed
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.services.submit_execution import Submitted
from nubabel_workers.simulators.slack.model import Message
from tests.faults.stateful.world import CHANNEL, TEAMS, Event, Interruption, World

_MAX_TRIES = 4  # of Slack, to deliver an event


@dataclass
class Accepted:
    """What the callers were told: acknowledged Slack messages and HTTP requests."""

    messages: set[tuple[str, str]] = field(default_factory=set)  # (organization, ts): each is owed an outcome
    deleted: set[str] = field(default_factory=set)  # ts of messages that people deleted
    requests: dict[tuple[str, str], str] = field(default_factory=dict)  # (organization, key) -> execution


class Callers:
    def __init__(self, world: World) -> None:
        self.accepted = Accepted()
        self.acknowledged: list[dict[str, Any]] = []
        self._world = world
        self._said: list[tuple[str, Message]] = []
        self._tries: dict[str, int] = {}
        self._questions = 0

    # --- Slack ---

    def write(self, organization: str, place: int, words: str, *, addressed: bool) -> None:
        """place: which of the known threads; `ask` opens a new one. Every question has a token of its own."""
        roots = [message.root_ts for owner, message in self._said if owner == organization]
        thread_ts = roots[place % len(roots)] if roots and words != "ask" else None
        self._questions += 1
        token = f"q{organization[-1]}{self._questions}"
        text = {"nothing": "", "stop": "stop"}.get(words, f"{words} {token}")
        mention = "@nubabel " if addressed or thread_ts is None else ""
        workspace = self._world.slack.workspace(TEAMS[organization])
        message, _ = self._world.slack.say(workspace, CHANNEL, "U0ALICE", mention + text, thread_ts=thread_ts)
        self._said.append((organization, message))
        self._world.note(f"{organization}: {message.text!r} at {message.ts} in {message.root_ts}")

    def edit_or_delete(self, which: int, *, edit: bool) -> None:
        """Raises ApiError for a message that is gone."""
        if not self._said:
            return
        organization, message = self._said[which % len(self._said)]
        workspace = self._world.slack.workspace(TEAMS[organization])
        if edit:
            self._world.slack.edit_by_person(workspace, CHANNEL, message.ts, "something else")
        else:
            self._world.slack.delete_by_person(workspace, CHANNEL, message.ts)
            self.accepted.deleted.add(message.ts)
            self._world.note(f"{organization}: {message.ts} is deleted")

    async def deliver(self, event: Event, process: int, interruption: Interruption) -> None:
        """Slack tries a few times until it is acknowledged; only then is an outcome owed."""
        self._world.events.remove(event)
        body = event.body

        def acknowledged(_: object) -> None:
            self.acknowledged.append(body)
            self._owe(body)

        await self._accept(body, process, interruption, acknowledged)
        self._tries[body["event_id"]] = self._tries.get(body["event_id"], 0) + 1
        if body not in self.acknowledged and self._tries[body["event_id"]] < _MAX_TRIES:
            self._world.events.append(event)

    async def deliver_again(self, body: dict[str, Any], process: int, interruption: Interruption) -> None:
        await self._accept(body, process, interruption, None)

    async def _accept(self, body: dict[str, Any], process: int, interruption: Interruption, then: Any) -> None:
        await self._world.start(
            process, "accept", lambda services: services.accept_slack_event.accept(body), interruption, then
        )

    def _owe(self, body: dict[str, Any]) -> None:
        event = body["event"]
        organization = next(name for name, team in TEAMS.items() if team == body["team_id"])
        mention = f"<@{self._world.slack.workspace(body['team_id']).bot_user_id}>"
        text = event.get("text", "")
        if mention in text and "subtype" not in event and text.replace(mention, "").strip() != "stop":
            self.accepted.messages.add((organization, event["ts"]))

    # --- upstream and operators ---

    async def submit(
        self,
        organization: str,
        key: int,
        session: int,
        process: int,
        interruption: Interruption,
        *,
        called_back: bool,
    ) -> None:
        request = SubmitRequest(
            prompt=f"ask q{organization[-1]}{1000 + key}",
            session_key=f"s{session}",
            idempotency_key=f"k{key}",
            callback_url="https://upstream.example.com/hook" if called_back else None,
        )
        name = organization, f"{key}-{session}-{called_back}"

        async def work(services: Services) -> Submitted:
            found = await services.tenants.organization(organization)
            assert found is not None
            return await services.submit_execution.submit(
                found, request, source="api", correlation_id="cor_test", traceparent=""
            )

        def accepted(submitted: Submitted) -> None:
            known = self.accepted.requests.setdefault(name, submitted.execution_id)
            if known != submitted.execution_id:
                self._world.violations.append(f"request {name} is {known} and {submitted.execution_id}")

        await self._world.start(process, "submit", work, interruption, accepted)

    async def cancel(self, which: int, process: int, interruption: Interruption) -> None:
        accepted = list(self.accepted.requests.items())
        if not accepted:
            return
        (organization, _), execution_id = accepted[which % len(accepted)]
        await self._world.start(
            process,
            "cancel",
            lambda services: services.cancel_execution.cancel(organization, execution_id, reason="api"),
            interruption,
        )

    async def replay(self, dead_letter_id: str, process: int) -> None:
        async def work(services: Services) -> Replayed:
            replay = manage_dead_letters(services).replay_one
            replayed: Replayed = await self._world.stepper.through(
                "dead_letters.replay", replay, dead_letter_id, dry_run=False, actor="tests"
            )
            return replayed

        await self._world.start(process, "replay", work)
