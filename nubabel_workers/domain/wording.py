"""What the system says to people in a thread, in the language they wrote in: Korean or English. All of it is here."""

import re
from enum import StrEnum

HANGUL = "[\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f]"  # a regular expression for Python and for PostgreSQL
_HANGUL = re.compile(HANGUL)


class Language(StrEnum):
    ENGLISH = "en"
    KOREAN = "ko"


def language_of(text: str) -> Language:
    """Korean as soon as there is a Korean letter: nobody quotes Hangul by accident, English words are everywhere."""
    return Language.KOREAN if _HANGUL.search(text) else Language.ENGLISH


_TEXTS: dict[str, dict[Language, str]] = {
    "failed": {
        Language.ENGLISH: "Sorry, I could not finish this. You can ask again; if it keeps happening, "
        "tell your administrator the reference `{reference}`.",
        Language.KOREAN: "죄송합니다. 이 요청을 끝내지 못했습니다. 다시 요청해 주시고, 계속 실패하면 "
        "관리자에게 참조 번호 `{reference}` 을(를) 알려 주세요.",
    },
    "deadline": {
        Language.ENGLISH: "Sorry, this took longer than allowed and was stopped. Reference: `{reference}`.",
        Language.KOREAN: "죄송합니다. 허용된 시간을 넘겨 작업을 중단했습니다. 참조 번호: `{reference}`.",
    },
    "too_late": {
        Language.ENGLISH: "Sorry, I could not start on this in time. Please ask again. Reference: `{reference}`.",
        Language.KOREAN: "죄송합니다. 제시간에 시작하지 못했습니다. 다시 요청해 주세요. 참조 번호: `{reference}`.",
    },
    "not_resumed": {
        Language.ENGLISH: "This was paused for lack of budget, and nobody allowed it more in time. "
        "Reference: `{reference}`.",
        Language.KOREAN: "예산 부족으로 일시 중지되었고 제때 추가 허용되지 않아 종료합니다. 참조 번호: `{reference}`.",
    },
    "no_answer": {
        Language.ENGLISH: "The assistant ended without an answer. Please rephrase and ask again. "
        "Reference: `{reference}`.",
        Language.KOREAN: "어시스턴트가 답변 없이 끝났습니다. 질문을 바꿔 다시 요청해 주세요. 참조 번호: `{reference}`.",
    },
    "stopped": {Language.ENGLISH: "Stopped, as you asked.", Language.KOREAN: "요청하신 대로 중단했습니다."},
    "replaced": {
        Language.ENGLISH: "Stopped: replaced by your next message.",
        Language.KOREAN: "중단했습니다: 다음 메시지로 대체되었습니다.",
    },
    "rejected_busy": {
        Language.ENGLISH: "I am still working on your previous message in this thread. Please ask again afterwards.",
        Language.KOREAN: "이 스레드의 이전 메시지를 아직 처리하고 있습니다. 끝난 뒤 다시 요청해 주세요.",
    },
    "rejected_content": {
        Language.ENGLISH: "Not sent: your organization allows no request that contains: {kinds}. "
        "Please ask again without it.",
        Language.KOREAN: "보내지 않았습니다: 조직의 정책에 따라 다음이 포함된 요청은 처리할 수 없습니다: {kinds}. "
        "해당 내용을 빼고 다시 요청해 주세요.",
    },
    "refused_requests_per_minute": {
        Language.ENGLISH: "Your organization may send {allowed} requests a minute. Please ask again in {wait_s} "
        "seconds, or ask your administrator to raise the limit.",
        Language.KOREAN: "조직의 분당 요청 한도({allowed}건)에 도달했습니다. {wait_s}초 뒤에 다시 요청하시거나 "
        "관리자에게 한도 상향을 요청해 주세요.",
    },
    "refused_queued": {
        Language.ENGLISH: "{allowed} requests of your organization are waiting already, which is its limit. Please ask "
        "again when some have begun, or ask your administrator to raise the limit.",
        Language.KOREAN: "조직의 대기 중인 요청이 한도({allowed}건)에 도달했습니다. 일부가 시작된 뒤 다시 요청하시거나 "
        "관리자에게 한도 상향을 요청해 주세요.",
    },
    "refused_sessions": {
        Language.ENGLISH: "{allowed} conversations of your organization are in progress already, which is its limit. "
        "Please ask again when one has ended, or ask your administrator to raise the limit.",
        Language.KOREAN: "조직에서 진행 중인 대화가 한도({allowed}건)에 도달했습니다. 하나가 끝난 뒤 다시 요청하시거나 "
        "관리자에게 한도 상향을 요청해 주세요.",
    },
    "partial": {Language.ENGLISH: "What there was until then:", Language.KOREAN: "그때까지의 내용:"},
    "cut": {
        Language.ENGLISH: "_The answer reached its length limit and is cut here._",
        Language.KOREAN: "_답변이 길이 제한에 도달해 여기서 잘렸습니다._",
    },
    "late": {
        Language.ENGLISH: "This takes longer than usual. Your request is kept and will be answered here.",
        Language.KOREAN: "평소보다 오래 걸리고 있습니다. 요청은 보관되어 있으며 여기에 답변드리겠습니다.",
    },
    "replayed": {
        Language.ENGLISH: "Your request is being tried again. The answer comes here.",
        Language.KOREAN: "요청을 다시 처리하고 있습니다. 답변은 여기에 드리겠습니다.",
    },
    "repeated": {
        Language.ENGLISH: "_(possibly repeated after a connection problem)_",
        Language.KOREAN: "_(연결 문제 후 다시 보낸 메시지일 수 있습니다)_",
    },
    "context_unread": {
        Language.ENGLISH: "I could not read the earlier messages of this thread (Slack's limit).",
        Language.KOREAN: "Slack 제한 때문에 이 스레드의 이전 메시지를 읽지 못했습니다.",
    },
    "context_partly_read": {
        Language.ENGLISH: "I read only a part of this thread's earlier messages.",
        Language.KOREAN: "이 스레드의 이전 메시지 중 일부만 읽었습니다.",
    },
    "files_left_out": {
        Language.ENGLISH: "Not read: {names}.",
        Language.KOREAN: "읽지 못한 파일: {names}.",
    },
    "empty": {
        Language.ENGLISH: "Yes? Tell me in the same message what I can do for you.",
        Language.KOREAN: "네? 무엇을 도와드릴지 같은 메시지에 적어 주세요.",
    },
    "nothing_to_stop": {
        Language.ENGLISH: "Nothing is running in this conversation.",
        Language.KOREAN: "이 대화에서 실행 중인 작업이 없습니다.",
    },
    "budget_of_request": {
        Language.ENGLISH: "This request has used up what one request may cost in your organization.",
        Language.KOREAN: "이 요청이 조직에서 정한 요청당 비용 한도에 도달했습니다.",
    },
    "budget_of_user": {
        Language.ENGLISH: "Your own budget for today is used up.",
        Language.KOREAN: "오늘 사용할 수 있는 개인 예산을 모두 사용했습니다.",
    },
    "budget_of_day": {
        Language.ENGLISH: "Your organization's budget for today is used up.",
        Language.KOREAN: "조직의 오늘 예산을 모두 사용했습니다.",
    },
    "budget_of_month": {
        Language.ENGLISH: "Your organization's budget for this month is used up.",
        Language.KOREAN: "조직의 이번 달 예산을 모두 사용했습니다.",
    },
    "budget_kept": {Language.ENGLISH: "Your request is kept:", Language.KOREAN: "요청은 보관되어 있으며,"},
    "budget_paused": {
        Language.ENGLISH: "I have paused; what was done so far is kept:",
        Language.KOREAN: "작업을 일시 중지했고 지금까지의 작업은 보관되어 있으며,",
    },
    "budget_until_day": {
        Language.ENGLISH: "it goes on tomorrow (00:00 UTC), or when an administrator raises the limit.",
        Language.KOREAN: "내일(00:00 UTC) 또는 관리자가 한도를 올리면 계속합니다.",
    },
    "budget_until_month": {
        Language.ENGLISH: "it goes on next month, or when an administrator raises the limit.",
        Language.KOREAN: "다음 달 또는 관리자가 한도를 올리면 계속합니다.",
    },
    "budget_until_raised": {
        Language.ENGLISH: "it goes on when an administrator allows it more.",
        Language.KOREAN: "관리자가 더 허용하면 계속합니다.",
    },
    "budget_refused": {Language.ENGLISH: "Please ask again later.", Language.KOREAN: "나중에 다시 요청해 주세요."},
    "continue": {
        Language.ENGLISH: "Continue where you stopped.",
        Language.KOREAN: "중단한 곳에서 계속하세요.",
    },
    "working": {Language.ENGLISH: "Working on it…", Language.KOREAN: "작업 중입니다…"},
}


_KINDS_IN_KOREAN = {
    "key": "키·토큰",
    "password": "비밀번호",
    "card number": "카드 번호",
    "mail address": "메일 주소",
    "resident registration number": "주민등록번호",
    "national id": "신분증 번호",
}


def kind_in(language: Language, kind: str) -> str:
    """A kind of sensitive data in that language."""
    return _KINDS_IN_KOREAN.get(kind, kind) if language is Language.KOREAN else kind


def say(key: str, language: Language, **values: str) -> str:
    """The text for a situation. Raises KeyError for a situation that nobody wrote a text for."""
    return _TEXTS[key][language].format(**values)


def say_in_both(key: str) -> str:
    """For statements that tell many threads at once and don't look at each one's language."""
    return f"{_TEXTS[key][Language.ENGLISH]}\n{_TEXTS[key][Language.KOREAN]}"
