"""Who names another's id is counted and listed for operators, within bounds, and never waited for."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.foreign_ids import IdKind, Naming, Sought, kind_of
from nubabel_workers.domain.ports import Incident
from nubabel_workers.services import report_foreign_ids
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from tests.fakes.administration import FakeAudit
from tests.fakes.clock import FakeClock
from tests.fakes.foreign_ids import FakeIdOwners
from tests.fakes.incidents import FakeIncidents
from tests.fakes.throttle import FakeThrottle
from tests.waiting import eventually

THEIRS, OURS, NOBODYS = (f"exe_{letter * 26}" for letter in "abc")


def naming(name: str = THEIRS, actor: str = "token:tok_1", organization_id: str = "org_acme") -> Naming:
    return Naming(actor, "GET /v1/executions/{execution_id}", Sought(organization_id, name))


@dataclass
class Reporting:
    """THEIRS is another organization's, OURS the caller's own, NOBODYS nobody's."""

    owners: FakeIdOwners = field(
        default_factory=lambda: FakeIdOwners({THEIRS: frozenset({"org_other"}), OURS: frozenset({"org_acme"})})
    )
    audit: FakeAudit = field(default_factory=FakeAudit)
    incidents: FakeIncidents = field(default_factory=FakeIncidents)
    throttle: FakeThrottle = field(default_factory=lambda: FakeThrottle(FakeClock()))

    def __post_init__(self) -> None:
        self.report = ReportForeignIds(self.owners, self.audit, self.incidents, self.throttle)

    def listed(self) -> list[AuditEntry]:
        return [one for one in self.audit.entries if one.action == AuditAction.FOREIGN_ID_NAMED]

    def summed_up(self) -> list[tuple[str, object, object]]:
        others = [one for one in self.audit.entries if one.action == AuditAction.FOREIGN_IDS_NOT_LISTED]
        return [(one.actor, one.detail["foreign"], one.detail["not_looked_up"]) for one in others]

    def refusals_not_listed(self) -> list[tuple[str | None, object]]:
        others = [one for one in self.audit.entries if one.action == AuditAction.REFUSALS_NOT_LISTED]
        return [(one.organization_id, one.detail["refused"]) for one in others]

    def refusals(self) -> list[AuditEntry]:
        return [one for one in self.audit.entries if one.action == AuditAction.TOOL_CALL_REFUSED]


@pytest.fixture
def reporting() -> Reporting:
    return Reporting()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_foreign_ids, "LISTED_PER_MINUTE", 2)
    monkeypatch.setattr(report_foreign_ids, "LOOKED_UP_PER_MINUTE", 4)


@pytest.fixture
def two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may have two things waiting, all together four. For a `Reporting` that is made after it."""
    monkeypatch.setattr(report_foreign_ids, "_MAX_WAITING_EACH", 2)
    monkeypatch.setattr(report_foreign_ids, "_MAX_WAITING", 4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (THEIRS, IdKind.EXECUTION),
        (f"bat_{'0' * 26}", IdKind.BATCH),
        (f"mcp_{'0' * 26}", IdKind.CONNECTION),
        (f"ses_{'0' * 26}", IdKind.SESSION),
        ("ses_e04562134ffe0oSJVu2NAsQvXL", IdKind.SESSION),
        (f"{THEIRS}/0-0", None),
        (THEIRS[:-1], None),
        (THEIRS.upper(), None),
        (f"{THEIRS}\n", None),
        (f"ses_{'a' * 81}", None),
        ("notion", None),
        ("", None),
    ],
)
def test_what_has_the_form_of_an_id_says_what_it_names(name: str, kind: IdKind | None) -> None:
    assert kind_of(name) is kind


async def test_anothers_id_is_counted_and_listed_for_operators_alone(reporting: Reporting) -> None:
    await reporting.report.run(naming())

    assert reporting.audit.entries == [
        AuditEntry(
            "token:tok_1",
            AuditAction.FOREIGN_ID_NAMED,
            None,
            THEIRS,
            {
                "organization": "org_acme",
                "owner": "org_other",
                "door": "GET /v1/executions/{execution_id}",
                "kind": "execution",
            },
        )
    ]
    assert reporting.incidents.counted == [Incident.FOREIGN_ID]


@pytest.mark.parametrize("name", [OURS, NOBODYS, "a-name-of-ones-own"])
async def test_what_is_ones_own_or_nobodys_leaves_nothing(reporting: Reporting, name: str) -> None:
    await reporting.report.run(naming(name))
    await reporting.report.close()

    assert (reporting.audit.entries, reporting.incidents.counted) == ([], [])


async def test_what_is_no_id_is_not_looked_up(reporting: Reporting) -> None:
    reporting.report.soon(naming("a-name-of-ones-own"))
    await reporting.report.run(naming("a-name-of-ones-own"))
    await reporting.report.settled()

    assert reporting.owners.asked == []


async def test_an_opencode_session_that_two_organizations_have_is_not_foreign_to_either(reporting: Reporting) -> None:
    reporting.owners.of["ses_same"] = frozenset({"org_acme", "org_other"})

    await reporting.report.run(naming("ses_same"))

    assert reporting.audit.entries == []


@pytest.mark.parametrize("name", [THEIRS, NOBODYS])
async def test_whoever_waits_for_an_answer_gets_it_before_anything_is_looked_up(
    reporting: Reporting, name: str
) -> None:
    reporting.report.soon(naming(name))

    assert (reporting.owners.asked, reporting.throttle.asked) == ([], 0)
    await reporting.report.settled()
    assert reporting.owners.asked == [(IdKind.EXECUTION, name)]


async def test_ids_are_looked_up_one_after_the_other(reporting: Reporting) -> None:
    for _ in range(3):
        reporting.report.soon(naming())
    (working,) = asyncio.all_tasks() - {asyncio.current_task()}
    await working

    assert len(reporting.listed()) == 3


def refused_agent_of(organization_id: str) -> AuditEntry:
    return AuditEntry("instance:ins_1", AuditAction.TOOL_CALL_REFUSED, organization_id, "ses_1", {"tool": "look"})


@pytest.mark.usefixtures("few")
async def test_what_one_organization_is_refused_on_a_server_hides_nothing_of_another(reporting: Reporting) -> None:
    for _ in range(5):
        await reporting.report.write(refused_agent_of("org_loud"))

    await reporting.report.write(refused_agent_of("org_quiet"))
    await reporting.report.close()

    assert reporting.audit.entries.count(refused_agent_of("org_loud")) == 2
    assert reporting.audit.entries.count(refused_agent_of("org_quiet")) == 1


@pytest.mark.usefixtures("few")
async def test_refusals_beyond_the_limits_are_summed_up_in_the_log_that_the_others_are_in(reporting: Reporting) -> None:
    for _ in range(5):
        await reporting.report.write(refused_agent_of("org_loud"))
        await reporting.report.run(naming())
    await reporting.report.close()

    *_, own, operators = reporting.audit.entries
    assert own == AuditEntry(
        "instance:ins_1",
        AuditAction.REFUSALS_NOT_LISTED,
        "org_loud",
        "",
        {"action": AuditAction.TOOL_CALL_REFUSED, "refused": 3},
    )
    assert operators == AuditEntry(
        "token:tok_1",
        AuditAction.FOREIGN_IDS_NOT_LISTED,
        None,
        "",
        {"organization": "org_acme", "foreign": 2, "not_looked_up": 1},
    )


async def test_one_caller_is_not_listed_without_end_whomever_it_names(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "LISTED_OF_ALL_PER_MINUTE", 3)

    for number in range(9):
        await reporting.report.write(refused_agent_of(f"org_{number}"))
    await reporting.report.close()

    assert sum(one.action == AuditAction.TOOL_CALL_REFUSED for one in reporting.audit.entries) == 3


@pytest.mark.usefixtures("few")
async def test_beyond_the_limits_of_a_minute_one_entry_says_how_many_there_were(reporting: Reporting) -> None:
    for _ in range(7):
        await reporting.report.run(naming())
    await reporting.report.run(naming(actor="token:tok_2"))
    await reporting.report.close()

    assert [one.actor for one in reporting.listed()] == ["token:tok_1", "token:tok_1", "token:tok_2"]
    assert len(reporting.owners.asked) == 4 + 1
    assert reporting.summed_up() == [("token:tok_1", 2, 3)]
    assert reporting.incidents.counted.count(Incident.FOREIGN_ID) == 5
    assert reporting.incidents.counted.count(Incident.FOREIGN_ID_UNSEEN) == 3


@pytest.mark.usefixtures("two_places")
async def test_what_finds_no_place_in_the_queue_is_counted() -> None:
    reporting = Reporting()

    for _ in range(5):
        reporting.report.soon(naming())
        reporting.report.refused(refused_agent_of("org_acme"))
    await reporting.report.close()

    assert len(reporting.listed()) == len(reporting.refusals()) == 2
    assert reporting.summed_up() == [("token:tok_1", 0, 3)]
    assert reporting.audit.entries[-1].detail == {"action": AuditAction.TOOL_CALL_REFUSED, "refused": 3}
    assert reporting.incidents.counted.count(Incident.FOREIGN_ID_UNSEEN) == 3  # refusals were looked at


@pytest.mark.parametrize(
    ("actor", "organization_id"),
    [("token:tok_2", "org_acme"), ("token:tok_1", "org_quiet")],
    ids=["caller", "organization of the same server"],
)
async def test_a_flood_of_one_hides_nothing_of_what_another_names(
    reporting: Reporting, actor: str, organization_id: str
) -> None:
    for _ in range(2 * report_foreign_ids._MAX_WAITING):
        reporting.report.soon(naming(NOBODYS))
    reporting.report.soon(naming(THEIRS, actor, organization_id))
    await reporting.report.settled()

    assert [(one.actor, one.detail["organization"]) for one in reporting.listed()] == [(actor, organization_id)]
    assert reporting.owners.asked[1] == (IdKind.EXECUTION, THEIRS)  # its turn is the next


async def test_many_that_flood_at_once_leave_a_place_for_whoever_names_one(reporting: Reporting) -> None:
    for number in range(report_foreign_ids._MAX_WAITING // report_foreign_ids._MAX_WAITING_EACH):
        for _ in range(report_foreign_ids._MAX_WAITING_EACH):
            reporting.report.soon(naming(NOBODYS, f"token:tok_flood{number}"))

    reporting.report.soon(naming(THEIRS, "token:tok_2"))
    await reporting.report.close()

    assert [one.actor for one in reporting.listed()] == ["token:tok_2"]
    assert [unseen for _, _, unseen in reporting.summed_up()] == [1]  # the one that gave way


@pytest.mark.usefixtures("few")
async def test_looks_that_one_organization_used_up_on_a_server_are_not_anothers(reporting: Reporting) -> None:
    for _ in range(9):
        await reporting.report.run(naming(NOBODYS, "instance:ins_1", "org_loud"))

    await reporting.report.run(naming(THEIRS, "instance:ins_1", "org_quiet"))

    assert len(reporting.listed()) == 1


async def test_a_known_refusal_is_listed_while_what_is_looked_up_hangs(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "_CLOSE_S", 0.01)
    monkeypatch.setattr(reporting.owners, "owners", _never)
    for _ in range(2 * report_foreign_ids._MAX_WAITING):
        reporting.report.soon(naming(NOBODYS, "instance:ins_1"))

    reporting.report.refused(refused_agent_of("org_acme"))
    await eventually(reporting.refusals)
    await reporting.report.close()

    assert len(reporting.refusals()) == 1


async def test_the_count_is_written_every_minute_while_the_process_lives(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "_SUMMED_UP_EVERY_S", 0)
    reporting.owners.away = True

    await reporting.report.run(naming())
    (summing,) = asyncio.all_tasks() - {asyncio.current_task()}
    await summing

    assert reporting.summed_up() == [("token:tok_1", 0, 1)]


async def test_while_the_database_is_away_nobody_fails_and_it_is_said_afterwards(reporting: Reporting) -> None:
    reporting.owners.away = True
    await reporting.report.run(naming())
    reporting.owners.away = False

    await reporting.report.close()

    assert reporting.listed() == []
    assert reporting.summed_up() == [("token:tok_1", 0, 1)]


async def test_what_was_never_looked_up_is_heard_of_while_the_database_is_away(reporting: Reporting) -> None:
    reporting.owners.away = True

    await reporting.report.run(naming())

    assert reporting.incidents.counted == [Incident.FOREIGN_ID_UNSEEN]


async def test_what_was_looked_up_and_could_not_be_written_down_is_no_unseen_one(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(reporting.audit, "add", _away)
        await reporting.report.run(naming())
    await reporting.report.close()

    assert reporting.incidents.counted == [Incident.FOREIGN_ID]
    assert reporting.summed_up() == [("token:tok_1", 1, 0)]


async def test_what_waits_is_looked_up_before_the_process_ends(reporting: Reporting) -> None:
    reporting.report.soon(naming())

    await reporting.report.close()

    assert len(reporting.listed()) == 1


async def test_what_is_still_being_looked_up_when_the_process_ends_is_counted(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "_CLOSE_S", 0.01)
    monkeypatch.setattr(reporting.owners, "owners", _never)
    reporting.report.soon(naming())
    reporting.report.soon(naming())

    await reporting.report.close()

    assert reporting.summed_up() == [("token:tok_1", 0, 2)]


async def test_an_audit_log_that_does_not_answer_does_not_hold_the_end_of_the_process(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "_CLOSE_S", 0.01)
    reporting.owners.away = True
    await reporting.report.run(naming())
    monkeypatch.setattr(reporting.audit, "add", _never)

    async with asyncio.timeout(5):
        await reporting.report.close()


async def test_what_a_bug_befalls_is_counted_and_the_next_is_served(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reporting.audit.add

    async def fails_for_the_first(entry: AuditEntry) -> None:
        if entry.subject == "ses_first":
            raise ValueError("a bug")
        await real(entry)

    async def fails_for_nobodys(kind: IdKind, name: str) -> frozenset[str]:
        if name == NOBODYS:
            raise ValueError("a bug")
        return frozenset({"org_other"})

    monkeypatch.setattr(reporting.audit, "add", fails_for_the_first)
    monkeypatch.setattr(reporting.owners, "owners", fails_for_nobodys)
    reporting.report.refused(replace(refused_agent_of("org_acme"), subject="ses_first"))
    reporting.report.refused(refused_agent_of("org_acme"))
    reporting.report.soon(naming(NOBODYS))
    reporting.report.soon(naming())
    await reporting.report.settled()

    assert (len(reporting.refusals()), len(reporting.listed())) == (1, 1)
    await reporting.report.close()
    assert reporting.summed_up() == [("token:tok_1", 0, 1)]
    assert reporting.refusals_not_listed() == [("org_acme", 1)]


async def test_an_entry_that_cannot_be_written_for_a_bug_holds_up_neither_other_sums_nor_the_end(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reporting.audit.add

    async def fails_for_one(entry: AuditEntry) -> None:
        if entry.actor == "token:tok_1":
            raise ValueError("a bug")
        await real(entry)

    monkeypatch.setattr(reporting.audit, "add", fails_for_one)
    reporting.owners.away = True
    await reporting.report.run(naming())
    await reporting.report.run(naming(actor="token:tok_2"))

    await reporting.report.close()

    assert reporting.summed_up() == [("token:tok_2", 0, 1)]


async def test_the_minutes_sum_is_tried_again_after_a_bug(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "_SUMMED_UP_EVERY_S", 0)
    real, failures = reporting.audit.add, [ValueError("a bug")]

    async def fails_once(entry: AuditEntry) -> None:
        if failures:
            raise failures.pop()
        await real(entry)

    monkeypatch.setattr(reporting.audit, "add", fails_once)
    reporting.owners.away = True
    await reporting.report.run(naming())
    (summing,) = asyncio.all_tasks() - {asyncio.current_task()}
    await summing

    assert reporting.summed_up() == [("token:tok_1", 0, 1)]


async def test_what_waits_behind_a_worker_that_was_ended_is_counted_at_the_end(reporting: Reporting) -> None:
    reporting.report.soon(naming())
    reporting.report.soon(naming())
    (working,) = asyncio.all_tasks() - {asyncio.current_task()}
    working.cancel()
    await asyncio.wait([working])

    await reporting.report.close()

    assert reporting.summed_up() == [("token:tok_1", 0, 2)]


async def _away(*_: object) -> None:
    raise UnavailableError("the database cannot be reached")


async def _never(*_: object) -> frozenset[str]:
    await asyncio.Event().wait()
    return frozenset()
