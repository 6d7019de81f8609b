"""Reports of foreign ids close last in a process: what is handed over while the rest closes is still written down.

Each entry is beyond the limits: only the sum that closing writes tells of it, and closed too early, it tells nothing.
"""

from collections.abc import Awaitable, Callable

import pytest
from fastapi import FastAPI

from config.settings import Settings
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.bootstrap import open_services
from nubabel_workers.cli import wiring
from nubabel_workers.cli.wiring import open_administration
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.gateway import __main__ as web
from nubabel_workers.services import report_foreign_ids
from nubabel_workers.services.answer_by_call import AnswerByCall
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from tests.integration.storage.seeds import add_organization

pytestmark = pytest.mark.integration


def refusal(subject: str) -> AuditEntry:
    return AuditEntry("instance:ins_1", AuditAction.TOOL_CALL_REFUSED, "org_one", subject)


@pytest.fixture(autouse=True)
async def _organization(settings: Settings) -> None:
    async with open_services(settings, application_name="tests") as services:
        await add_organization(services.database, "org_one")


@pytest.fixture(autouse=True)
def _nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_foreign_ids, "LISTED_PER_MINUTE", 0)


async def summed_up(settings: Settings) -> int:
    """How many of those that were handed over are told of, now that the process has ended."""
    async with open_services(settings, application_name="tests") as services:
        entries = await PostgresAuditTrail(services.database).list(organization_id="org_one", limit=100)
    return sum(entry.detail["refused"] for entry in entries if entry.action == AuditAction.REFUSALS_NOT_LISTED)


@pytest.mark.parametrize(("closes", "by"), [(AnswerByCall, "close"), (LeaseHolder, "stop")])
async def test_what_a_service_reports_while_it_closes_is_written_down(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, closes: type, by: str
) -> None:
    reports: list[ReportForeignIds] = []
    close: Callable[[object], Awaitable[None]] = getattr(closes, by)

    async def reporting(self: object) -> None:
        reports[0].refused(refusal(by))
        await close(self)

    with monkeypatch.context() as changed:
        changed.setattr(closes, by, reporting)
        async with open_services(settings, application_name="tests") as services:
            reports.append(services.foreign_ids)

    assert await summed_up(settings) == 1


async def test_what_is_reported_when_the_database_is_about_to_close_is_written_down(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    _noted(monkeypatch, ReportForeignIds, "close", order)
    _noted(monkeypatch, Database, "close", order)

    async with open_services(settings, application_name="tests") as services:
        services.foreign_ids.refused(refusal("last"))

    assert order == ["ReportForeignIds", "Database"]
    monkeypatch.undo()
    assert await summed_up(settings) == 1


def _noted(monkeypatch: pytest.MonkeyPatch, closed: type, by: str, order: list[str]) -> None:
    close: Callable[[object], Awaitable[None]] = getattr(closed, by)

    async def noted(self: object) -> None:
        order.append(closed.__name__)
        await close(self)

    monkeypatch.setattr(closed, by, noted)


async def test_what_the_last_request_of_the_web_process_named_is_written_down(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(app: FastAPI, _: Settings) -> None:
        app.state.parts.foreign_ids.refused(refusal("last request"))

    monkeypatch.setattr(web, "serve", serve)

    await web.run(settings)

    assert await summed_up(settings) == 1


async def test_what_a_command_reports_while_it_ends_is_written_down(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "command_settings", lambda: settings)

    async with open_administration() as administration:
        administration.foreign_ids.refused(refusal("command"))

    assert await summed_up(settings) == 1
