"""The local Slack keeps what the real one does: events, redelivery, limits; and its own doors for people and tests."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from nubabel_workers.simulators.slack import Message, SlackSimulator, SlackSimulatorOptions
from nubabel_workers.simulators.slack.limits import RateLimits
from tests.contract.slack.conftest import events_endpoint

CHANNEL = "C0GENERAL"


class EventsReceiver:
    """Answers each delivery with the next status, the last one for ever; keeps body and retry headers."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.deliveries: list[tuple[dict[str, Any], str | None, str | None]] = []
        self.answer_headers: dict[str, str] = {}

    async def handle(self, request: Request) -> Response:
        headers = request.headers
        body = orjson.loads(await request.body())
        self.deliveries.append((body, headers.get("x-slack-retry-num"), headers.get("x-slack-retry-reason")))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Response(status_code=status, headers=self.answer_headers)


async def settled(slack: SlackSimulator, kind: str, count: int = 1) -> list[dict[str, Any]]:
    """The log's entries of that kind, once there are that many."""
    async with asyncio.timeout(10):
        return await slack.world.wait_for_log(kind, count)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def call(
    http: aiohttp.ClientSession, slack: SlackSimulator, method: str, **arguments: Any
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {slack.workspace().bot_token}"}
    async with http.post(f"{slack.api_url}{method}", json=arguments, headers=headers) as response:
        return response.status, await response.json()


async def _get(http: aiohttp.ClientSession, url: str, params: dict[str, str]) -> aiohttp.ClientResponse:
    return await http.get(url, params=params)


async def test_refused_event_comes_again_with_its_reason_and_is_given_up_after_the_third_time(
    slack: SlackSimulator,
) -> None:
    receiver = EventsReceiver(500)

    async with events_endpoint(receiver.handle) as url:
        slack.send_events_to(url)
        slack.say("talk")
        await settled(slack, "event_lost")

    assert [(number, reason) for _, number, reason in receiver.deliveries] == [
        (None, None),
        ("1", "http_error"),
        ("2", "http_error"),
        ("3", "http_error"),
    ]
    assert len({body["event_id"] for body, _, _ in receiver.deliveries}) == 1


async def test_receiver_may_ask_for_no_redelivery(slack: SlackSimulator) -> None:
    receiver = EventsReceiver(500)
    receiver.answer_headers = {"x-slack-no-retry": "1"}

    async with events_endpoint(receiver.handle) as url:
        slack.send_events_to(url)
        slack.say("talk")
        await settled(slack, "delivery_failed")

    assert len(receiver.deliveries) == 1


async def test_mention_in_a_channel_yields_two_events_and_a_direct_message_one(slack: SlackSimulator) -> None:
    receiver = EventsReceiver(200)

    async with events_endpoint(receiver.handle) as url:
        slack.send_events_to(url)
        slack.say("@nubabel hi")
        slack.say("@nubabel hi", channel="D0ALICE")
        slack.say("@nubabel hi", channel="M0GROUP")
        await settled(slack, "delivered", 4)

    seen = [(body["event"]["type"], body["event"].get("channel_type")) for body, _, _ in receiver.deliveries]
    assert sorted(seen, key=str) == [
        ("app_mention", None),
        ("message", "channel"),
        ("message", "im"),
        ("message", "mpim"),
    ]


async def test_bots_own_messages_come_back_as_events_unless_switched_off(http: aiohttp.ClientSession) -> None:
    seen = []
    for echo in (True, False):
        async with SlackSimulator(SlackSimulatorOptions(echo_own_messages=echo)) as slack:
            root = slack.say("hi")
            _, posted = await call(http, slack, "chat.postMessage", channel=CHANNEL, thread_ts=root.ts, text="x")
            await call(http, slack, "chat.update", channel=CHANNEL, ts=posted["ts"], text="y")
            await call(http, slack, "chat.delete", channel=CHANNEL, ts=posted["ts"])
            seen.append(len([entry for entry in slack.world.log if entry["kind"] == "event"]))

    assert seen == [4, 1]


async def test_post_beyond_the_channels_rate_is_refused_with_a_wait(http: aiohttp.ClientSession) -> None:
    limits = RateLimits(posts_per_channel_per_s=1)

    async with SlackSimulator(SlackSimulatorOptions(limits=limits)) as slack:
        slack.say("hi")
        slack.say("hi", channel="C0OTHER")
        first, _ = await call(http, slack, "chat.postMessage", channel=CHANNEL, text="one")
        second, refused = await call(http, slack, "chat.postMessage", channel=CHANNEL, text="two")
        other, _ = await call(http, slack, "chat.postMessage", channel="C0OTHER", text="three")

    assert (first, second, other) == (200, 429, 200)
    assert refused == {"ok": False, "error": "ratelimited"}


async def test_read_quota_limits_calls_and_messages(http: aiohttp.ClientSession) -> None:
    limits = RateLimits(reads_per_minute=1, max_messages_per_read=15)

    async with SlackSimulator(SlackSimulatorOptions(limits=limits)) as slack:
        root = slack.say("hi")
        for _ in range(20):
            slack.say("more", thread_ts=root.ts)
        _, page = await call(http, slack, "conversations.replies", channel=CHANNEL, ts=root.ts, limit=100)
        status, _ = await call(http, slack, "conversations.replies", channel=CHANNEL, ts=root.ts)

    assert (len(page["messages"]), page["has_more"], status) == (15, True, 429)


async def test_a_channels_own_messages_come_newest_first_with_the_number_of_their_replies(
    http: aiohttp.ClientSession,
) -> None:
    async with SlackSimulator(SlackSimulatorOptions(limits=RateLimits(reads_per_minute=1))) as slack:
        first, _ = slack.say("first"), slack.say("second")
        slack.say("a reply", thread_ts=first.ts)
        await call(http, slack, "conversations.replies", channel=CHANNEL, ts=first.ts)
        _, page = await call(http, slack, "conversations.history", channel=CHANNEL, limit=5)
        status, _ = await call(http, slack, "conversations.history", channel=CHANNEL)

    assert [(one["text"], one.get("reply_count")) for one in page["messages"]] == [("second", None), ("first", 1)]
    assert status == 429


async def test_a_thread_is_paged_oldest_first_its_root_on_every_page(http: aiohttp.ClientSession) -> None:
    async with SlackSimulator() as slack:
        root = slack.say("root")
        for number in range(5):
            slack.say(f"reply {number}", thread_ts=root.ts)
        read = {"channel": CHANNEL, "ts": root.ts, "limit": 3}
        _, first = await call(http, slack, "conversations.replies", **read)
        _, second = await call(
            http, slack, "conversations.replies", **read, cursor=first["response_metadata"]["next_cursor"]
        )
        _, last = await call(
            http, slack, "conversations.replies", **read, cursor=second["response_metadata"]["next_cursor"]
        )
        _, refused = await call(http, slack, "conversations.replies", **read, cursor="of nobody")

    assert [[message["text"] for message in page["messages"]] for page in (first, second, last)] == [
        ["root", "reply 0", "reply 1"],
        ["root", "reply 2", "reply 3"],
        ["root", "reply 4"],
    ]
    assert first["messages"][0]["reply_count"] == 5
    assert [page["has_more"] for page in (first, second, last)] == [True, True, False]
    assert "response_metadata" not in last
    assert refused["error"] == "invalid_cursor"


def markdown(chars: int) -> list[dict[str, str]]:
    return [{"type": "markdown", "text": "x" * chars}]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"text": "x" * 45_000}, None),
        ({"text": "x", "blocks": markdown(12_000)}, None),
        ({"text": "x", "blocks": markdown(12_001)}, "invalid_blocks"),
        ({"text": "x", "blocks": markdown(13_500)}, "msg_blocks_too_long"),
        ({"text": "x", "blocks": [{"type": "divider"}] * 51}, "invalid_blocks"),
        ({"text": "x", "blocks": "{"}, "invalid_blocks_format"),
        ({"text": "x", "blocks": [{"type": "section", "text": {"text": "x" * 3_001}}]}, "invalid_blocks"),
        ({"text": "x", "markdown_text": "y"}, "markdown_text_conflict"),
        ({"markdown_text": "y"}, None),
        ({}, "no_text"),
        ({"text": "x", "metadata": {"event_payload": "x" * 4_000}}, "metadata_too_large"),
        ({"text": "x", "thread_ts": "1.1"}, "thread_not_found"),
        ({"text": "x", "channel": "C0NOWHERE"}, "channel_not_found"),
    ],
)
async def test_post_is_checked_like_slack_does(
    slack: SlackSimulator, http: aiohttp.ClientSession, arguments: dict[str, Any], error: str | None
) -> None:
    slack.say("hi")

    _, answer = await call(http, slack, "chat.postMessage", **({"channel": CHANNEL} | arguments))

    assert answer.get("error") == error


@pytest.mark.parametrize(
    ("text", "error"), [("x" * 4_000, None), ("x" * 4_001, "msg_too_long"), ("가" * 1_400, "msg_too_long")]
)
async def test_edit_is_limited_in_bytes(
    slack: SlackSimulator, http: aiohttp.ClientSession, text: str, error: str | None
) -> None:
    slack.say("hi")
    _, posted = await call(http, slack, "chat.postMessage", channel=CHANNEL, text="x")

    _, answer = await call(http, slack, "chat.update", channel=CHANNEL, ts=posted["ts"], text=text)

    assert answer.get("error") == error


async def test_person_writes_waits_edits_and_deletes_over_http(
    slack: SlackSimulator, http: aiohttp.ClientSession
) -> None:
    control = f"{slack.base_url}/_sim"
    said = await (
        await http.post(
            f"{control}/say",
            json={
                "team": "T0ONE",
                "channel": CHANNEL,
                "text": "@nubabel hi",
                "files": [{"name": "a.txt", "content": "x"}],
            },
        )
    ).json()
    thread = {"team": "T0ONE", "channel": CHANNEL, "thread": said["ts"]}
    waiting = asyncio.create_task(
        http.get(f"{control}/wait", params={**thread, "contains": "Answer", "timeout_s": "5"})
    )
    await call(http, slack, "chat.postMessage", channel=CHANNEL, thread_ts=said["ts"], text="working")
    await call(http, slack, "chat.postMessage", channel=CHANNEL, thread_ts=said["ts"], text="The Answer")

    answered = await waiting
    await http.post(f"{control}/edit", json={"team": "T0ONE", "channel": CHANNEL, "ts": said["ts"], "text": "edited"})
    await http.post(f"{control}/delete", json={"team": "T0ONE", "channel": CHANNEL, "ts": said["ts"]})
    messages = await (await http.get(f"{control}/messages", params=thread)).json()

    assert answered.status == 200
    assert [message["text"] for message in await answered.json()][1:] == ["working", "The Answer"]
    assert len(said["event_ids"]) == 2
    assert (messages[0]["deleted"], messages[0]["files"]) == (True, ["a.txt"])


async def test_a_button_is_shown_and_pressed_over_http(slack: SlackSimulator, http: aiohttp.ClientSession) -> None:
    root, workspace = slack.say("hello"), slack.workspace()
    button = {"type": "button", "action_id": "go", "value": "1", "text": {"type": "plain_text", "text": "Go"}}
    message = Message(
        slack.world.next_ts(), "UBOT", "paused", root.ts, "BBOT", [{"type": "actions", "elements": [button]}]
    )
    slack.world.post(workspace, workspace.channels["C0GENERAL"], message)
    where = {"team": "T0ONE", "channel": "C0GENERAL", "ts": message.ts, "user": "U0ANNA"}

    shown = await (await http.get(f"{slack.base_url}/_sim/messages", params={"thread": root.ts})).json()
    pressed = await http.post(f"{slack.base_url}/_sim/press", json=where)
    wrong = await http.post(f"{slack.base_url}/_sim/press", json=where | {"action_id": "other"})

    assert [one["buttons"] for one in shown] == [[], [{"action_id": "go", "label": "Go"}]]
    assert (pressed.status, wrong.status) == (200, 400)
    assert "trigger_id" in await pressed.json()


async def test_wait_says_when_nothing_came(slack: SlackSimulator, http: aiohttp.ClientSession) -> None:
    root = slack.say("hi")
    params = {"team": "T0ONE", "channel": CHANNEL, "thread": root.ts, "timeout_s": "0.01"}

    response = await http.get(f"{slack.base_url}/_sim/wait", params=params)

    assert (response.status, len(await response.json())) == (408, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("say", {"team": "T0ONE"}),
        ("say", {"team": "T0NOWHERE", "channel": CHANNEL, "text": "x"}),
        ("say", []),
        ("delete", {"team": "T0ONE", "channel": CHANNEL, "ts": "1.1"}),
        ("faults", {"method": "*", "kind": "nonsense"}),
    ],
)
async def test_control_says_what_is_wrong(
    slack: SlackSimulator, http: aiohttp.ClientSession, path: str, body: Any
) -> None:
    response = await http.post(f"{slack.base_url}/_sim/{path}", json=body)

    assert response.status == 400
    assert (await response.json())["error"]


async def test_form_of_another_site_cannot_write(slack: SlackSimulator, http: aiohttp.ClientSession) -> None:
    response = await http.post(f"{slack.base_url}/_sim/say", data={"team": "T0ONE", "channel": CHANNEL, "text": "x"})

    assert response.status == 415


async def test_faults_are_planned_and_cleared_over_http(slack: SlackSimulator, http: aiohttp.ClientSession) -> None:
    slack.say("hi")
    fault = {"method": "chat.postMessage", "kind": "error", "code": "is_archived", "times": 2}
    await http.post(f"{slack.base_url}/_sim/faults", json=fault)
    _, first = await call(http, slack, "chat.postMessage", channel=CHANNEL, text="x")
    await http.delete(f"{slack.base_url}/_sim/faults")

    _, second = await call(http, slack, "chat.postMessage", channel=CHANNEL, text="x")

    assert (first.get("error"), second["ok"]) == ("is_archived", True)


async def test_page_is_served_under_a_policy_and_follows_live(
    slack: SlackSimulator, http: aiohttp.ClientSession
) -> None:
    page = await http.get(f"{slack.base_url}/")
    stream = await http.get(f"{slack.base_url}/_sim/stream")
    assert await stream.content.readline() == b": here\n"

    slack.say("<script>alert(1)</script>")

    await stream.content.readline()
    event = orjson.loads((await stream.content.readline()).removeprefix(b"data: "))
    assert event["text"] == "<script>alert(1)</script>"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "innerHTML" not in await page.text()
    stream.close()


async def test_reinstalled_workspace_has_a_new_token_and_the_old_one_is_dead(
    slack: SlackSimulator, http: aiohttp.ClientSession
) -> None:
    old = slack.workspace().bot_token
    await http.post(f"{slack.base_url}/_sim/workspaces", json={"team_id": "T0ONE"})

    _, answer = await call(http, slack, "auth.test")
    async with http.post(f"{slack.api_url}auth.test", headers={"Authorization": f"Bearer {old}"}) as response:
        refused = await response.json()

    assert (answer["ok"], refused["error"]) == (True, "token_revoked")


async def test_socket_ticket_is_good_once(slack: SlackSimulator, http: aiohttp.ClientSession) -> None:
    headers = {"Authorization": f"Bearer {slack.options.app_token}"}
    async with http.post(f"{slack.api_url}apps.connections.open", headers=headers) as response:
        url = (await response.json())["url"]
    async with http.ws_connect(url) as socket:
        assert (await socket.receive_json())["type"] == "hello"

    with pytest.raises(aiohttp.WSServerHandshakeError):
        await http.ws_connect(url)
