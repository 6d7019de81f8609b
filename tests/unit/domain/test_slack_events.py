"""What each Slack event means, from the bodies that Slack sends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.slack_events import (
    SlackEvent,
    SlackEventKind,
    classify,
    is_stop_word,
    plain_text,
)

BOT = "U0NUB"
TS = "1795216375.000100"
ROOT = "1795216300.000200"


def envelope(event: dict[str, Any], **outer: Any) -> dict[str, Any]:
    return {
        "type": "event_callback",
        "event_id": "Ev0A1",
        "event_time": 1795216375,
        "api_app_id": "A0NUB",
        "team_id": "T0ONE",
        "authorizations": [{"enterprise_id": None, "team_id": "T0ONE", "user_id": BOT, "is_bot": True}],
        "event": event,
    } | outer


def message(**fields: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "channel": "C0GEN",
        "channel_type": "channel",
        "user": "U0ALICE",
        "text": "hello",
        "ts": TS,
    } | fields


def classified(event: dict[str, Any], bot_user_id: str | None = BOT, **outer: Any) -> SlackEvent:
    return classify(envelope(event, **outer), bot_user_id)


def test_mention_in_channel_is_addressed_to_us_without_its_mention() -> None:
    event = {
        "type": "app_mention",
        "user": "U0ALICE",
        "text": "<@U0NUB> deploy?",
        "channel": "C0GEN",
        "ts": TS,
        "thread_ts": ROOT,
    }

    result = classified(event)

    assert result.kind is SlackEventKind.MENTION
    assert result.text == "deploy?"
    assert (result.thread_ts, result.is_reply_in_thread) == (ROOT, True)
    assert result.conversation_key == f"C0GEN:{ROOT}"
    assert result.channel_type == "channel"


def test_mention_and_its_message_twin_share_one_key() -> None:
    mention = classified(
        {"type": "app_mention", "user": "U0ALICE", "text": "<@U0NUB> hi", "channel": "C0GEN", "ts": TS}
    )
    twin = classified(message(text="<@U0NUB> hi"), event_id="Ev0A2")

    assert twin.kind is SlackEventKind.MENTION
    assert mention.dedupe_key == twin.dedupe_key == f"msg:C0GEN:{TS}"


def test_twin_inside_a_thread_is_a_mention_and_not_a_thread_reply() -> None:
    assert classified(message(text="<@U0NUB> and now?", thread_ts=ROOT)).kind is SlackEventKind.MENTION


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        pytest.param(message(channel="D0AB", channel_type="im"), SlackEventKind.DIRECT_MESSAGE, id="direct message"),
        pytest.param(message(channel="D0AB", channel_type=None), SlackEventKind.DIRECT_MESSAGE, id="type from the id"),
        pytest.param(message(thread_ts=ROOT), SlackEventKind.THREAD_REPLY, id="reply without mention"),
        pytest.param(message(thread_ts=ROOT, subtype="thread_broadcast"), SlackEventKind.THREAD_REPLY, id="broadcast"),
        pytest.param(message(thread_ts=TS), SlackEventKind.IGNORED, id="root that shows its own thread_ts"),
        pytest.param(message(), SlackEventKind.IGNORED, id="talk between people"),
        pytest.param(message(channel_type="mpim"), SlackEventKind.IGNORED, id="group talk without mention"),
        pytest.param(message(channel_type="mpim", text=f"<@{BOT}> hi"), SlackEventKind.MENTION, id="group mention"),
        pytest.param(
            message(channel_type="group", text=f"<@{BOT}|nub> hi"), SlackEventKind.MENTION, id="named mention"
        ),
        pytest.param(message(subtype="file_share", text=f"<@{BOT}>"), SlackEventKind.MENTION, id="file share"),
        pytest.param(message(text=f"<@{BOT}>", bot_id="B1"), SlackEventKind.IGNORED, id="another app"),
        pytest.param(message(text=f"<@{BOT}>", subtype="bot_message"), SlackEventKind.IGNORED, id="bot_message"),
        pytest.param(message(text=f"<@{BOT}>", user=BOT), SlackEventKind.IGNORED, id="own message"),
        pytest.param(message(subtype="channel_join"), SlackEventKind.IGNORED, id="channel join"),
        pytest.param(message(hidden=True, thread_ts=ROOT), SlackEventKind.IGNORED, id="hidden"),
        pytest.param({"type": "app_uninstalled"}, SlackEventKind.UNINSTALLED, id="uninstalled"),
        pytest.param(
            {"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [BOT]}},
            SlackEventKind.TOKENS_REVOKED,
            id="revoked",
        ),
        pytest.param(
            {"type": "tokens_revoked", "tokens": {"oauth": ["U1"], "bot": []}}, SlackEventKind.IGNORED, id="user tokens"
        ),
        pytest.param({"type": "member_joined_channel"}, SlackEventKind.IGNORED, id="unknown inner type"),
    ],
)
def test_kind_of_event(event: dict[str, Any], kind: SlackEventKind) -> None:
    assert classified(event).kind is kind


def test_bot_user_from_the_envelope_serves_where_the_installation_names_none() -> None:
    assert classified(message(text=f"<@{BOT}> hi"), bot_user_id=None).kind is SlackEventKind.MENTION


def test_top_level_message_is_the_root_of_its_own_conversation() -> None:
    result = classified(message(channel="D0AB", channel_type="im"))

    assert (result.ts, result.thread_ts, result.is_reply_in_thread) == (TS, TS, False)


def test_attached_files_are_listed_and_broken_entries_left_out() -> None:
    files = [
        {
            "id": "F1",
            "name": "a.csv",
            "mimetype": "text/csv",
            "size": 12,
            "url_private": "https://files.slack.com/a.csv",
        },
        {"id": "F2", "mode": "hidden_by_limit", "size": -1},
        {"name": "no id"},
        "garbage",
    ]

    result = classified(message(subtype="file_share", text=f"<@{BOT}> see", files=files))

    assert [(file.id, file.name, file.size, file.url_private) for file in result.files] == [
        ("F1", "a.csv", 12, "https://files.slack.com/a.csv"),
        ("F2", "F2", 0, ""),
    ]


def change(**message: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "subtype": "message_changed",
        "hidden": True,
        "channel": "C0GEN",
        "channel_type": "channel",
        "ts": "1795216390.000300",
        "message": {"user": "U0ALICE", "text": "new", "ts": TS, **message},
        "previous_message": {"user": "U0ALICE", "text": "old", "ts": TS},
    }


def test_edit_is_recognised_and_the_first_of_a_message_stands_for_all() -> None:
    result = classified(change())

    assert (result.kind, result.ts, result.text) == (SlackEventKind.EDITED, TS, "new")
    assert result.dedupe_key == f"edit:C0GEN:{TS}"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"text": "old", "attachments": [{"title": "a page"}]}, id="a link was unfurled"),
        pytest.param({"bot_id": "B0NUB"}, id="our own progress"),
    ],
)
def test_a_change_that_is_no_edit_of_a_persons_words_is_ignored(message: dict[str, Any]) -> None:
    assert classified(change(**message)).kind is SlackEventKind.IGNORED


def deletion(**fields: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "subtype": "message_deleted",
        "hidden": True,
        "channel": "C0GEN",
        "channel_type": "channel",
        "ts": "1795216400.000100",
        "deleted_ts": TS,
        "previous_message": {"user": "U0ALICE", "text": "x", "ts": TS},
    } | fields


def test_deleted_question_names_the_deleted_message_and_its_thread() -> None:
    result = classified(deletion())

    assert (result.kind, result.deleted_ts, result.user) == (SlackEventKind.DELETED, TS, "U0ALICE")
    assert (result.dedupe_key, result.conversation_key) == (f"del:C0GEN:{TS}", f"C0GEN:{TS}")


def test_deleted_reply_belongs_to_its_root() -> None:
    result = classified(deletion(previous_message={"user": "U0ALICE", "ts": TS, "thread_ts": ROOT}))

    assert (result.conversation_key, result.is_reply_in_thread) == (f"C0GEN:{ROOT}", True)


def test_deleted_root_with_replies_arrives_as_tombstone_and_is_a_deletion() -> None:
    tombstone = {
        "type": "message",
        "subtype": "message_changed",
        "hidden": True,
        "channel": "C0GEN",
        "ts": "1795216400.000100",
        "message": {"subtype": "tombstone", "user": "USLACKBOT", "text": "This message was deleted.", "ts": TS},
        "previous_message": {"user": "U0ALICE", "text": "x", "ts": TS, "thread_ts": TS},
    }

    result = classified(tombstone)

    assert (result.kind, result.deleted_ts, result.user) == (SlackEventKind.DELETED, TS, "U0ALICE")


def test_deletion_of_our_own_message_is_ignored() -> None:
    assert (
        classified(deletion(previous_message={"user": BOT, "ts": TS})).ignored_reason == "a bot's message was deleted"
    )


@pytest.mark.parametrize("text", ["(aside) is it slow today?", "!aside back later", f"<@{BOT}> (Aside) hm"])
def test_aside_is_kept_out_of_the_conversation(text: str) -> None:
    assert classified(message(text=text, thread_ts=ROOT)).ignored_reason == "aside"


def test_ignored_twin_never_shares_the_key_of_the_one_that_matters() -> None:
    assert classified(message()).dedupe_key == "evt:Ev0A1"


def test_tenant_comes_from_the_authorization_before_the_outer_team() -> None:
    shared = [{"enterprise_id": "E1", "team_id": "T0OURS", "user_id": BOT, "is_bot": True}]

    result = classified(message(), team_id="T0OTHER", authorizations=shared)

    assert (result.team_id, result.enterprise_id) == ("T0OURS", "E1")


def test_tenant_falls_back_to_the_outer_team() -> None:
    assert classified(message(), authorizations=[]).team_id == "T0ONE"


@pytest.mark.parametrize("outer_type", ["url_verification", "app_rate_limited", "view_submission"])
def test_other_outer_types_are_ignored(outer_type: str) -> None:
    assert classify({"type": outer_type, "team_id": "T1"}, None).ignored_reason == f"outer type {outer_type}"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param({}, "type must be a string", id="empty"),
        pytest.param([], "must be a JSON object", id="not an object"),
        pytest.param(envelope(message()) | {"event_id": None}, "event_id is missing", id="no event id"),
        pytest.param(envelope(message()) | {"event": []}, "event must be a JSON object", id="event not an object"),
        pytest.param(envelope(message(ts=1795216375.0001)), "ts is not a Slack timestamp", id="ts as a number"),
        pytest.param(envelope(message(ts=None)), "ts is missing", id="no ts"),
        pytest.param(envelope(message(user=None)), "user is missing", id="no user"),
        pytest.param(envelope(message(channel="a b")), "channel is not a Slack id", id="channel with a space"),
        pytest.param(envelope(message(text=5)), "text must be a string", id="text not a string"),
        pytest.param(envelope(message()) | {"team_id": None, "authorizations": None}, "team_id", id="no tenant"),
        pytest.param(envelope(message()) | {"event_id": "E\x00"}, "event_id is not a Slack id", id="NUL in an id"),
    ],
)
def test_malformed_body_is_refused_with_what_is_wrong(body: Any, complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        classify(body, BOT)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (f"<@{BOT}> hi", "hi"),
        (f"hi <@{BOT}> there", "hi there"),
        (f"<@{BOT}>\n  indented   code", "indented   code"),
        ("a &lt;b&gt; &amp;amp; c", "a <b> &amp; c"),
        ("see <https://x.example/a?b=1&amp;c=2>", "see https://x.example/a?b=1&c=2"),
        ("<https://x.example|docs>", "docs (https://x.example)"),
        ("<http://x.example|x.example>", "http://x.example"),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
        ("ask <@U2|bob> in <#C1|general> <!here> <!subteam^S1|@devs>", "ask @bob in #general @here @devs"),
        ("<@U2> <#C1> <!subteam^S1>", "@U2 #C1 @subteam"),
        ("nul\x00 and \ud800", "nul and ?"),
        ("안녕 &lt;3", "안녕 <3"),
    ],
)
def test_wire_text_becomes_what_a_person_reads(wire: str, text: str) -> None:
    assert plain_text(wire, BOT) == text


@pytest.mark.parametrize(
    "text", ["stop", "Stop!", " STOP. ", "cancel", "중지", "그만!", "취소해줘", "멈춰~", "please  stop"]
)
def test_stop_word_alone_stops(text: str) -> None:
    assert is_stop_word(text)


@pytest.mark.parametrize("text", ["stop the server", "취소 버튼을 추가해줘", "", "...", "don't stop", "그만큼"])
def test_stop_word_inside_a_sentence_does_not(text: str) -> None:
    assert not is_stop_word(text)


_leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_json = st.recursive(_leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4))
_message_like = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "app_mention", "tokens_revoked"]) | _json},
    optional={
        "subtype": st.sampled_from(["message_changed", "message_deleted", "file_share", "bot_message"]) | _json,
        "channel": st.just("C1") | _json,
        "channel_type": st.sampled_from(["im", "channel", "mpim"]) | _json,
        "user": st.just("U1") | _json,
        "text": st.text() | _json,
        "ts": st.just(TS) | _json,
        "thread_ts": st.just(ROOT) | _json,
        "deleted_ts": st.just(TS) | _json,
        "message": st.fixed_dictionaries({"ts": st.just(TS) | _json, "subtype": st.just("tombstone") | _json}) | _json,
        "previous_message": _json,
        "files": st.lists(st.fixed_dictionaries({"id": st.just("F1") | _json}) | _json, max_size=2) | _json,
        "tokens": _json,
        "client_msg_id": _json,
    },
)
_bodies = st.fixed_dictionaries(
    {
        "type": st.just("event_callback") | _json,
        "event_id": st.just("Ev1") | _json,
        "event": _message_like | _json,
    },
    optional={
        "team_id": st.just("T1") | _json,
        "authorizations": st.lists(st.fixed_dictionaries({"team_id": st.just("T1") | _json}) | _json) | _json,
    },
)


@given(body=_bodies | _json, bot_user_id=st.none() | st.text(max_size=12))
def test_any_body_is_classified_or_refused_as_invalid_input(body: Any, bot_user_id: str | None) -> None:
    try:
        result = classify(body, bot_user_id)
    except InvalidInputError:
        return
    assert result.dedupe_key


# --- buttons ---------------------------------------------------------------------------------------------------------


def press(**fields: Any) -> dict[str, Any]:
    return {
        "type": "block_actions",
        "team": {"id": "T0ONE", "domain": "one"},
        "enterprise": None,
        "user": {"id": "U0ALICE", "team_id": "T0ONE"},
        "channel": {"id": "C0GEN"},
        "message": {"ts": TS, "thread_ts": ROOT, "user": BOT},
        "actions": [{"action_id": "nubabel_allow_more", "value": "exe_1:2", "action_ts": "1795216399.000700"}],
    } | fields


def test_a_press_of_our_button_says_who_where_and_what() -> None:
    event = classify(press(), BOT)

    assert (event.kind, event.team_id, event.user, event.button_value) == ("button", "T0ONE", "U0ALICE", "exe_1:2")
    assert (event.ts, event.conversation_key, event.text) == (TS, f"C0GEN:{ROOT}", "")


def test_each_press_is_told_apart_and_the_same_one_is_the_same() -> None:
    again = press(actions=[press()["actions"][0] | {"action_ts": "1795216400.000000"}])
    by_another = press(user={"id": "U0BEN", "team_id": "T0ONE"})

    keys = [classify(body, BOT).dedupe_key for body in (press(), press(), again, by_another)]

    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("body", [press(team=None), press(team={"id": "T0OTHER"}, enterprise={"id": "E0ORG"})])
def test_whose_press_it_is_follows_from_the_installation(body: dict[str, Any]) -> None:
    event = classify(body, BOT)

    assert (event.team_id, event.enterprise_id) in {("T0ONE", None), ("T0OTHER", "E0ORG")}


@pytest.mark.parametrize(
    "body", [press(actions=[]), press(actions=[{"action_id": "other"}]), press(message=None), press(actions="x")]
)
def test_a_button_that_is_not_ours_is_ignored(body: dict[str, Any]) -> None:
    assert classify(body, BOT).kind is SlackEventKind.IGNORED


@pytest.mark.parametrize(
    "body",
    [
        press(user=None),
        press(team=None, user={"id": "U0ALICE"}),
        press(team=7),
        press(channel={"id": "; DROP"}),
        press(message={"ts": "now"}),
        press(actions=[{"action_id": "nubabel_allow_more", "value": 7, "action_ts": "1.0"}]),
        press(actions=[{"action_id": "nubabel_allow_more", "value": "x"}]),
    ],
)
def test_a_press_that_no_slack_would_send_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        classify(body, BOT)
