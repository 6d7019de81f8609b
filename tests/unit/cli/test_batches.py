"""nubabel batches."""

import asyncio

import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.executions import NewExecution, Status
from nubabel_workers.domain.groups import NewGroup, OnFailure
from nubabel_workers.domain.ids import OrganizationId
from tests.unit.cli.bench import Bench, fails_with

BATCH = "bat_1"
ACME = OrganizationId("org_acme")


@pytest.fixture(autouse=True)
def batch(bench: Bench) -> None:
    group = NewGroup(BATCH, ACME, OnFailure.REPORT, {"kind": "none"}, "key:k", "", "", "")
    asked = [NewExecution(ACME, "api", word, word, word, "", {"kind": "none"}) for word in ("one", "two")]
    asyncio.run(bench.groups.accept(group, asked, answer_by_s=60))


def test_batches_are_listed_with_how_far_they_are(bench: Bench) -> None:
    bench.executions.move(bench.groups.members[BATCH][0], Status.COMPLETED)

    listed = bench.type("batches", "list").stdout

    assert BATCH in listed
    assert "1 of 2" in listed


def test_a_batch_shows_where_each_of_its_executions_stands(bench: Bench) -> None:
    bench.executions.move(bench.groups.members[BATCH][0], Status.COMPLETED)

    shown = bench.type("batches", "show", BATCH).stdout

    assert "the others go on" in shown
    assert all(one in shown for one in (*bench.groups.members[BATCH], "completed", "queued"))


def test_an_execution_shows_the_batch_that_it_belongs_to(bench: Bench) -> None:
    assert BATCH in bench.type("executions", "show", bench.groups.members[BATCH][0]).stdout


def test_cancelling_ends_what_is_queued_and_is_audited(bench: Bench) -> None:
    result = bench.type("batches", "cancel", BATCH, "--reason", "by mistake")

    assert result.stdout == f"{BATCH} has ended: cancelled\n"
    assert set(bench.executions.statuses()) == {Status.CANCELLED}
    (entry,) = bench.audit.entries
    assert (entry.action, entry.subject, entry.detail) == (AuditAction.BATCH_CANCELLED, BATCH, {"reason": "by mistake"})


def test_cancelling_what_runs_says_that_it_takes_a_moment(bench: Bench) -> None:
    bench.executions.move(bench.groups.members[BATCH][0], Status.RUNNING)

    assert "OpenCode is told to stop" in bench.type("batches", "cancel", BATCH).stdout


def test_cancelling_what_is_over_changes_nothing(bench: Bench) -> None:
    bench.type("batches", "cancel", BATCH)

    assert "was over already: cancelled" in bench.type("batches", "cancel", BATCH).stdout


@pytest.mark.parametrize("verb", ["show", "cancel"])
def test_an_unknown_batch_is_bad_input(verb: str, bench: Bench) -> None:
    fails_with(bench.type("batches", verb, "bat_none"), 2, "nubabel batches list")
