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
    "unknown_model": {
        Language.ENGLISH: "Sorry, the AI model chosen for this is not available here. Your administrator can see more "
        "under the reference `{reference}`.",
        Language.KOREAN: "죄송합니다. 이 요청에 지정된 AI 모델을 여기에서는 사용할 수 없습니다. "
        "관리자가 참조 번호 `{reference}` (으)로 자세한 내용을 확인할 수 있습니다.",
    },
    "not_looked_through": {
        Language.ENGLISH: "Sorry, your request could not be checked for sensitive data in time, so it was not passed "
        "on. Please ask again; a shorter one is checked at once. Reference: `{reference}`.",
        Language.KOREAN: "죄송합니다. 제시간에 민감 정보를 검사하지 못해 요청을 전달하지 않았습니다. 다시 "
        "요청해 주세요. 더 짧은 요청은 바로 검사됩니다. 참조 번호: `{reference}`.",
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
    "found_in_files": {
        Language.ENGLISH: "It was found in: {names}.",
        Language.KOREAN: "발견된 파일: {names}.",
    },
    "refused_requests_per_minute": {
        Language.ENGLISH: "Your organization has reached its limit of requests a minute ({allowed}). Please ask again "
        "in {wait_s} s, or ask your administrator to raise the limit.",
        Language.KOREAN: "조직의 분당 요청 한도({allowed}건)에 도달했습니다. {wait_s}초 뒤에 다시 요청하시거나 "
        "관리자에게 한도 상향을 요청해 주세요.",
    },
    "refused_queued": {
        Language.ENGLISH: "Your organization has reached its limit of waiting requests ({allowed}). Please ask "
        "again when some have begun, or ask your administrator to raise the limit.",
        Language.KOREAN: "조직의 대기 중인 요청이 한도({allowed}건)에 도달했습니다. 일부가 시작된 뒤 다시 요청하시거나 "
        "관리자에게 한도 상향을 요청해 주세요.",
    },
    "refused_sessions": {
        Language.ENGLISH: "Your organization has reached its limit of conversations in progress ({allowed}). "
        "Please ask again when one has ended, or ask your administrator to raise the limit.",
        Language.KOREAN: "조직에서 진행 중인 대화가 한도({allowed}건)에 도달했습니다. 하나가 끝난 뒤 다시 요청하시거나 "
        "관리자에게 한도 상향을 요청해 주세요.",
    },
    "mention_again": {
        Language.ENGLISH: "Mention me again then, also in this thread.",
        Language.KOREAN: "그때는 이 스레드에서도 저를 다시 멘션해 주세요.",
    },
    "partial": {Language.ENGLISH: "What there was until then:", Language.KOREAN: "그때까지의 내용:"},
    "cut": {
        Language.ENGLISH: "The answer reached its length limit and is cut here.",
        Language.KOREAN: "답변이 길이 제한에 도달해 여기서 잘렸습니다.",
    },
    "late": {
        Language.ENGLISH: "This takes longer than usual. Your request is kept and will be answered here.",
        Language.KOREAN: "평소보다 오래 걸리고 있습니다. 요청은 보관되어 있으며 여기에 답변드리겠습니다.",
    },
    "late_why": {Language.ENGLISH: "It waits: {why}.", Language.KOREAN: "대기 사유: {why}."},
    "edited": {
        Language.ENGLISH: "You changed your question after I took it: I answer it as it was. To ask it as it is now, "
        "write it here once more.",
        Language.KOREAN: "질문을 받은 뒤에 내용이 수정되었습니다. 처음 질문에 답변드리며, 수정한 질문은 여기에 다시 "
        "적어 주세요.",
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
    "context_newest_unread": {
        Language.ENGLISH: "Of this thread I could read only {read} messages, not the newest ones before your question "
        "(Slack's limit). If they matter, please repeat them in a question.",
        Language.KOREAN: "Slack 제한 때문에 이 스레드에서 메시지 {read}개만 읽었고, 질문 직전의 최신 메시지는 "
        "읽지 못했습니다. 필요한 내용이면 질문에 다시 적어 주세요.",
    },
    "context_left_out": {
        Language.ENGLISH: "Of this long thread I took in its first message and the newest {newest}, without the "
        "{left_out} between them.",
        Language.KOREAN: "긴 스레드여서 첫 메시지와 최신 메시지 {newest}개만 참고했고, 그 사이의 {left_out}개는 "
        "제외했습니다.",
    },
    "context_unchecked": {
        Language.ENGLISH: "I left out the earlier messages of this thread: they could not be checked for sensitive "
        "data in time. If they matter, please repeat them in a question.",
        Language.KOREAN: "이 스레드의 이전 메시지는 제시간에 민감 정보를 검사하지 못해 제외했습니다. 필요한 내용이면 "
        "질문에 다시 적어 주세요.",
    },
    "turns_unchecked": {
        Language.ENGLISH: "I left out earlier questions of this conversation with their answers ({left_out}): they "
        "could not be checked for sensitive data in time. If they matter, please repeat them in a question.",
        Language.KOREAN: "이 대화의 이전 질문과 답변 {left_out}건은 제시간에 민감 정보를 검사하지 못해 제외했습니다. "
        "필요한 내용이면 질문에 다시 적어 주세요.",
    },
    "files_left_out": {
        Language.ENGLISH: "Not read: {names}.",
        Language.KOREAN: "읽지 못한 파일: {names}.",
    },
    "files_unchecked": {
        Language.ENGLISH: "Passed on without a check for sensitive data: {names}.",
        Language.KOREAN: "민감 정보 검사 없이 전달된 파일: {names}.",
    },
    "files_held_back": {
        Language.ENGLISH: "Not passed on, as there was no way to check for sensitive data: {names}.",
        Language.KOREAN: "민감 정보를 검사할 수 없어 전달하지 않은 파일: {names}.",
    },
    "files_not_in_time": {
        Language.ENGLISH: "Not passed on, as there was no time to check for sensitive data: {names}. If needed, please "
        "send it again.",
        Language.KOREAN: "제시간에 민감 정보를 검사하지 못해 전달하지 않은 파일: {names}. 필요하면 다시 보내 주세요.",
    },
    "files_as_text": {
        Language.ENGLISH: "Passed on as text with sensitive data masked, without layout and pictures: {names}.",
        Language.KOREAN: "민감 정보를 가린 텍스트로 전달된 파일(서식·그림 제외): {names}.",
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
    "allow_more": {Language.ENGLISH: "Allow ${usd} more", Language.KOREAN: "${usd} 더 허용"},
    "allowed_more": {
        Language.ENGLISH: "${usd} more was allowed: it goes on.",
        Language.KOREAN: "${usd}가 더 허용되어 계속합니다.",
    },
    "may_not_allow": {
        Language.ENGLISH: "Not allowed: only those who look after your organization's budget can do this.",
        Language.KOREAN: "허용되지 않았습니다: 조직의 예산 담당자만 할 수 있습니다.",
    },
    "press_failed": {
        Language.ENGLISH: "Sorry, whether more may be allowed could not be found out. Please press the button again.",
        Language.KOREAN: "죄송합니다. 허용 여부를 처리하지 못했습니다. 버튼을 다시 눌러 주세요.",
    },
    "waits_no_more": {
        Language.ENGLISH: "Nothing to allow: this request is not waiting for its budget any more.",
        Language.KOREAN: "허용할 것이 없습니다: 이 요청은 더 이상 예산을 기다리지 않습니다.",
    },
    "budget_refused": {Language.ENGLISH: "Please ask again later.", Language.KOREAN: "나중에 다시 요청해 주세요."},
    "continue": {
        Language.ENGLISH: "Continue where you stopped.",
        Language.KOREAN: "중단한 곳에서 계속하세요.",
    },
    "answered_before": {
        Language.ENGLISH: "This is the answer that the same question got at {when}; nothing was run again.",
        Language.KOREAN: "같은 질문에 {when} 드린 답변입니다. 다시 실행하지 않았습니다.",
    },
    "economy": {
        Language.ENGLISH: "Answered with less effort than usual: most of your organization's budget is used.",
        Language.KOREAN: "조직의 예산을 거의 다 써서 평소보다 간단히 답변했습니다.",
    },
    "stopped_with_the_rest": {
        Language.ENGLISH: "Stopped, since another request of its batch failed.",
        Language.KOREAN: "같은 묶음의 다른 요청이 실패하여 중단했습니다.",
    },
    "no_model": {
        Language.ENGLISH: "I cannot answer right now: no model is connected. An administrator has to configure one.",
        Language.KOREAN: "지금은 답변할 수 없습니다. 연결된 모델이 없으니 관리자가 설정해야 합니다.",
    },
    "canned": {
        Language.ENGLISH: "No model worked on this: the text is a fixed sentence, not an answer.",
        Language.KOREAN: "모델이 처리하지 않은 요청입니다. 본문은 답변이 아니라 정해진 안내 문장입니다.",
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
    """For whom nobody knows which language is theirs."""
    return f"{_TEXTS[key][Language.ENGLISH]}\n{_TEXTS[key][Language.KOREAN]}"
