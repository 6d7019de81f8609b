"""SlackMessenger against a Slack that goes wrong in every way on record; what landed is counted."""

import asyncio
import uuid
from dataclasses import replace

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.notifications import Button
from nubabel_workers.domain.slack_text import reply_parts
from nubabel_workers.simulators.slack import Fault, FaultKind, Message, SlackSimulator

CHANNEL = "C0GENERAL"
OLDEST = "0000000000.000000"


def landed(slack: SlackSimulator, root: Message) -> list[Message]:
    return [message for message in slack.workspace().channels[CHANNEL].thread(root.ts) if message.bot_id is not None]


async def post(
    messenger: SlackMessenger, token: SecretStr, root: Message, markdown: str = "**Done.**", delivery_id: str = "ntf_1"
) -> str:
    return await messenger.post(token, channel=CHANNEL, thread_ts=root.ts, markdown=markdown, delivery_id=delivery_id)


async def test_post_lands_in_the_thread_as_markdown_with_a_fallback_and_its_delivery_id(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")

    ts = await post(messenger, token, root)

    (message,) = landed(slack, root)
    assert message.ts == ts
    assert message.blocks == [{"type": "markdown", "text": "**Done.**"}]
    assert message.text == "*Done.*"
    assert message.metadata == {"event_type": "nubabel_reply", "event_payload": {"delivery_id": "ntf_1"}}


async def test_a_button_stands_below_the_text_and_is_left_out_where_slack_refuses_blocks(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root, button = slack.say("@nubabel hi"), Button("nubabel_allow_more", "exe_1:1", "Allow $1 more")
    too_long = replace(button, label="x" * 76)

    for number, one in enumerate((button, too_long)):
        await messenger.post(
            token,
            channel=CHANNEL,
            thread_ts=root.ts,
            markdown="Paused.",
            delivery_id=f"ntf_{number}",
            button=one,
        )

    shown, without = landed(slack, root)
    assert [(one["action_id"], one["value"]) for one in shown.buttons] == [("nubabel_allow_more", "exe_1:1")]
    assert (shown.body, without.body, without.buttons) == ("Paused.", "Paused.", [])


async def test_client_msg_id_travels_along(slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr) -> None:
    root, given = slack.say("@nubabel hi"), str(uuid.uuid5(uuid.NAMESPACE_URL, "ntf_1"))

    await messenger.post(
        token, channel=CHANNEL, thread_ts=root.ts, markdown="x", delivery_id="ntf_1", client_msg_id=given
    )

    assert landed(slack, root)[0].client_msg_id == given


@pytest.mark.parametrize(
    ("fault", "error", "count"),
    [
        pytest.param(Fault("*", FaultKind.RATE_LIMITED, seconds=7), RateLimitedError, 0, id="429"),
        pytest.param(Fault("*", FaultKind.ERROR, code="ratelimited"), RateLimitedError, 0, id="ratelimited"),
        pytest.param(Fault("*", FaultKind.HTTP_STATUS, status=500), UncertainError, 0, id="HTTP 500"),
        pytest.param(Fault("*", FaultKind.HTTP_STATUS, status=503), UncertainError, 0, id="HTTP 503"),
        pytest.param(Fault("*", FaultKind.HTTP_STATUS, status=400), PermanentError, 0, id="HTTP 400"),
        pytest.param(Fault("*", FaultKind.ERROR, code="internal_error"), UncertainError, 0, id="internal_error"),
        pytest.param(Fault("*", FaultKind.ERROR_AFTER, code="fatal_error"), UncertainError, 1, id="fatal_error"),
        pytest.param(Fault("*", FaultKind.ERROR, code="service_unavailable"), UncertainError, 0, id="unavailable"),
        pytest.param(Fault("*", FaultKind.CLOSED), UncertainError, 0, id="closed before handling"),
        pytest.param(Fault("*", FaultKind.LOST_ANSWER), UncertainError, 1, id="answer lost"),
        pytest.param(Fault("*", FaultKind.HTML), UncertainError, 1, id="HTML answer"),
        pytest.param(Fault("*", FaultKind.NOT_JSON), UncertainError, 1, id="answer is not JSON"),
        pytest.param(Fault("*", FaultKind.ERROR, code="token_revoked"), CredentialsError, 0, id="token revoked"),
        pytest.param(Fault("*", FaultKind.ERROR, code="missing_scope"), CredentialsError, 0, id="missing scope"),
        pytest.param(Fault("*", FaultKind.ERROR, code="is_archived"), PermanentError, 0, id="archived"),
        pytest.param(Fault("*", FaultKind.ERROR, code="restricted_action_x"), PermanentError, 0, id="restricted"),
        pytest.param(Fault("*", FaultKind.ERROR, code="brand_new_code"), PermanentError, 0, id="unknown code"),
        pytest.param(Fault("*", FaultKind.ERROR, code="team_added_to_org"), TransientError, 0, id="migrating"),
    ],
)
async def test_failed_post_is_told_as_refused_uncertain_or_again_and_never_repeated(
    slack: SlackSimulator,
    messenger: SlackMessenger,
    token: SecretStr,
    fault: Fault,
    error: type[NubabelError],
    count: int,
) -> None:
    root = slack.say("@nubabel hi")
    slack.faults.plan(fault)

    with pytest.raises(error) as raised:
        await post(messenger, token, root)

    assert type(raised.value) is error
    assert len(landed(slack, root)) == count
    assert len(slack.world.logged("call")) == 1


async def test_late_answer_is_uncertain_and_landed_once(slack: SlackSimulator, token: SecretStr) -> None:
    root = slack.say("@nubabel hi")
    slack.faults.plan(Fault("chat.postMessage", FaultKind.LATE, seconds=5))
    impatient = SlackMessenger(base_url=slack.api_url, timeout_s=0.2)

    with pytest.raises(UncertainError):
        await post(impatient, token, root)

    assert len(landed(slack, root)) == 1
    await impatient.close()


async def test_rate_limit_names_slacks_own_wait(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    slack.faults.plan(Fault("chat.postMessage", FaultKind.RATE_LIMITED, seconds=31))

    with pytest.raises(RateLimitedError) as raised:
        await post(messenger, token, slack.say("@nubabel hi"))

    assert raised.value.retry_after_s == 31


async def test_unreachable_slack_is_certain_not_to_have_posted(token: SecretStr) -> None:
    messenger = SlackMessenger(base_url="http://127.0.0.1:9/api/", timeout_s=2)

    with pytest.raises(UnavailableError, match="could not be reached"):
        await messenger.post(token, channel=CHANNEL, thread_ts="1.1", markdown="x", delivery_id="ntf_1")

    await messenger.close()


async def test_lost_post_is_found_again_by_its_delivery_id(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")
    await post(messenger, token, root, delivery_id="ntf_other")
    slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER))
    with pytest.raises(UncertainError):
        await post(messenger, token, root, delivery_id="ntf_lost")

    found = await messenger.find_by_delivery_id(
        token, channel=CHANNEL, thread_ts=root.ts, delivery_id="ntf_lost", oldest=OLDEST
    )

    assert found == landed(slack, root)[1].ts


async def test_post_that_never_landed_is_not_found(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")

    found = await messenger.find_by_delivery_id(
        token, channel=CHANNEL, thread_ts=root.ts, delivery_id="ntf_1", oldest=OLDEST
    )

    assert found is None


async def test_metadata_of_another_app_is_not_taken_for_ours(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")
    await post(messenger, token, root)
    landed(slack, root)[0].bot_id = "BOTHER"

    found = await messenger.find_by_delivery_id(
        token, channel=CHANNEL, thread_ts=root.ts, delivery_id="ntf_1", oldest=OLDEST
    )

    assert found is None


async def test_look_up_in_a_thread_too_long_to_see_is_uncertain(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")
    for _ in range(120):
        slack.say("chatter", thread_ts=root.ts)

    with pytest.raises(UncertainError, match="longer"):
        await messenger.find_by_delivery_id(
            token, channel=CHANNEL, thread_ts=root.ts, delivery_id="ntf_1", oldest=OLDEST
        )


@pytest.mark.parametrize("code", ["invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "msg_too_long"])
async def test_refused_blocks_are_posted_once_as_plain_text(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr, code: str
) -> None:
    root = slack.say("@nubabel hi")
    slack.faults.plan(Fault("chat.postMessage", FaultKind.ERROR, code=code))

    await post(messenger, token, root, markdown="**bold** " * 500)

    (message,) = landed(slack, root)
    assert message.blocks == []
    assert message.text.count("*bold*") == 500


@pytest.mark.parametrize("length", [3_900, 4_100, 13_500, 45_000])
@pytest.mark.parametrize("word", ["word ", "한국어 "], ids=["english", "korean"])
async def test_answers_of_every_size_arrive_whole(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr, length: int, word: str
) -> None:
    root = slack.say("@nubabel hi")
    answer = (word * length)[:length].strip()

    for part in reply_parts(answer):
        await post(messenger, token, root, markdown=part)

    shown = "".join(message.body for message in landed(slack, root))
    assert shown.count(word.strip()) == answer.count(word.strip())


async def test_answer_that_is_not_split_is_refused_for_its_size_and_posted_as_text(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")

    await post(messenger, token, root, markdown="word " * 2_700)

    assert landed(slack, root)[0].blocks == []


async def test_mentions_in_an_answer_reach_nobody(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")

    await post(messenger, token, root, markdown="<!channel> <@U0BOB> @here")

    (message,) = landed(slack, root)
    assert "<!channel>" not in message.body + message.text
    assert "<@U0BOB>" not in message.body + message.text
    assert "@here" not in message.body + message.text


@pytest.mark.parametrize("text", ["x" * 5_000, "진행 중 " * 2_000, "<&>" * 2_000])
async def test_update_of_any_length_fits_an_edit(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr, text: str
) -> None:
    root = slack.say("@nubabel hi")
    ts = await post(messenger, token, root)

    await messenger.update(token, channel=CHANNEL, ts=ts, text=text)

    (message,) = landed(slack, root)
    assert 3_000 < len(message.text.encode()) <= 3_500
    assert message.blocks == []


async def test_reaction_and_deletion_may_be_repeated(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")
    ts = await post(messenger, token, root)

    for _ in range(2):
        await messenger.add_reaction(token, channel=CHANNEL, ts=root.ts, name="eyes")
    assert root.reactions == {"eyes": [slack.workspace().bot_user_id]}
    for _ in range(2):
        await messenger.remove_reaction(token, channel=CHANNEL, ts=root.ts, name="eyes")
        await messenger.delete(token, channel=CHANNEL, ts=ts)

    assert root.reactions == {}
    assert landed(slack, root) == []


@pytest.mark.parametrize("kind", [FaultKind.LOST_ANSWER, FaultKind.HTML, FaultKind.ERROR, FaultKind.HTTP_STATUS])
async def test_open_outcome_of_a_repeatable_call_is_merely_transient(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr, kind: FaultKind
) -> None:
    root = slack.say("@nubabel hi")
    slack.faults.plan(Fault("reactions.add", kind))

    with pytest.raises(UnavailableError):
        await messenger.add_reaction(token, channel=CHANNEL, ts=root.ts, name="eyes")


async def test_deleted_root_archived_channel_and_removed_app_are_permanent(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    gone, root = slack.say("@nubabel hi"), slack.say("@nubabel again")
    slack.world.delete_by_person(slack.workspace(), CHANNEL, gone.ts)
    with pytest.raises(PermanentError) as thread:
        await post(messenger, token, gone)

    slack.workspace().channels[CHANNEL].archived = True
    with pytest.raises(PermanentError) as archived:
        await post(messenger, token, root)

    slack.world.uninstall("T0ONE")
    with pytest.raises(CredentialsError) as removed:
        await post(messenger, token, root)

    assert [error.value.code for error in (thread, archived, removed)] == [
        "thread_not_found",
        "is_archived",
        "token_revoked",
    ]


async def test_two_tenants_with_the_same_channel_id_stay_apart(
    slack: SlackSimulator, messenger: SlackMessenger
) -> None:
    roots = {team: slack.say("@nubabel hi", team=team) for team in ("T0ONE", "T0TWO")}

    for team, root in roots.items():
        await post(messenger, SecretStr(slack.workspace(team).bot_token), root, markdown=f"for {team}")

    for team, root in roots.items():
        replies = slack.workspace(team).channels[CHANNEL].replies[root.ts]
        assert [slack.workspace(team).channels[CHANNEL].messages[ts].body for ts in replies] == [f"for {team}"]


async def test_a_thread_is_read_page_by_page_each_message_once(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("the &lt;root&gt;", files=[{"name": "a.csv", "content": "1,2"}])
    replies = [slack.say(f"reply {number}", thread_ts=root.ts) for number in range(4)]
    await post(messenger, token, root, markdown="an answer")
    read = {"channel": CHANNEL, "thread_ts": root.ts}

    first = await messenger.thread_messages(token, **read, limit=3)
    second = await messenger.thread_messages(token, **read, limit=3, cursor=first.next_cursor)
    last = await messenger.thread_messages(token, **read, limit=3, cursor=second.next_cursor)
    before = await messenger.thread_messages(token, **read, limit=50, before_ts=replies[2].ts)

    pages = [[message.text for message in page.messages] for page in (first, second, last)]
    assert pages == [["the <root>", "reply 0", "reply 1"], ["reply 2", "reply 3"], ["an answer"]]
    assert first.messages[0].files[0].name == "a.csv"
    assert (last.messages[-1].is_bot, last.next_cursor) == (True, None)
    assert [message.text for message in before.messages] == ["the <root>", "reply 0", "reply 1"]


async def test_the_newest_of_a_thread_are_read_with_its_root_from_a_moment_on(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("the root")
    replies = [slack.say(f"reply {number}", thread_ts=root.ts) for number in range(4)]

    count = await messenger.count_replies(token, channel=CHANNEL, thread_ts=root.ts)
    tail = await messenger.thread_messages(
        token, channel=CHANNEL, thread_ts=root.ts, limit=50, after_ts=replies[1].ts, before_ts=replies[3].ts
    )

    assert count == 4
    assert await messenger.count_replies(token, channel=CHANNEL, thread_ts=slack.say("alone").ts) == 0
    assert [message.text for message in tail.messages] == ["the root", "reply 2"]


async def test_identity_of_a_token(slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr) -> None:
    identity = await messenger.auth_test(token)

    assert (identity.team_id, identity.bot_user_id) == ("T0ONE", slack.workspace().bot_user_id)
    with pytest.raises(CredentialsError):
        await messenger.auth_test(SecretStr("xoxb-unknown"))


async def test_attached_file_is_downloaded_within_its_limit(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    url = slack.say("see", files=[{"name": "a.txt", "content": "한글" * 100}]).files[0]["url_private"]

    assert (await messenger.download_file(token, url, max_bytes=600)).decode() == "한글" * 100
    with pytest.raises(PermanentError) as too_large:
        await messenger.download_file(token, url, max_bytes=599)
    assert too_large.value.code == "file_too_large"


async def test_sign_in_page_is_not_taken_for_the_file(slack: SlackSimulator, messenger: SlackMessenger) -> None:
    url = slack.say("see", files=[{"name": "a.txt", "content": "x"}]).files[0]["url_private"]

    with pytest.raises(PermanentError) as refused:
        await messenger.download_file(SecretStr(slack.workspace("T0TWO").bot_token), url, max_bytes=600)

    assert refused.value.code == "file_not_readable"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a",
        "https://slack.com.evil.example/a",
        "https://files.slack.com:8443/a",
        "http://files.slack.com/a",
        "https://user@files.slack.com/a",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a",
        "not a url",
        "https://[::1/a",
        "",
    ],
)
async def test_token_is_only_sent_to_slacks_own_hosts(messenger: SlackMessenger, token: SecretStr, url: str) -> None:
    with pytest.raises(InvalidInputError):
        await messenger.download_file(token, url, max_bytes=10)


async def test_calls_at_once_share_one_pool(slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr) -> None:
    root = slack.say("@nubabel hi")

    await asyncio.gather(*(post(messenger, token, root, delivery_id=f"ntf_{number}") for number in range(200)))

    assert len(landed(slack, root)) == 200


async def test_token_and_text_stay_out_of_errors(
    slack: SlackSimulator, messenger: SlackMessenger, token: SecretStr
) -> None:
    root = slack.say("@nubabel hi")
    slack.faults.plan(Fault("chat.postMessage", FaultKind.NOT_JSON))

    with pytest.raises(UncertainError) as raised:
        await post(messenger, token, root, markdown="private words")

    assert token.get_secret_value() not in str(raised.value)
    assert "private words" not in str(raised.value)
    assert raised.value.__cause__ is None
