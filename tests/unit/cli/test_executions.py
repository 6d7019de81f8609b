"""nubabel enqueue and nubabel executions."""

from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from nubabel_workers.domain.administration import AuditAction, Delivery, SessionWait
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import EventKind, ExecutionError, Status, TimelineEvent
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import ExecutionId, OrganizationId
from tests.fakes.clock import START
from tests.fakes.front_door import ACME
from tests.unit.cli.bench import Bench, fails_with


def _enqueue(bench: Bench, *options: str, organization: str = "acme") -> str:
    execution_id: str = bench.json("enqueue", "안녕하세요", "--org", organization, *options)["execution_id"]
    return execution_id


def test_a_prompt_is_accepted_for_the_organization_and_hinted(bench: Bench) -> None:
    result = bench.type("enqueue", "hello", "--org", "Acme")

    row = bench.executions.only()
    assert result.stdout == f"{row.id}  queued\n"
    assert (row.organization_id, row.source, row.prompt) == ("org_acme", "cli", "hello")
    assert bench.hints.rows(HintTask.DISPATCH) == [row.id]
    assert row.correlation_id
    assert row.traceparent


def test_a_prompt_can_come_from_standard_input(bench: Bench) -> None:
    bench.type("enqueue", "-", "--org", "acme", typed="from a pipe\n")

    assert bench.executions.only().prompt == "from a pipe\n"


def test_overrides_reach_the_execution(bench: Bench) -> None:
    _enqueue(
        bench,
        "--category",
        "quick",
        "--skill",
        "frontend",
        "--skill",
        "refactor",
        "--model",
        "p/m",
        "--deadline-s",
        "60",
    )

    new = bench.executions.accepted[0]
    assert (new.overrides.category, new.overrides.model) == ("quick", "p/m")
    assert new.overrides.skills == ["frontend", "refactor"]
    assert new.deadline_s == 60


def test_the_same_key_is_the_same_request(bench: Bench) -> None:
    first = _enqueue(bench, "--key", "k")

    again = bench.type("enqueue", "안녕하세요", "--org", "acme", "--key", "k")

    assert again.stdout == f"{first}  queued (the same request was accepted before)\n"
    fails_with(bench.type("enqueue", "other", "--org", "acme", "--key", "k"), 2, "take a new key")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "nonsense"), "model"),
        (("--deadline-s", "0"), "deadline_s"),
        (("--session", "nonsense"), "session_id"),
        (("--priority", "soon"), "priority"),
        (("--callback-url", "ftp://x"), "callback_url"),
    ],
)
def test_options_that_do_not_fit_are_named(options: tuple[str, str], says: str, bench: Bench) -> None:
    fails_with(bench.type("enqueue", "hello", "--org", "acme", *options), 2, says)


def test_a_disabled_organization_asks_nothing(bench: Bench) -> None:
    bench.type("orgs", "disable", "acme")

    fails_with(bench.type("enqueue", "hello", "--org", "acme"), 2, "nubabel orgs enable org_acme")


def test_waiting_prints_the_answer_alone_on_standard_output(bench: Bench) -> None:
    execution_id = _enqueue(bench, "--key", "k")
    bench.executions.move(execution_id, Status.COMPLETED, output="the answer\nin two lines\x1b[31m")

    result = bench.type("enqueue", "안녕하세요", "--org", "acme", "--key", "k", "--wait")

    assert result.exit_code == 0
    assert result.stdout == "the answer\nin two lines·[31m\n"


def test_waiting_fails_when_there_is_no_answer(bench: Bench) -> None:
    execution_id = _enqueue(bench, "--key", "k")
    bench.executions.move(execution_id, Status.FAILED, error=ExecutionError("deadline", "It took too long."))

    result = bench.type("enqueue", "안녕하세요", "--org", "acme", "--key", "k", "--wait")

    assert result.exit_code == 1
    assert "It took too long." in result.stderr
    assert result.stdout == ""


def test_waiting_ends_when_patience_does(bench: Bench) -> None:
    result = bench.type("enqueue", "hello", "--org", "acme", "--wait", "--timeout", "0")

    assert result.exit_code == 1
    assert "not over yet" in result.stderr


# --- list, show, cancel ----------------------------------------------------------------------------------------------


def test_executions_are_listed_by_state(bench: Bench) -> None:
    queued, done = _enqueue(bench), _enqueue(bench)
    bench.executions.move(done, Status.COMPLETED)
    bench.clock.advance(90)

    listed = bench.type("executions", "list", "--status", "queued", "--org", "acme").stdout

    assert queued in listed
    assert done not in listed
    assert "90 s ago" in listed
    assert "안녕하세요" in listed
    assert bench.type("executions", "list", "--status", "failed").stdout == "no executions\n"


def test_an_execution_tells_where_its_time_went(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    bench.executions.move(execution_id, Status.COMPLETED, output="answer", finished_at=START + timedelta(seconds=50))
    bench.executions.events[execution_id] = [
        TimelineEvent(START, EventKind.ACCEPTED, {"source": "cli"}),
        TimelineEvent(START + timedelta(seconds=8), EventKind.SUBMITTED, {"attempt": 1, "instance": "ins_1"}),
        TimelineEvent(START + timedelta(seconds=50), EventKind.FINISHED, {"status": "completed"}),
        TimelineEvent(START + timedelta(seconds=51), EventKind.DELIVERED, {"kind": "outcome"}),
    ]
    bench.reports.busy = SessionWait(ExecutionId("exe_before"), START + timedelta(seconds=6))
    bench.reports.told = [Delivery("outcome", "sent", 0, START, START, None, possibly_repeated=False)]

    shown = bench.type("executions", "show", execution_id).stdout

    assert f"{execution_id}  completed  50 s" in shown
    for words in (
        "waited for an earlier request of the session, exe_before",
        "waited for its turn",
        "OpenCode worked on it",
        "8.000  submitted to OpenCode on ins_1, attempt 1",
        "51.000  the answer was delivered",
        "outcome   sent",
    ):
        assert words in shown
    spent = bench.json("executions", "show", execution_id)["time_spent"]
    assert [round(span["seconds"]) for span in spent] == [6, 2, 42, 1]


def test_an_execution_that_goes_on_is_told_so_far(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    bench.clock.advance(200)

    shown = bench.type("executions", "show", execution_id).stdout

    assert "queued  3 min 20 s so far" in shown
    assert "3 min 20 s  ██████████" in shown


def test_a_failure_shows_the_operators_detail(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    error = ExecutionError("model_error", "Sorry.", "HTTP 401 from the provider")
    bench.executions.move(execution_id, Status.FAILED, error=error)

    assert "model_error: HTTP 401 from the provider" in bench.type("executions", "show", execution_id).stdout


def test_cancelling_ends_a_queued_execution_and_is_audited(bench: Bench) -> None:
    execution_id = _enqueue(bench)

    result = bench.type("executions", "cancel", execution_id, "--reason", "by mistake")

    assert result.stdout == f"cancelled {execution_id}\n"
    (entry,) = bench.audit.entries
    assert (entry.actor, entry.action, entry.organization_id, entry.detail) == (
        "cli:anna",
        AuditAction.EXECUTION_CANCELLED,
        "org_acme",
        {"reason": "by mistake"},
    )


def test_cancelling_a_running_one_says_that_it_takes_a_moment(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    bench.executions.move(execution_id, Status.RUNNING)

    assert "is running: OpenCode is told to stop" in bench.type("executions", "cancel", execution_id).stdout


def test_cancelling_what_is_over_changes_nothing(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    bench.executions.move(execution_id, Status.COMPLETED)

    assert "was over already: completed" in bench.type("executions", "cancel", execution_id).stdout
    assert bench.audit.entries == []


def test_what_was_cancelled_before_is_not_cancelled_and_audited_again(bench: Bench) -> None:
    execution_id, other = _enqueue(bench), _enqueue(bench)
    bench.type("executions", "cancel", execution_id)

    alone = bench.type("executions", "cancel", execution_id)
    among_others = bench.type("executions", "cancel", execution_id, other)

    assert alone.stdout == f"{execution_id} was over already: cancelled\n"
    assert among_others.stdout == "cancelled 1; 1 over already\n"
    assert [entry.subject for entry in bench.audit.entries] == [execution_id, other]


def test_a_running_one_that_is_being_stopped_is_audited_for_the_first_who_asked(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    bench.executions.move(execution_id, Status.RUNNING)

    for reason in ("by mistake", "again"):
        bench.type("executions", "cancel", execution_id, "--reason", reason)

    assert [entry.detail for entry in bench.audit.entries] == [{"reason": "by mistake"}]


def test_several_are_cancelled_and_counted_and_audited_each(bench: Bench) -> None:
    queued, running, over = (_enqueue(bench) for _ in range(3))
    bench.executions.move(running, Status.RUNNING)
    bench.executions.move(over, Status.COMPLETED)

    result = bench.type("executions", "cancel", queued, running, over, queued)

    assert result.exit_code == 0
    assert result.stdout == "cancelled 1; 1 running: OpenCode is told to stop; 1 over already\n"
    assert {entry.subject for entry in bench.audit.entries} == {queued, running}


def test_of_several_an_unknown_one_fails_the_command_and_not_the_others(bench: Bench) -> None:
    queued = _enqueue(bench)

    result = bench.type("executions", "cancel", "exe_none", queued)

    assert (result.exit_code, result.stdout) == (1, "cancelled 1; 1 unknown\n")
    assert "there is no execution 'exe_none'" in result.stderr
    assert bench.executions.rows[queued].status is Status.CANCELLED


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("the database cannot be reached", UnavailableError("the database cannot be reached")),
        ("unexpected RuntimeError", RuntimeError("of a bug")),
    ],
)
def test_an_error_in_the_middle_of_many_says_what_was_done_and_what_not(
    bench: Bench, words: str, error: Exception
) -> None:
    first, second, broken, last = (_enqueue(bench) for _ in range(4))  # the newest is cancelled first
    bench.executions.errors[broken] = error

    result = bench.type("executions", "cancel", first, second, broken, last)

    assert (result.exit_code, result.stdout) == (1, "cancelled 1; 1 in doubt; 2 not tried\n")
    assert f"nubabel executions show {broken}" in result.stderr
    assert f"broken off: {words}" in result.stderr
    assert [entry.subject for entry in bench.audit.entries] == [last]


def test_after_an_error_in_the_middle_the_rest_is_cancelled_by_running_it_again(bench: Bench) -> None:
    first, broken, last = (_enqueue(bench) for _ in range(3))
    bench.executions.errors[broken] = UnavailableError("the database cannot be reached")

    broken_off = bench.type("executions", "cancel", "--org", "acme", "--all-queued", "--json")
    bench.executions.errors.clear()
    again = bench.type("executions", "cancel", "--org", "acme", "--all-queued")

    report = orjson.loads(broken_off.stdout)
    assert broken_off.exit_code == 1
    assert [report[what] for what in ("cancelled", "in_doubt", "not_tried")] == [[last], [broken], [first]]
    assert (again.exit_code, again.stdout) == (0, "cancelled 2\n")


def test_everything_that_an_organization_has_queued_is_cancelled_the_newest_first(bench: Bench) -> None:
    bench.organizations.put(replace(ACME, id=OrganizationId("org_other"), name="Other"))
    mine = [_enqueue(bench) for _ in range(3)]
    bench.executions.move(mine[0], Status.RUNNING)
    theirs = _enqueue(bench, organization="other")

    looked = bench.type("executions", "cancel", "--org", "acme", "--all-queued", "--dry-run")
    done = bench.type("executions", "cancel", "--org", "acme", "--all-queued")
    again = bench.type("executions", "cancel", "--org", "acme", "--all-queued")

    assert looked.stdout == "would cancel 2\n"
    assert done.stdout == "cancelled 2\n"
    assert (again.exit_code, again.stdout) == (0, "cancelled 0\n")
    assert [entry.subject for entry in bench.audit.entries] == [mine[2], mine[1]]
    assert bench.executions.rows[mine[0]].status is Status.RUNNING
    assert bench.executions.rows[theirs].status is Status.QUEUED


def test_more_than_the_limit_is_said(bench: Bench) -> None:
    for _ in range(3):
        _enqueue(bench)

    result = bench.type("executions", "cancel", "--org", "acme", "--all-queued", "--limit", "2")

    assert result.stdout == "cancelled 2\n"
    assert "run it again" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("exe_1", "--org", "acme"),
        ("exe_1", "--all-queued", "--org", "acme"),
        ("--all-queued",),
        ("--org", "acme"),
        ("exe_1", "--dry-run"),
    ],
)
def test_what_is_to_be_cancelled_has_to_be_clear(bench: Bench, words: tuple[str, ...]) -> None:
    fails_with(bench.type("executions", "cancel", *words), 2, "--")


@pytest.mark.parametrize("verb", ["show", "cancel"])
def test_an_unknown_execution_is_bad_input(verb: str, bench: Bench) -> None:
    fails_with(bench.type("executions", verb, "exe_none"), 2, "nubabel executions list")


def test_a_database_that_is_away_is_one_line_and_exit_code_one(bench: Bench) -> None:
    execution_id = _enqueue(bench)
    bench.executions.error = UnavailableError("the database cannot be reached")

    fails_with(bench.type("executions", "show", execution_id), 1, "cannot be reached", "nubabel doctor")


def test_at_a_limit_the_command_says_which_and_how_to_raise_it(bench: Bench) -> None:
    bench.organizations.rows[ACME.id] = replace(ACME, limits={"queued": 0})

    fails_with(bench.type("enqueue", "hello", "--org", "acme"), 1, "nubabel limits set ORG queued=")


def test_a_request_may_come_after_the_interactive_ones(bench: Bench) -> None:
    _enqueue(bench, "--priority", "batch")

    assert bench.executions.accepted[0].batch
