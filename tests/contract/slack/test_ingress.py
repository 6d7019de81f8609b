"""Slack's events into our side, over the Events API and Socket Mode: nothing acknowledged that was not accepted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
import pytest
from pydantic import SecretStr
from slack_bolt.async_app import AsyncApp

from nubabel_workers.adapters.slack.ingress import ACCEPT_TIMEOUT_S, events_api_handler, slack_app
from nubabel_workers.adapters.slack.socket_mode import SocketModeReceiver
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, UnavailableError
from nubabel_workers.domain.slack_events import SlackEventKind, classify
from nubabel_workers.simulators.slack import Message, SlackSimulator, SlackSimulatorOptions
from nubabel_workers.simulators.slack.delivery import envelope, signature_headers
from tests.contract.slack.conftest import APP_TOKEN, SIGNING_SECRET, Inbox, events_endpoint, find_bot_in

MENTION = {"type": "app_mention", "user": "U0ALICE", "text": "hi", "channel": "C0GEN", "ts": "1795216375.000100"}

BUTTON = {
    "type": "actions",
    "elements": [
        {
            "type": "button",
            "action_id": "nubabel_allow_more",
            "value": "exe_1:1",
            "text": {"type": "plain_text", "text": "Allow $1 more"},
        }
    ],
}


def app_for(slack: SlackSimulator, inbox: Inbox, accept_timeout_s: float = ACCEPT_TIMEOUT_S) -> AsyncApp:
    return slack_app(
        signing_secret=SecretStr(SIGNING_SECRET),
        find_bot=find_bot_in(slack),
        accept=inbox.accept,
        accept_timeout_s=accept_timeout_s,
    )


# --- Events API ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def endpoint(slack: SlackSimulator, inbox: Inbox) -> AsyncIterator[str]:
    async with events_endpoint(events_api_handler(app_for(slack, inbox))) as url:
        slack.send_events_to(url)
        yield url


async def send(url: str, raw: bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        signed = signature_headers(SIGNING_SECRET, raw) if headers is None else headers
        async with session.post(url, data=raw, headers=signed) as response:
            return response.status, await response.text()


def event_body(slack: SlackSimulator, **outer: Any) -> bytes:
    return orjson.dumps(envelope(slack.workspace(), MENTION, "Ev1") | outer)


async def test_mention_arrives_as_two_events_that_mean_one_thing(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    slack.say("@nubabel 배포해줘 &lt;now&gt;")

    await inbox.wait_for(lambda seen: len(seen.bodies) == 2)

    events = [classify(body, slack.workspace().bot_user_id) for body in inbox.bodies]
    assert {event.kind for event in events} == {SlackEventKind.MENTION}
    assert len({event.dedupe_key for event in events}) == 1
    assert len({event.event_id for event in events}) == 2
    assert events[0].text == "배포해줘 <now>"


async def test_event_is_accepted_before_it_is_acknowledged(slack: SlackSimulator, endpoint: str, inbox: Inbox) -> None:
    inbox.hold = asyncio.Event()
    answer = asyncio.create_task(send(endpoint, event_body(slack)))
    await inbox.wait_for(lambda seen: seen.calls == 1)
    assert not answer.done()

    inbox.hold.set()

    assert (await answer)[0] == 200


async def test_failure_to_accept_makes_slack_deliver_again(slack: SlackSimulator, endpoint: str, inbox: Inbox) -> None:
    inbox.failures = [UnavailableError("the database is away"), ConnectionError("a bug")]

    slack.say("just talk")

    await inbox.wait_for(lambda seen: len(seen.bodies) == 1)
    assert inbox.calls == 3
    assert [entry["status"] for entry in slack.world.logged("delivery_failed")] == [503, 500]


async def test_slow_acceptance_fails_in_time_for_a_redelivery(slack: SlackSimulator, inbox: Inbox) -> None:
    inbox.hold = asyncio.Event()

    async with events_endpoint(events_api_handler(app_for(slack, inbox, accept_timeout_s=0.05))) as url:
        status, _ = await send(url, event_body(slack))

    assert status == 503


async def test_acceptance_that_comes_too_late_for_slack_is_not_thrown_away(slack: SlackSimulator, inbox: Inbox) -> None:
    inbox.hold = asyncio.Event()
    async with events_endpoint(events_api_handler(app_for(slack, inbox, accept_timeout_s=0.05))) as url:
        await send(url, event_body(slack))

        inbox.hold.set()

        await inbox.wait_for(lambda seen: seen.event_ids == ["Ev1"])


async def test_body_that_no_redelivery_would_mend_is_acknowledged(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    inbox.failures = [InvalidInputError("malformed")]

    assert (await send(endpoint, event_body(slack)))[0] == 200


@pytest.mark.parametrize("event", [[], "app_mention", 7, None, True])
async def test_an_event_that_is_no_object_is_refused(
    slack: SlackSimulator, endpoint: str, inbox: Inbox, event: object
) -> None:
    status, _ = await send(endpoint, event_body(slack, event=event))

    assert (status, inbox.calls) == (400, 0)


@pytest.mark.parametrize(
    "whose",
    [
        {"authorizations": [{"team_id": [None], "enterprise_id": None}]},
        {"authorizations": [{"team_id": "T0ONE", "enterprise_id": {"id": []}}]},
        {"view": {"app_installed_team_id": {"id": None}}},
    ],
)
async def test_a_workspace_that_is_no_text_is_refused(
    slack: SlackSimulator, endpoint: str, inbox: Inbox, whose: dict[str, Any]
) -> None:
    status, _ = await send(endpoint, event_body(slack, **whose))

    assert (status, inbox.calls) == (400, 0)


async def test_bad_signature_is_refused(slack: SlackSimulator, endpoint: str, inbox: Inbox) -> None:
    raw = event_body(slack)

    forged = await send(endpoint, raw, signature_headers("another secret", raw))
    changed = await send(endpoint, raw + b" ", signature_headers(SIGNING_SECRET, raw))
    unsigned = await send(endpoint, raw, {"Content-Type": "application/json"})

    assert [forged[0], changed[0], unsigned[0]] == [401, 401, 401]
    assert inbox.calls == 0


@pytest.mark.parametrize("offset_s", [-400, 400])
async def test_stale_timestamp_is_refused(slack: SlackSimulator, endpoint: str, inbox: Inbox, offset_s: int) -> None:
    raw = event_body(slack)

    status, _ = await send(endpoint, raw, signature_headers(SIGNING_SECRET, raw, now=time.time() + offset_s))

    assert (status, inbox.calls) == (401, 0)


async def test_url_verification_echoes_the_challenge_when_signed(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    raw = orjson.dumps({"type": "url_verification", "challenge": "c-123", "token": "deprecated"})

    status, text = await send(endpoint, raw)
    unsigned, _ = await send(endpoint, raw, {"Content-Type": "application/json"})

    assert (status, orjson.loads(text)) == (200, {"challenge": "c-123"})
    assert (unsigned, inbox.calls) == (401, 0)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "app_rate_limited", "team_id": "T0ONE", "api_app_id": "A0NUBABEL"},
        {"type": "view_submission", "team": {"id": "T0ONE"}, "user": {"id": "U0ALICE"}, "view": {}},
        {"type": "brand_new_thing"},
        {"type": ["event_callback"], "team_id": "T0ONE"},
        {"type": {"event_callback": 1}},
    ],
    ids=lambda body: str(body["type"]),
)
async def test_payload_without_use_for_us_is_acknowledged(
    slack: SlackSimulator, endpoint: str, inbox: Inbox, body: dict[str, Any]
) -> None:
    status, _ = await send(endpoint, orjson.dumps(body))

    assert (status, inbox.calls) == (200, 0)


async def test_event_type_nobody_handles_is_accepted_like_any_other(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    event = {"type": "member_joined_channel", "user": "U1", "channel": "C1"}

    status, _ = await send(endpoint, orjson.dumps(envelope(slack.workspace(), event, "Ev9")))

    assert (status, inbox.event_ids) == (200, ["Ev9"])


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"null", b"[" * 100_000, b"payload=%7B"])
async def test_garbage_never_becomes_a_server_error(endpoint: str, inbox: Inbox, raw: bytes) -> None:
    signed, _ = await send(endpoint, raw)
    unsigned, _ = await send(endpoint, raw, {"Content-Type": "application/json"})

    assert signed in {200, 400}
    assert unsigned in {400, 401}
    assert inbox.calls == 0


async def test_form_encoded_click_is_verified_on_its_raw_bytes(endpoint: str, inbox: Inbox) -> None:
    raw = b"payload=%7B%22type%22%3A%22block_actions%22%2C%22team%22%3A%7B%22id%22%3A%22T0ONE%22%7D%7D"
    headers = signature_headers(SIGNING_SECRET, raw) | {"Content-Type": "application/x-www-form-urlencoded"}

    assert (await send(endpoint, raw, headers))[0] == 200


async def test_unknown_workspace_is_acknowledged_and_not_accepted(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    stranger = {"team_id": "T0STRANGER", "authorizations": [{"team_id": "T0STRANGER", "enterprise_id": None}]}

    status, text = await send(endpoint, event_body(slack, **stranger))

    assert (status, text, inbox.calls) == (200, "", 0)


async def test_workspace_lookup_that_fails_makes_slack_deliver_again(inbox: Inbox, slack: SlackSimulator) -> None:
    async def find_bot(enterprise_id: str | None, team_id: str | None) -> None:
        raise ConnectionError("the database is away")

    app = slack_app(signing_secret=SecretStr(SIGNING_SECRET), find_bot=find_bot, accept=inbox.accept)
    async with events_endpoint(events_api_handler(app)) as url:
        status, _ = await send(url, event_body(slack))

    assert (status, inbox.calls) == (500, 0)


@pytest.mark.parametrize("store", ["away", "hangs"])
async def test_workspace_lookup_without_a_store_is_refused_in_time(
    inbox: Inbox, slack: SlackSimulator, store: str
) -> None:
    async def find_bot(enterprise_id: str | None, team_id: str | None) -> None:
        if store == "away":
            raise UnavailableError("the database is away")
        await asyncio.Event().wait()

    app = slack_app(
        signing_secret=SecretStr(SIGNING_SECRET), find_bot=find_bot, accept=inbox.accept, accept_timeout_s=0.05
    )
    async with events_endpoint(events_api_handler(app)) as url:
        status, _ = await send(url, event_body(slack))

    assert (status, inbox.calls) == (503, 0)


async def test_own_messages_never_reach_us(slack: SlackSimulator, endpoint: str, inbox: Inbox) -> None:
    workspace = slack.workspace()
    own = MENTION | {"type": "message", "user": workspace.bot_user_id, "bot_id": workspace.bot_id}

    status, _ = await send(endpoint, orjson.dumps(envelope(workspace, own, "Ev3")))

    assert (status, inbox.calls) == (200, 0)


async def test_removed_app_is_told_although_its_workspace_is_unknown_by_then(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    slack.world.uninstall("T0ONE")
    del slack.world.workspaces["T0ONE"]

    await inbox.wait_for(lambda seen: len(seen.bodies) == 2)

    kinds = {classify(body, None).kind for body in inbox.bodies}
    assert kinds == {SlackEventKind.UNINSTALLED, SlackEventKind.TOKENS_REVOKED}


async def test_deleted_question_and_edit_arrive_as_such(slack: SlackSimulator, endpoint: str, inbox: Inbox) -> None:
    first, second = slack.say("one"), slack.say("two")
    slack.world.edit_by_person(slack.workspace(), "C0GENERAL", first.ts, "changed")
    slack.world.delete_by_person(slack.workspace(), "C0GENERAL", second.ts)
    slack.say("a reply", thread_ts=first.ts)
    slack.world.delete_by_person(slack.workspace(), "C0GENERAL", first.ts)

    await inbox.wait_for(lambda seen: len(seen.bodies) == 6)

    events = [classify(body, slack.workspace().bot_user_id) for body in inbox.bodies]
    assert {event.deleted_ts for event in events if event.kind is SlackEventKind.DELETED} == {first.ts, second.ts}
    assert [event.ts for event in events if event.kind is SlackEventKind.EDITED] == [first.ts]


# --- buttons ---------------------------------------------------------------------------------------------------------


async def with_a_button(slack: SlackSimulator) -> Message:
    """A message of the bot in a thread."""
    workspace = slack.workspace()
    root = slack.say("hello")
    async with aiohttp.ClientSession() as session:
        answer = await session.post(
            f"{slack.api_url}chat.postMessage",
            headers={"authorization": f"Bearer {workspace.bot_token}"},
            json={"channel": "C0GENERAL", "thread_ts": root.ts, "text": "paused", "blocks": [BUTTON]},
        )
        posted = (await answer.json())["ts"]
    return workspace.channels["C0GENERAL"].messages[posted]


def presses(inbox: Inbox) -> list[dict[str, Any]]:
    return [body for body in inbox.bodies if body["type"] == "block_actions"]


async def test_a_press_is_accepted_before_it_is_acknowledged(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    message = await with_a_button(slack)

    pressed = slack.press(message, user="U0ANNA")
    async with asyncio.timeout(10):
        await slack.world.wait_for_log("press_delivered")

    assert presses(inbox) == [pressed]
    event = classify(pressed, None)
    assert (event.kind, event.user, event.button_value) == (SlackEventKind.BUTTON, "U0ANNA", "exe_1:1")
    assert event.thread_ts == message.thread_ts


async def test_a_press_that_cannot_be_stored_is_not_acknowledged_and_never_comes_again(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    message = await with_a_button(slack)
    await inbox.wait_for(lambda seen: len(seen.bodies) == 1)  # what the person wrote; the bot's own is passed over
    inbox.failures = [UnavailableError("the database is away")]

    slack.press(message)
    async with asyncio.timeout(10):
        (failed,) = await slack.world.wait_for_log("press_failed")

    assert failed["status"] == 503
    assert presses(inbox) == []


async def test_a_press_that_is_not_signed_by_slack_is_refused(
    slack: SlackSimulator, endpoint: str, inbox: Inbox
) -> None:
    form = urlencode({"payload": orjson.dumps({"type": "block_actions", "team": {"id": "T0ONE"}}).decode()}).encode()
    signed = signature_headers("another secret", form) | {"Content-Type": "application/x-www-form-urlencoded"}

    assert (await send(endpoint, form, signed))[0] == 401
    assert inbox.calls == 0


@pytest.mark.parametrize("payload", ["", "[]", "7", "{", '{"type": 7}', '{"type": "block_actions", "team": 7}'])
async def test_a_form_that_is_no_press_reaches_nobody(
    slack: SlackSimulator, endpoint: str, inbox: Inbox, payload: str
) -> None:
    form = urlencode({"payload": payload}).encode()
    signed = signature_headers(SIGNING_SECRET, form) | {"Content-Type": "application/x-www-form-urlencoded"}

    status, _ = await send(endpoint, form, signed)

    assert status in {200, 400}
    assert inbox.calls == 0


# --- Socket Mode -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def receiving(slack: SlackSimulator, inbox: Inbox) -> AsyncIterator[SocketModeReceiver]:
    receiver = SocketModeReceiver(
        app_for(slack, inbox), SecretStr(APP_TOKEN), base_url=slack.api_url, timeout_s=2, ping_interval_s=1
    )
    stop = asyncio.Event()
    running = asyncio.create_task(receiver.run(stop))
    try:
        async with asyncio.timeout(10):
            await receiver.wait_connected()
        yield receiver
    finally:
        stop.set()
        await running


async def test_socket_brings_the_same_events(slack: SlackSimulator, inbox: Inbox) -> None:
    async with receiving(slack, inbox):
        slack.say("@nubabel hi")
        await inbox.wait_for(lambda seen: len(seen.bodies) == 2)

    assert {classify(body, None).kind for body in inbox.bodies} == {SlackEventKind.MENTION}


async def test_socket_brings_presses_and_one_that_is_not_acknowledged_does_not_come_again(
    slack: SlackSimulator, inbox: Inbox
) -> None:
    async with receiving(slack, inbox):
        message = await with_a_button(slack)
        await inbox.wait_for(lambda seen: len(seen.bodies) == 1)
        inbox.failures = [UnavailableError("the database is away")]
        slack.press(message, user="U0ANNA")
        await inbox.wait_for(lambda seen: seen.calls == 2)
        pressed = slack.press(message, user="U0BEN")
        async with asyncio.timeout(10):
            await slack.world.wait_for_log("press_delivered")

    assert presses(inbox) == [pressed]


async def test_events_from_before_the_connection_are_waiting_in_it(slack: SlackSimulator, inbox: Inbox) -> None:
    slack.say("talk")

    async with receiving(slack, inbox):
        await inbox.wait_for(lambda seen: len(seen.bodies) == 1)


async def test_envelope_that_was_not_accepted_is_not_acknowledged_and_comes_again(inbox: Inbox) -> None:
    inbox.failures = [ConnectionError("the database is away")]
    options = SlackSimulatorOptions(app_token=APP_TOKEN, ack_timeout_s=0.1)

    async with SlackSimulator(options) as slack, receiving(slack, inbox):
        slack.say("talk")
        await inbox.wait_for(lambda seen: len(seen.bodies) == 1)

    assert inbox.calls == 2
    assert [entry["reason"] for entry in slack.world.logged("delivery_failed")] == ["timeout"]


@pytest.mark.parametrize("reason", ["warning", "refresh_requested", "too_many_websockets", "cut"])
async def test_receiver_connects_again_after_a_disconnect(slack: SlackSimulator, inbox: Inbox, reason: str) -> None:
    async with receiving(slack, inbox):
        await (slack.sockets.drop() if reason == "cut" else slack.sockets.disconnect(reason))
        async with asyncio.timeout(10):
            await slack.sockets.wait_for_connections(0)
            await slack.sockets.wait_for_connections(1)
        slack.say("talk")
        await inbox.wait_for(lambda seen: len(seen.bodies) == 1)


async def test_event_in_hand_is_acknowledged_on_the_socket_that_is_going_away(
    slack: SlackSimulator, inbox: Inbox
) -> None:
    inbox.hold = asyncio.Event()

    async with receiving(slack, inbox):
        slack.say("talk")
        await inbox.wait_for(lambda seen: seen.calls == 1)
        await slack.sockets.disconnect("refresh_requested")
        async with asyncio.timeout(10):
            await slack.sockets.wait_for_connections(1)
        inbox.hold.set()
        await inbox.wait_for(lambda seen: len(seen.bodies) == 1)

    assert [entry["attempt"] for entry in slack.world.logged("delivered")] == [0]


async def test_stop_lets_a_running_handler_finish_and_closes_the_socket(slack: SlackSimulator, inbox: Inbox) -> None:
    inbox.hold = asyncio.Event()

    async with receiving(slack, inbox):
        slack.say("talk")
        await inbox.wait_for(lambda seen: seen.calls == 1)
        asyncio.get_running_loop().call_later(0.05, inbox.hold.set)

    assert len(inbox.bodies) == 1
    assert slack.sockets.connections == 0
    assert slack.world.logged("delivery_failed") == []


async def test_restarted_slack_is_found_again_with_a_fresh_address(inbox: Inbox) -> None:
    options = SlackSimulatorOptions(app_token=APP_TOKEN)
    first = SlackSimulator(options)
    await first.start()
    port = int(first.base_url.rpartition(":")[2])

    async with receiving(first, inbox) as receiver:
        await first.close()
        async with SlackSimulator(SlackSimulatorOptions(app_token=APP_TOKEN, port=port)) as second:
            async with asyncio.timeout(20):
                await second.sockets.wait_for_connections(1)
                await receiver.wait_connected()
            second.say("talk")
            await inbox.wait_for(lambda seen: len(seen.bodies) == 1)


async def test_refused_app_token_ends_the_receiver_with_the_reason(slack: SlackSimulator, inbox: Inbox) -> None:
    receiver = SocketModeReceiver(app_for(slack, inbox), SecretStr("xapp-wrong"), base_url=slack.api_url)

    with pytest.raises(CredentialsError, match="invalid_auth"):
        await receiver.run(asyncio.Event())

    assert not receiver.is_connected
