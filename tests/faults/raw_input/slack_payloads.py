"""Payloads as Slack sends them, and the same ones spoiled."""

import itertools
from typing import Any

from hypothesis import strategies as st

from tests.faults.raw_input.conftest import BOT, TEAM
from tests.faults.raw_input.values import OBJECTS, as_json, spoiled

numbers = itertools.count(1)
_TS = "1795216375.000100"


def outer(event: dict[str, Any], event_id: str) -> dict[str, Any]:
    bot = {"team_id": TEAM, "enterprise_id": None, "user_id": BOT, "is_bot": True, "is_enterprise_install": False}
    return {
        "type": "event_callback",
        "event_id": event_id,
        "event_time": 1795216375,
        "api_app_id": "A0FUZZ",
        "team_id": TEAM,
        "authorizations": [bot],
        "event": event,
    }


MENTION = {
    "type": "app_mention",
    "user": "U0ALICE",
    "text": f"<@{BOT}> hello",
    "channel": "C0GEN",
    "ts": _TS,
    "thread_ts": _TS,
    "channel_type": "channel",
    "files": [{"id": "F01", "name": "a.txt", "mimetype": "text/plain", "size": 3, "url_private": "https://x/y"}],
    "blocks": [{"type": "rich_text", "elements": [{"type": "text", "text": "hello"}]}],
    "client_msg_id": "5f6a",
}
_CHANGE = {"type": "message", "channel": "C0GEN", "previous_message": MENTION}
EVENTS: list[dict[str, Any]] = [
    MENTION,
    {**MENTION, "type": "message", "channel_type": "im", "channel": "D0IM"},
    {**_CHANGE, "subtype": "message_changed", "message": MENTION},
    {**_CHANGE, "subtype": "message_deleted", "deleted_ts": _TS},
    {"type": "tokens_revoked", "tokens": {"bot": ["U1"], "oauth": ["U2"]}},
    {"type": "app_uninstalled"},
    {"type": "reaction_added", "user": "U0ALICE", "reaction": "eyes", "item": {"type": "message", "ts": _TS}},
]
OTHER_PAYLOADS: list[dict[str, Any]] = [
    {"type": "url_verification", "challenge": "c", "token": "t"},
    {"type": "app_rate_limited", "team_id": TEAM, "minute_rate_limited": 1},
    {
        "type": "block_actions",
        "team": {"id": TEAM},
        "user": {"id": "U1", "team_id": TEAM},
        "actions": [{"type": "button"}],
    },
    {"type": "view_submission", "team": {"id": TEAM}, "user": {"id": "U1"}, "view": {"state": {"values": {}}}},
    {"type": "shortcut", "team": {"id": TEAM}, "callback_id": "x", "trigger_id": "1.2.3"},
]

events = st.sampled_from(EVENTS).flatmap(
    lambda event: (
        spoiled(event).map(lambda it: outer(it, f"EvGarbage{next(numbers)}"))
        | spoiled(outer(event, f"EvGarbage{next(numbers)}"))
    )
)
payloads = st.one_of(events, st.sampled_from(OTHER_PAYLOADS).flatmap(spoiled), OBJECTS)
json_bodies = payloads.map(as_json)


def good_event(number: int) -> dict[str, Any]:
    return outer({**MENTION, "ts": f"1795300000.{number:06}", "thread_ts": None}, f"EvGood{number}")
