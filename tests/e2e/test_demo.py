"""`make demo` as a newcomer runs it, with the simulator and with the real OpenCode: what is shown, and what is left."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from nubabel_workers.embedded.opencode_server import install
from tests.e2e.beside import ROOT
from tests.e2e.started import left_over, started
from tests.needing_node import needing
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_WITHIN_S = 150.0
_ENGLISH, _KOREAN, _TOOL, _FOLLOW_UP = "English", "한국어", "tool call", "follow-up"
_ANSWERS = {
    _ENGLISH: "Three things changed",
    _KOREAN: "배포 전 점검",
    _TOOL: "The shell said hello.",
    _FOLLOW_UP: "ECHO[4]",  # the model was shown the question and the answer before
}
_LINE = re.compile(r" *\d+\.\d\d s  (?P<label>.+?)  +(?P<happened>\S.*)")
_ROW = re.compile(r"  (?P<label>\S.*?)  +(?P<organization>\S+)  +(?P<state>\w+)  +(\d+)  +\d+\.\d\d s  +\d+\.\d\d s")


@pytest.mark.parametrize("opencode", ["simulator", pytest.param("real", marks=pytest.mark.node)])
def test_the_demo_shows_what_happens_and_every_answer_and_leaves_nothing_behind(short_dir: Path, opencode: str) -> None:
    if opencode == "real":
        with needing("the real OpenCode"):
            install()
    with started("demo", short_dir, "--opencode", opencode) as (process, output):
        code = process.wait(timeout=_WITHIN_S)

    shown = output.read_text()
    assert code == 0, shown
    told, _, summary = shown.partition("What happened")
    _assert_asked_in_two_organizations_and_in_one_thread(told)
    _assert_live_states(told)
    _assert_replied(told)
    _assert_summary(summary)
    wait_for(lambda: not left_over(short_dir), what="nothing is left running")
    assert [path.name for path in short_dir.iterdir()] == [output.name]  # no socket, no folder


def test_make_demo_starts_the_server_that_is_asked_for() -> None:
    def recipe(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "--dry-run", "demo", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout

    assert recipe().rstrip().endswith("nubabel demo --opencode simulator")
    assert recipe("OPENCODE=real").rstrip().endswith("nubabel demo --opencode real")


def _happened(told: str) -> list[tuple[str, str]]:
    """(label of the question, what happened to it), in order."""
    return [(found["label"], found["happened"]) for line in told.splitlines() if (found := _LINE.fullmatch(line))]


def _assert_asked_in_two_organizations_and_in_one_thread(told: str) -> None:
    asked = {label: words for label, words in _happened(told) if words.startswith("asks in ")}

    assert set(asked) == set(_ANSWERS)
    assert asked[_ENGLISH].startswith("asks in #general of Acme  @nubabel ")
    assert asked[_KOREAN].startswith("asks in #배포 of Hanbit  @nubabel 배포")
    assert asked[_FOLLOW_UP].startswith("asks in the same thread of Acme  @nubabel ")
    assert "[[" not in told


def _assert_live_states(told: str) -> None:
    happened = _happened(told)
    for label in _ANSWERS:
        states = [words.split("  ")[0].strip() for name, words in happened if name == label]
        order = ["queued", "working", *(["tool"] if label == _TOOL else []), "completed"]
        assert [state for state in dict.fromkeys(states) if state in order] == order, told
        assert "first sign" in states
    tool = [words for name, words in happened if name == _TOOL and words.startswith("tool ")]
    assert [words.split()[-1] for words in tool][-2:] == ["running", "completed"]
    assert all("bash" in words for words in tool)


def _assert_replied(told: str) -> None:
    lines = told.splitlines()
    replies = {}
    for line, following in pairwise(lines):
        found = _LINE.fullmatch(line)
        if found and found["happened"] == "reply in the thread":
            replies[found["label"]] = following.strip()

    assert {label: reply for label, reply in replies.items() if _ANSWERS[label] in reply} == replies
    assert set(replies) == set(_ANSWERS)
    follow_up = next(number for number, line in enumerate(lines) if "asks in the same thread" in line)
    assert any(_ANSWERS[_ENGLISH] in line for line in lines[:follow_up])  # only once the first is answered


def _assert_summary(summary: str) -> None:
    rows = [found for line in summary.splitlines() if (found := _ROW.match(line))]

    assert [(row["label"], row["organization"], row["state"]) for row in rows] == [
        (_ENGLISH, "Acme", "completed"),
        (_KOREAN, "Hanbit", "completed"),
        (_TOOL, "Hanbit", "completed"),
        (_FOLLOW_UP, "Acme", "completed"),
    ]
    assert "everything that was started is stopped" in summary
