"""nubabel dead-letters."""

from dataclasses import replace
from datetime import timedelta

from nubabel_workers.domain.administration import AttemptSummary, DeadLetterGroup, DeadLetterHistory
from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterReason, DeadLetterStatus, SubjectKind
from nubabel_workers.domain.executions import EventKind, TimelineEvent
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import DeadLetterId
from tests.fakes.clock import START
from tests.unit.cli.bench import Bench, fails_with


def _letter(number: int, *, subject_kind: SubjectKind = SubjectKind.EXECUTION) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(f"dlq_{number}"),
        organization_id="org_acme",
        queue="orchestration",
        task="orchestration.dispatch",
        reason=DeadLetterReason.ATTEMPTS_EXHAUSTED,
        error="HTTP 503\x1b[2J",
        status=DeadLetterStatus.OPEN,
        created_at=START - timedelta(hours=number),
        subject_kind=subject_kind,
        subject_id=None if subject_kind is SubjectKind.MESSAGE else f"exe_{number}",
        payload='{"a":\n1}',
        headers={"task": "x"},
    )


def _put(bench: Bench, *letters: DeadLetter) -> None:
    bench.dead_letters.put(*letters)


def test_dead_letters_are_listed_in_groups_with_an_explanation(bench: Bench) -> None:
    bench.dead_letters.found_groups = [
        DeadLetterGroup(
            DeadLetterReason.UNDECODABLE,
            "",
            "orchestration",
            "",
            12,
            0,
            START - timedelta(hours=3),
            START - timedelta(minutes=2),
            2,
            ("org_acme", "org_other"),
            "dlq_9",
            "Expecting value",
        )
    ]

    listed = bench.type("dead-letters", "list").stdout

    assert "12  undecodable" in listed
    assert "could not be decoded as JSON" in listed
    assert "newest 2 min 0 s ago, oldest 3 h 0 min ago" in listed
    assert "of 2 organizations: org_acme org_other" in listed
    assert "dlq_9: Expecting value" in listed


def test_a_group_of_one_organization_says_so(bench: Bench) -> None:
    bench.dead_letters.found_groups = [
        DeadLetterGroup(
            DeadLetterReason.UNDECODABLE, "", "q", "", 1, 1, START, START, 1, ("org_acme",), "dlq_9", "broken"
        )
    ]

    assert "of 1 organization: org_acme" in bench.type("dead-letters", "list").stdout


def _group(reason: DeadLetterReason, *, count: int, raw: int) -> DeadLetterGroup:
    return DeadLetterGroup(reason, "", "q", "t", count, raw, START, START, 0, (), "dlq_9", "broken")


def test_a_list_of_raw_messages_offers_no_replay(bench: Bench) -> None:
    bench.dead_letters.found_groups = [_group(DeadLetterReason.UNDECODABLE, count=2, raw=2)]

    listed = bench.type("dead-letters", "list")

    assert "q  t  raw messages" in listed.stdout
    assert "dead-letters replay" not in listed.stderr
    assert "raw messages cannot be replayed: mend their producer" in listed.stderr
    assert bench.json("dead-letters", "list")[0]["raw"] == 2


def test_a_list_says_which_can_be_replayed_and_which_cannot(bench: Bench) -> None:
    bench.dead_letters.found_groups = [
        _group(DeadLetterReason.ATTEMPTS_EXHAUSTED, count=3, raw=0),
        _group(DeadLetterReason.BAD_ARGUMENTS, count=4, raw=1),
    ]

    listed = bench.type("dead-letters", "list")

    assert "1 of them raw messages" in listed.stdout
    assert "try them again:  nubabel dead-letters replay" in listed.stderr
    assert "raw messages cannot be replayed" in listed.stderr


def test_what_is_settled_is_not_offered_again(bench: Bench) -> None:
    bench.dead_letters.found_groups = [_group(DeadLetterReason.ATTEMPTS_EXHAUSTED, count=3, raw=1)]

    said = bench.type("dead-letters", "list", "--status", "discarded").stderr

    assert "replay" not in said


def test_no_dead_letters_is_good_news(bench: Bench) -> None:
    assert bench.type("dead-letters", "list").stdout == "no open dead letters\n"


def test_each_one_of_a_reason_is_listed(bench: Bench) -> None:
    _put(bench, _letter(1), _letter(2))

    listed = bench.type("dead-letters", "list", "--reason", "attempts-exhausted").stdout

    assert "dlq_1" in listed
    assert "exe_2" in listed
    assert "\x1b" not in listed
    assert [one["id"] for one in bench.json("dead-letters", "list", "--all")] == ["dlq_2", "dlq_1"]


def test_one_is_shown_with_its_payload_and_what_to_do(bench: Bench) -> None:
    _put(bench, _letter(1))

    result = bench.type("dead-letters", "show", "dlq_1")

    assert '{"a":\n1}' in result.stdout
    assert "Every attempt failed for a passing reason" in result.stdout
    assert "nubabel dead-letters replay dlq_1" in result.stderr


def test_a_raw_message_is_not_said_to_be_replayable(bench: Bench) -> None:
    _put(bench, _letter(1, subject_kind=SubjectKind.MESSAGE))

    said = bench.type("dead-letters", "show", "dlq_1").stderr

    assert "mend its producer" in said
    assert "dead-letters discard dlq_1" in said
    assert "replay" not in said


def test_one_is_replayed_by_its_id(bench: Bench) -> None:
    _put(bench, _letter(1))

    result = bench.type("dead-letters", "replay", "dlq_1")

    assert result.stdout == "dlq_1  replayed: it starts anew, and whoever waits in a thread is told\n"
    assert bench.hints.rows(HintTask.DISPATCH) == ["exe_1"]
    assert bench.dead_letters.rows["dlq_1"].resolved_by == "cli:anna"


def test_one_that_cannot_be_replayed_is_no_success(bench: Bench) -> None:
    _put(bench, _letter(1, subject_kind=SubjectKind.MESSAGE))

    for form in ((), ("--dry-run",), ("--json",)):
        result = bench.type("dead-letters", "replay", "dlq_1", *form)

        assert (result.exit_code, "producer" in result.stdout) == (1, True)
        assert bench.hints.published == []


def test_a_dry_run_replays_nothing(bench: Bench) -> None:
    _put(bench, _letter(1), _letter(2, subject_kind=SubjectKind.MESSAGE))

    result = bench.type("dead-letters", "replay", "--all", "--dry-run")

    assert result.stdout.splitlines() == ["would replay 1"]
    assert "mend their producer" in result.stderr
    assert bench.hints.published == []


def test_replaying_needs_one_or_a_choice(bench: Bench) -> None:
    fails_with(bench.type("dead-letters", "replay"), 2, "--reason, --cause, --org or --all")
    fails_with(bench.type("dead-letters", "replay", "dlq_1", "--all"), 2, "--reason, --cause, --org or --all")
    fails_with(bench.type("dead-letters", "replay", "dlq_none"), 2, "nubabel dead-letters list")
    fails_with(bench.type("dead-letters", "replay", "--all", "--limit", "50000"), 2, "between 1 and 10000")
    assert bench.type("dead-letters", "replay", "--all").stdout == "replayed 0\n"


def test_discarding_needs_a_reason(bench: Bench) -> None:
    _put(bench, _letter(1))

    fails_with(bench.type("dead-letters", "discard", "dlq_1"), 2, "--because")
    assert bench.type("dead-letters", "discard", "dlq_1", "--because", "test data").stdout == "discarded dlq_1\n"
    fails_with(bench.type("dead-letters", "discard", "dlq_1", "--because", "x"), 2, "not open any more")


def test_the_past_of_one_is_told_in_words(bench: Bench) -> None:
    letter = _letter(1)
    _put(bench, letter)
    bench.dead_letters.histories["dlq_1"] = DeadLetterHistory(
        letter,
        subject_status="failed",
        subject={"prompt": "왜?"},
        execution_id="exe_1",
        timeline=(TimelineEvent(START, EventKind.ACCEPTED, {"source": "slack"}),),
        attempts=(AttemptSummary(1, "ins_1", "ses_1", "msg_1", START, START, START, "failed"),),
        others=(replace(letter, id=DeadLetterId("dlq_0"), status=DeadLetterStatus.REPLAYED),),
    )

    shown = bench.type("dead-letters", "show", "dlq_1").stdout

    assert "execution exe_1, now failed" in shown
    assert '"prompt": "왜?"' in shown
    assert "accepted from slack" in shown
    assert "ins_1 ses_1" in shown
    assert "dlq_0" in shown


def test_several_are_replayed_with_a_pace(bench: Bench) -> None:
    _put(bench, *(_letter(number) for number in range(1, 5)))

    result = bench.type("dead-letters", "replay", "--queue", "orchestration", "--pace", "2", "--since", "2020-01-01")

    assert result.stdout.splitlines() == ["replayed 4", "the last one starts after 1.50 s"]
    assert bench.dead_letters.starts_s["dlq_4"] == 1.5


def test_several_are_discarded(bench: Bench) -> None:
    _put(bench, _letter(1), _letter(2, subject_kind=SubjectKind.MESSAGE))

    discard = ("dead-letters", "discard", "--all", "--because", "load test")

    assert bench.type(*discard, "--dry-run").stdout == "would discard 2\n"
    assert bench.json(*discard) == {"dry_run": False, "discarded": 2, "more": False}
