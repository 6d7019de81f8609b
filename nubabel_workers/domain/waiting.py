"""What an execution in the queue waits for, in words: the same for whoever asks, by whichever door."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nubabel_workers.domain.budgets import WAITS_FOR_BUDGET
from nubabel_workers.domain.directories import PREPARING, ROOM
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.masking import WAITS_FOR_MASKING
from nubabel_workers.domain.placement import AWAY, FULL, ORCHESTRATOR_AWAY, OWN, PACE
from nubabel_workers.domain.tenants import ServersPolicy
from nubabel_workers.domain.wording import Language

SESSION = "session"
IN_FLIGHT = "in_flight"
TURN = "turn"
STARTING = "starting"
AGAIN = "again"
MOST_AHEAD = 1000  # counted

_STORED = frozenset({WAITS_FOR_BUDGET, WAITS_FOR_MASKING, AWAY, ORCHESTRATOR_AWAY, OWN, PACE, FULL, ROOM, PREPARING})

# Each reason in words; {running} is how many of its organization run.
_WORDS: Mapping[str, Mapping[Language, str]] = {
    SESSION: {
        Language.ENGLISH: "an earlier request of its conversation is not over",
        Language.KOREAN: "같은 대화의 이전 요청이 아직 끝나지 않았습니다",
    },
    IN_FLIGHT: {
        Language.ENGLISH: "its organization runs {running} at once, which is its limit",
        Language.KOREAN: "조직이 한도인 {running}개를 동시에 실행하고 있습니다",
    },
    TURN: {
        Language.ENGLISH: "others of its organization came before",
        Language.KOREAN: "조직의 다른 요청이 먼저 들어왔습니다",
    },
    STARTING: {Language.ENGLISH: "it is about to start", Language.KOREAN: "곧 시작합니다"},
    AGAIN: {
        Language.ENGLISH: "it is tried again after a pause",
        Language.KOREAN: "잠시 후 다시 시도합니다",
    },
    WAITS_FOR_BUDGET: {
        Language.ENGLISH: "its organization's budget leaves no room",
        Language.KOREAN: "조직의 예산에 여유가 없습니다",
    },
    AWAY: {
        Language.ENGLISH: "no OpenCode server that may serve it can be reached",
        Language.KOREAN: "OpenCode 서버에 연결할 수 없습니다",
    },
    ORCHESTRATOR_AWAY: {
        Language.ENGLISH: "the service that is to answer it is away",
        Language.KOREAN: "답변할 서비스에 연결할 수 없습니다",
    },
    OWN: {
        Language.ENGLISH: "none of its organization's own OpenCode servers can be used",
        Language.KOREAN: "조직 전용 OpenCode 서버를 사용할 수 없습니다",
    },
    PACE: {
        Language.ENGLISH: "its OpenCode server takes no more prompts in this moment",
        Language.KOREAN: "OpenCode 서버가 지금은 요청을 더 받지 않습니다",
    },
    FULL: {Language.ENGLISH: "every OpenCode server is busy", Language.KOREAN: "모든 OpenCode 서버가 사용 중입니다"},
    ROOM: {
        Language.ENGLISH: "every OpenCode server works for as many organizations as it can at once",
        Language.KOREAN: "모든 OpenCode 서버가 동시에 맡을 수 있는 조직 수에 이르렀습니다",
    },
    PREPARING: {
        Language.ENGLISH: "its organization's directory on an OpenCode server is being prepared",
        Language.KOREAN: "OpenCode 서버에 조직의 작업 공간을 준비하고 있습니다",
    },
    WAITS_FOR_MASKING: {
        Language.ENGLISH: "there was no time yet to check it for sensitive data",
        Language.KOREAN: "아직 민감 정보를 검사하지 못했습니다",
    },
}
_PLACE = {
    Language.ENGLISH: "place {place} in its organization's queue",
    Language.KOREAN: "조직의 대기 순서 {place}번",
}
_FAR_BACK = {
    Language.ENGLISH: "place more than {most} in its organization's queue",
    Language.KOREAN: "조직의 대기 순서 {most}번 이후",
}
# By the period of a cap; by UTC, as budgets are.
_ROOM_AGAIN: Mapping[str | None, Mapping[Language, str]] = {
    "day": {
        Language.ENGLISH: "there is room at 00:00 UTC, or when an administrator raises it",
        Language.KOREAN: "00:00 UTC에, 또는 관리자가 한도를 올리면 계속합니다",
    },
    "month": {
        Language.ENGLISH: "there is room on the first of the next month, or when an administrator raises it",
        Language.KOREAN: "다음 달 1일에, 또는 관리자가 한도를 올리면 계속합니다",
    },
    None: {
        Language.ENGLISH: "it goes on when an administrator allows it more",
        Language.KOREAN: "관리자가 더 허용하면 계속합니다",
    },
}
_UNKNOWN_START = {
    Language.ENGLISH: "when it starts cannot be told",
    Language.KOREAN: "시작 시각은 알 수 없습니다",
}
_AT_ONCE = {Language.ENGLISH: "expected to start at once", Language.KOREAN: "곧 시작할 예정입니다"}
_IN_SECONDS = {
    Language.ENGLISH: "expected to start in about {seconds} s",
    Language.KOREAN: "약 {seconds}초 후 시작할 예정입니다",
}


@dataclass(frozen=True)
class Line:
    """What was found about an execution in the queue.

    ahead: executions of its organization that go before it, MOST_AHEAD at most. in_flight: of its organization.
    stored_reason: why it was put back, wait_s: seconds until it may be taken again (not above 0: now).
    usual_run_s: what its organization's last runs took; None: there was none. running_for_s: of the run that it waits
    for, its session's, else its organization's longest; None: none runs. paused: it ran, and was stopped at a cap. cap:
    the last one that left it no room. servers: whose its organization uses.
    """

    session_is_taken: bool
    ahead: int
    in_flight: int
    stored_reason: str | None
    wait_s: float
    usual_run_s: float | None
    running_for_s: float | None = None
    paused: bool = False
    cap: str | None = None
    servers: ServersPolicy = ServersPolicy.SHARED


@dataclass(frozen=True)
class Waiting:
    """reason: a stable word. position: in its organization's queue, 1 is next. starts_in_s: None: nobody can know."""

    reason: str
    position: int
    starts_in_s: float | None
    running: int = 0  # of its organization
    cap: str | None = None  # of the budget that leaves no room

    @property
    def words(self) -> str:
        return self.words_in(Language.ENGLISH)

    def words_in(self, language: Language) -> str:
        """Why, its place, and when it is expected to start: the same by whichever door."""
        why = _WORDS[self.reason][language].format(running=self.running)
        place = (_FAR_BACK if self.position > MOST_AHEAD else _PLACE)[language]
        where = place.format(place=self.position, most=MOST_AHEAD)
        if self.reason != WAITS_FOR_BUDGET or self.cap is None:
            return f"{why}; {where}; {_expected(self.starts_in_s, language)}"
        return f"{why} ({self.cap}); {where}; {_ROOM_AGAIN[_period(self.cap)][language]}"


def waiting_of(line: Line, limits: Limits, *, free_places: int) -> Waiting:
    """free_places: what the OpenCode servers that may serve its organization can together still run."""
    reason, starts_in_s = _why(line, limits, free_places)
    in_s = None if starts_in_s is None else round(starts_in_s, 1)
    return Waiting(reason, line.ahead + 1, in_s, line.in_flight, line.cap)


def _period(cap: str) -> str | None:
    """day, month, or None: it frees nothing by itself."""
    return next((period for period in ("day", "month") if cap.endswith(period)), None)


def _why(line: Line, limits: Limits, free_places: int) -> tuple[str, float | None]:
    if line.paused:
        return WAITS_FOR_BUDGET, None
    if line.session_is_taken:
        return SESSION, _left_of_a_run(line)
    if line.wait_s > 0:
        return _put_back(line)
    if limits.in_flight is not None and line.in_flight >= limits.in_flight:
        return IN_FLIGHT, _after_rounds(line, limits.in_flight)
    if line.ahead >= free_places:
        return TURN if free_places > 0 else FULL, _after_rounds(line, line.in_flight)
    return TURN if line.ahead else STARTING, 0.0


def _left_of_a_run(line: Line) -> float | None:
    """None: nobody can know, or it takes longer than they usually do."""
    if line.usual_run_s is None:
        return None
    left_s = line.usual_run_s - (line.running_for_s or 0.0)
    return left_s if left_s > 0 else None


def _after_rounds(line: Line, in_flight: int) -> float | None:
    """As many begin with each round as its organization may have at once, or has now where others have the rest; the
    first round is over when the longest run is. None: it runs nothing now, or too many are ahead to be counted.
    """
    left_s = _left_of_a_run(line)
    if left_s is None or line.usual_run_s is None or in_flight == 0 or line.ahead >= MOST_AHEAD:
        return None
    return left_s + line.usual_run_s * (math.ceil((line.ahead + 1) / in_flight) - 1)


def _put_back(line: Line) -> tuple[str, float | None]:
    if line.stored_reason not in _STORED:
        return AGAIN, line.wait_s
    return line.stored_reason, line.wait_s if line.stored_reason == PACE else None


def _expected(starts_in_s: float | None, language: Language) -> str:
    if starts_in_s is None:
        return _UNKNOWN_START[language]
    if starts_in_s < 1:
        return _AT_ONCE[language]
    return _IN_SECONDS[language].format(seconds=math.ceil(starts_in_s))
