"""Row of masking: what a kilobyte of a prompt costs before it leaves, by kind of text; and texts made to be slow."""

import time
from typing import Final

from benchmarks.figures import Report
from nubabel_workers.domain.masking import Placeholders, mask

COST: Final = "Masking, microseconds of CPU per kB of UTF-8"
_AIM_US_PER_KB: Final = 300.0
_AIM_HOSTILE_MS: Final = 1000.0
_ROUNDS: Final = 20
_KB: Final = 1024
_TEXTS: Final = {
    "English": "Please compare 1234 with 5678 in 2026 (see https://example.com/a?b=1), and summarize it for the team. ",
    "Korean": "이번 분기 매출 1,234만 원을 작년과 비교해 주세요. 자세한 내용은 https://example.com/a 에 있습니다. ",
    "Python": "def charge(self, order: Order, *, amount: int) -> str:\n    return self._settings.api_key\n",
    "a log": "2026-11-27 14:15:00.123 INFO exe_01m8epr0f3ryyep6319pca9gp5 took=1234ms at=1795216300 10.0.0.12:5432\n",
    "one finding per kB": "Charge 4111 1111 1111 1111 and tell kim@example.com about it. "
    + "Nothing else matters here. " * 36,
}
_HOSTILE: Final = ("1 ", "4111 ", "1111-1111-1111-", "://a:", "password=", "eyJaaaaaaaa-", "a@a.", "900101-1234567")


def measure_masking(report: Report) -> None:
    placeholders = Placeholders(b"a key of the benchmark", "ses_1")
    costs = {}
    for kind, sample in _TEXTS.items():
        text = sample * (16 * _KB // len(sample.encode()) + 1)
        started = time.process_time()
        for _ in range(_ROUNDS):
            mask(text, placeholders)
        costs[kind] = (time.process_time() - started) * 1e6 / _ROUNDS / (len(text.encode()) / _KB)
    report.add_column(COST, "us/kB", costs)
    dearest = max(costs, key=lambda kind: costs[kind])
    report.add("masking", f"a kB of prompt, the dearest kind ({dearest})", costs[dearest], "us", aim=_AIM_US_PER_KB)
    report.add("masking", "100 kB made to be slow, the slowest", _slowest_ms(placeholders), "ms", aim=_AIM_HOSTILE_MS)


def _slowest_ms(placeholders: Placeholders) -> float:
    taken = []
    for piece in _HOSTILE:
        text = piece * (100_000 // len(piece))
        started = time.process_time()
        mask(text, placeholders)
        taken.append(time.process_time() - started)
    return max(taken) * 1000
