"""`nubabel tool-calls`: which tools agents called with an organization's credentials, and what came of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import orjson
import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, actor, organization_or_all, report_foreign, run
from nubabel_workers.cli.output import fields, heading, note, print_line, say, say_json, styled, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, clock_time, duration, plain_lines
from nubabel_workers.domain.administration import ToolCallDetails, ToolCallFilter, ToolCallSummary
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.tool_calls import CallStatus

commands = typer.Typer(help="Calls of connected tools: list, show.", no_args_is_help=True)

ToolCallArgument = Annotated[str, typer.Argument(metavar="TOOL_CALL", help="Its id, tc_...")]


@commands.command("list")
def list_some(
    context: typer.Context,
    organization: OrganizationOption = None,
    execution_id: Annotated[
        str | None, typer.Option("--execution", metavar="EXECUTION", help="Only those of this execution, exe_...")
    ] = None,
    session_id: Annotated[
        str | None,
        typer.Option("--session", metavar="SESSION", help="Only those of this session, ours or OpenCode's, ses_..."),
    ] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Only those to this provider.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="Only those of this tool.")] = None,
    statuses: Annotated[
        list[CallStatus] | None, typer.Option("--status", help="Only in this state; repeatable.", show_choices=True)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List tool calls, newest first, without what went in and came out."""

    async def work(administration: Administration) -> tuple[Sequence[ToolCallSummary], datetime]:
        owner = await organization_or_all(administration, organization)
        chosen = ToolCallFilter(
            organization_id=owner.id if owner else None,
            execution_id=execution_id,
            session_id=session_id,
            provider=provider,
            tool_name=tool,
            statuses=frozenset(statuses) if statuses else None,
        )
        found = await administration.tool_calls.list(chosen, limit=limit)
        if owner is not None and not found:
            for name in filter(None, (execution_id, session_id)):
                await report_foreign(context, administration, Sought(owner.id, name))
        return found, administration.clock.now()

    found, now = run(context, work)
    if as_json:
        say_json(found)
        return
    columns = [Column(title) for title in ("ID", "STATUS", "PROVIDER", "TOOL", "EXECUTION", "STARTED", "TOOK")]
    table(
        [*columns, Column("ERROR", whole=False)],
        [
            (
                one.id,
                one.status.value,
                one.provider,
                one.tool,
                one.execution_id,
                ago(one.started_at, now),
                _took(one, now),
                one.error_code or "",
            )
            for one in found
        ],
        empty="no tool calls",
    )


@commands.command()
def show(context: typer.Context, tool_call_id: ToolCallArgument, as_json: AsJson = False) -> None:
    """Show one tool call with its arguments and its result as they are kept: secrets masked, long values cut."""

    async def work(administration: Administration) -> tuple[ToolCallDetails, datetime]:
        details = await administration.tool_calls.show(tool_call_id, actor=actor(context))
        return details, administration.clock.now()

    details, now = run(context, work)
    if as_json:
        say_json(details)
    else:
        _print(details, now)


def _print(details: ToolCallDetails, now: datetime) -> None:
    call = details.call
    print_line((f"{call.id}  ", "bold"), (call.status.value, styled(call.status.value)), (f"  {_took(call, now)}", ""))
    say()
    fields(
        {
            "organization": call.organization_id,
            "execution": call.execution_id,
            "session": call.session_id,
            "provider": call.provider,
            "connection": details.connection_id,
            "tool": call.tool,
            "started": f"{clock_time(call.started_at)} UTC ({ago(call.started_at, now)})",
            "tries": str(call.tries),
            "may be repeated": "yes" if call.repeatable else "no",
            "OpenCode session": call.opencode_session_id,
            "OpenCode call": details.opencode_call_id,
        }
    )
    if details.error is not None:
        heading("Why it has no result")
        say(f"{details.error.code}: {plain_lines(details.error.message)}")
    heading("Arguments")
    say(plain_lines(_indented(details.arguments)))
    _print_result(details)
    note(f"what else happened: nubabel executions show {call.execution_id}")


def _print_result(details: ToolCallDetails) -> None:
    if details.result is None:
        return
    heading("Result, less than what came" if details.altered else "Result")
    say(plain_lines(str(details.result.get("text", ""))))
    if details.result.get("structured") is not None:
        say(plain_lines(_indented(details.result["structured"])))


def _took(call: ToolCallSummary, now: datetime) -> str:
    return duration(((call.ended_at or now) - call.started_at).total_seconds())


def _indented(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
