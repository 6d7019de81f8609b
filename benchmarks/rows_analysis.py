"""Row of the request analysis: what choosing category, skills and agent of a prompt costs, whatever its language."""

import time
from typing import Final

from benchmarks.figures import Report
from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.domain.analysis import analyse
from nubabel_workers.domain.executions import Overrides

_AIM_US: Final = 200.0
_ROUNDS: Final = 2000
_PROMPT: Final = (
    "안녕하세요, 지난주에 배포한 결제 서버에서 타임아웃 오류가 자주 나는데 원인을 파악해서 보고서로 정리해 주세요. "
    "The stack trace points at the connection pool of the checkout service since Monday's release. "
    "가능하면 그래프도 넣어 주시고, 재현 방법과 임시 조치, "
    "그리고 앞으로 같은 일이 없도록 무엇을 바꿔야 하는지도 알려 주세요. "
    "Please keep it under two pages, our customers will read it. "
    "담당자는 김민수 님이고 마감은 금요일 오후입니다. 궁금한 점이 있으면 이 스레드에 남겨 주세요. 고맙습니다! "
)[:500].ljust(500, ".")


def measure_analysis(report: Report) -> None:
    rules = load_rules()
    started = time.process_time()
    for _ in range(_ROUNDS):
        analyse(_PROMPT, Overrides(), rules, ())
    taken_us = (time.process_time() - started) * 1e6 / _ROUNDS
    report.add("analysis", "500 characters in two languages", taken_us, "us", aim=_AIM_US)
