"""Of a long thread the newest messages matter most; what could not be read is said."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import RateLimitedError
from nubabel_workers.domain.executions import Attachment, Execution, Status
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, SessionId, WorkspaceId
from nubabel_workers.domain.notifications import SlackTarget
from nubabel_workers.domain.ports import Messenger
from nubabel_workers.domain.slack_events import ThreadExcerpt, ThreadMessage
from nubabel_workers.domain.tenants import Workspace
from nubabel_workers.services.gather_context import ContextLimits, GatherContext, Gathered
from tests.fakes.clock import START, FakeClock
from tests.fakes.tenants import FakeTenants
from tests.fakes.throttle import FakeThrottle

PAGE = 15


@dataclass
class LongThread:
    """Slack's way: oldest first, a page at a time. refuses_from: the call from which on it says 429."""

    texts: Sequence[str]
    refuses_from: int = 1_000
    calls: list[dict[str, Any]] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    hangs_from: int = 1_000  # the call from which on Slack says nothing
    long_ago: int = 0  # how many of the first messages stand before whatever moment is asked for

    async def count_replies(self, _token: SecretStr, *, channel: str, thread_ts: str) -> int:
        """With the message that asks, which stands after these."""
        self.counts.append(f"{channel}:{thread_ts}")
        return len(self.texts)

    async def thread_messages(self, _token: SecretStr, **asked: Any) -> ThreadExcerpt:
        self.calls.append(asked)
        if len(self.calls) >= self.refuses_from:
            raise RateLimitedError("conversations.replies: ratelimited", retry_after_s=60)
        if len(self.calls) >= self.hangs_from:
            await asyncio.Event().wait()
        begin = int(asked["cursor"] or 0)
        end = begin + asked["limit"]
        messages = tuple(
            ThreadMessage("U1", text, f"{number}.1", is_bot=False)
            for number, text in enumerate(self.texts)
            if number == 0 or self._stands_after(number, asked["after_ts"])
        )
        return ThreadExcerpt(messages[begin:end], next_cursor=str(end) if end < len(messages) else None)

    async def download_file(self, _token: SecretStr, url: str, *, max_bytes: int) -> bytes:
        if url.endswith("/slow"):
            await asyncio.Event().wait()
        return url.encode()[:max_bytes]

    def _stands_after(self, number: int, after_ts: str | None) -> bool:
        if after_ts is not None and self.long_ago:
            return number > self.long_ago
        return number > float(after_ts or 0)


def replies(number: int) -> list[str]:
    return ["the root", *(f"reply {one}." for one in range(1, number))]


async def gathered(
    thread: LongThread,
    *,
    quota: int = 50,
    question: str = "why?",
    reading_s: float = 60.0,
    remembered: Mapping[str, Any] | None = None,
    attachments: tuple[Attachment, ...] = (),
) -> Gathered:
    workspace = Workspace(
        WorkspaceId("wsp_1"),
        OrganizationId("org_1"),
        "T1",
        None,
        "Acme",
        "UBOT",
        None,
        SecretStr("xoxb-1"),
        installed=True,
        installed_at=START,
    )
    tenants = FakeTenants(workspaces={"wsp_1": workspace})
    limits = ContextLimits(read_quota_per_minute=quota, read_page=PAGE)
    gather = GatherContext(cast("Messenger", thread), tenants, FakeThrottle(FakeClock()), limits=limits)
    return await gather.gather(
        Execution(
            ExecutionId("exe_1"),
            OrganizationId("org_1"),
            SessionId("ses_1"),
            "slack",
            Status.DISPATCHING,
            question,
            START,
            reply=SlackTarget("wsp_1", "C1", "0.1", f"{len(thread.texts)}.1").as_dict(),
            wants_thread_context=True,
            context=remembered,
            attachments=attachments,
        ),
        ends_at=asyncio.get_running_loop().time() + reading_s,
    )


async def test_a_thread_of_several_pages_is_read_to_its_end() -> None:
    thread = LongThread(replies(40))

    context = await gathered(thread)

    assert [call["cursor"] for call in thread.calls] == [None, "15", "30"]
    assert context.thread.splitlines()[1:] == [f"<U1> {text}" for text in replies(40)]
    assert context.about_thread == []


async def test_of_more_than_a_prompt_takes_the_root_and_the_newest_are_kept_and_the_gap_is_told() -> None:
    context = await gathered(LongThread(["the root", *(f"{number}: {'x' * 4_000}" for number in range(1, 20))]))

    assert "<U1> the root" in context.thread
    assert "<U1> 19: " in context.thread
    assert context.about_thread == [
        "Of this long thread I took in its first message and the newest 5, without the 14 between them."
    ]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("why?", "I could read only 30 messages, not the newest ones before your question"),
        ("왜?", "이 스레드에서 메시지 30개만 읽었고, 질문 직전의 최신 메시지는 읽지 못했습니다"),
    ],
)
async def test_where_the_quota_ends_before_the_thread_the_agent_and_the_person_are_told_that_the_newest_are_missing(
    question: str, said: str
) -> None:
    thread = LongThread(replies(40))

    context = await gathered(thread, quota=2, question=question)

    assert len(thread.calls) == 2
    assert context.thread.endswith("(newer messages could not be read)")
    (note,) = context.about_thread
    assert said in note


async def test_a_single_page_is_spent_on_the_root_and_the_newest_and_the_gap_is_told() -> None:
    thread = LongThread(replies(40))

    context = await gathered(thread, quota=1)

    assert len(thread.calls) == 1
    assert context.thread.splitlines()[1:3] == ["<U1> the root", "(33 messages left out here)"]
    assert context.thread.endswith("<U1> reply 39.")
    assert context.about_thread == [
        "Of this long thread I took in its first message and the newest 6, without the 33 between them."
    ]


async def test_where_a_burst_overflows_the_single_page_the_newest_are_said_to_be_missing() -> None:
    context = await gathered(LongThread(replies(40), long_ago=5), quota=1)

    lines = context.thread.splitlines()
    assert lines[1:4] == ["<U1> the root", "(25 messages left out here and at the end)", "<U1> reply 6."]
    assert lines[-2:] == ["<U1> reply 19.", "(newer messages could not be read)"]
    assert "I could read only 15 messages, not the newest ones" in context.about_thread[0]


async def test_a_thread_that_fits_a_single_page_is_read_whole() -> None:
    thread = LongThread(replies(PAGE))

    context = await gathered(thread, quota=1)

    assert context.thread.splitlines()[1:] == [f"<U1> {text}" for text in replies(PAGE)]
    assert context.about_thread == []


async def test_whoever_may_read_several_pages_does_not_count_them_first() -> None:
    thread = LongThread(replies(40))

    await gathered(thread)

    assert thread.counts == []


async def test_what_was_read_until_slack_said_no_is_kept() -> None:
    context = await gathered(LongThread(replies(40), refuses_from=3))

    assert "reply 29." in context.thread
    assert "only 30 messages" in context.about_thread[0]


async def test_a_thread_without_end_does_not_use_up_the_quota_of_all() -> None:
    thread = LongThread(replies(1_000))

    context = await gathered(thread)

    assert len(thread.calls) == 10
    assert "only 150 messages" in context.about_thread[0]


async def test_a_thread_that_takes_too_long_to_read_does_not_keep_the_answer_waiting() -> None:
    thread = LongThread(replies(1_000))

    context = await gathered(thread, reading_s=0)

    assert thread.calls == []
    assert context.about_thread


async def test_a_page_that_does_not_come_is_not_waited_for() -> None:
    context = await gathered(LongThread(replies(40), hangs_from=3), reading_s=0.1)

    assert "reply 29." in context.thread
    assert "only 30 messages" in context.about_thread[0]


async def test_a_file_that_does_not_come_in_time_is_left_out_and_takes_no_time_from_the_thread() -> None:
    files = [Attachment(name, "text/plain", 9, f"https://files.slack.com/{name}") for name in ("quick", "slow", "late")]

    context = await gathered(LongThread(replies(40)), reading_s=0.1, attachments=tuple(files))

    assert [file.name for file in context.files] == ["quick"]
    assert context.notes == ["Not read: slow, late."]
    assert "reply 39." in context.thread


async def test_the_next_attempt_knows_what_was_read_and_said_of_the_thread() -> None:
    first = await gathered(LongThread(replies(40)), quota=2)
    thread = LongThread(replies(40))

    again = await gathered(thread, remembered=first.noting(["economical"]).remembered)

    assert thread.calls == []
    assert again == replace(first, notes=["economical"])


async def test_what_an_earlier_release_wrote_down_of_a_thread_is_still_said() -> None:
    again = await gathered(LongThread(replies(2)), remembered={"thread": "the root", "notes": ["not the newest ones"]})

    assert (again.thread, again.notes, again.about_thread) == ("the root", ["not the newest ones"], [])


async def test_a_thread_of_which_nothing_can_be_read_is_said_so() -> None:
    context = await gathered(LongThread(replies(3), refuses_from=1))

    assert context.thread == ""
    assert context.about_thread == ["I could not read the earlier messages of this thread (Slack's limit)."]
