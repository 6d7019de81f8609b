"""`nubabel enqueue`: ask something from the command line, by the same way as every upstream service."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.invocation import AsJson, run
from nubabel_workers.cli.output import complain, note, say, say_json
from nubabel_workers.cli.wording import plain, plain_lines, shortened
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.services.submit_execution import Submitted

_PROGRESS_CHARACTERS = 100


def enqueue(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What is asked; - reads it from standard input.")],
    organization: Annotated[str, typer.Option("--org", metavar="ORG", help="For this organization, by id or name.")],
    session_id: Annotated[str | None, typer.Option("--session", help="Continue this session, ses_...")] = None,
    session_key: Annotated[str | None, typer.Option(help="Your own name for the conversation.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: sent again, it is the same request.")] = (
        None
    ),
    category: Annotated[str | None, typer.Option(help="Overrides the analysis.")] = None,
    skills: Annotated[list[str] | None, typer.Option("--skill", help="Overrides the analysis; repeatable.")] = None,
    agent: Annotated[str | None, typer.Option(help="Overrides the agent.")] = None,
    model: Annotated[str | None, typer.Option(help="Overrides the model: provider/model.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Where the outcome is sent, signed.")] = None,
    deadline_s: Annotated[int | None, typer.Option(help="Seconds that the run may take.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="interactive, or batch: after the organization's interactive requests.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answer and print it.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for it.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Enqueue a request. With --wait the answer is the output, and the command fails unless there is one."""
    request = _request(
        prompt=sys.stdin.read() if prompt == "-" else prompt,
        session_id=session_id,
        session_key=session_key,
        idempotency_key=key,
        category=category,
        skills=skills or None,
        agent=agent,
        model=model,
        callback_url=callback_url,
        deadline_s=deadline_s,
        priority=priority,
    )

    async def work(administration: Administration) -> tuple[Submitted, Execution | None]:
        owner = await administration.organizations.resolve(organization)
        if owner.disabled_at is not None:
            raise InvalidInputError(f"the organization {owner.name!r} is disabled: nubabel orgs enable {owner.id}")
        submitted = await administration.submit.submit(
            owner,
            request,
            source="cli",
            correlation_id=administration.chance.new_id("cor"),
            traceparent=administration.chance.new_traceparent(),
        )
        if not wait:
            return submitted, None
        note(f"{submitted.execution_id} accepted, waiting")
        ended = await administration.wait.final(
            owner.id, submitted.execution_id, timeout_s=timeout_s, on_progress=_show_progress
        )
        return submitted, ended

    submitted, ended = run(context, work)
    if not wait:
        _print_accepted(submitted, as_json=as_json)
        return
    _print_end(submitted, ended, as_json=as_json)


def _request(**values: Any) -> SubmitRequest:
    try:
        return SubmitRequest(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        words = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'request'}: {one['msg']}" for one in problems)
        raise InvalidInputError(words.replace("Value error, ", "")) from None


def _show_progress(event: Mapping[str, Any]) -> None:
    """One dim line per event that a person can use."""
    words = {
        "state": event.get("status"),
        "tool": f"{event.get('tool', 'tool')} {event.get('status', '')} {event.get('title') or ''}",
    }.get(str(event.get("type")))
    if words:
        note(f"  {shortened(str(words), _PROGRESS_CHARACTERS)}")


def _print_accepted(submitted: Submitted, *, as_json: bool) -> None:
    if as_json:
        say_json(submitted)
        return
    again = "" if submitted.created else " (the same request was accepted before)"
    say(f"{submitted.execution_id}  {submitted.status}{again}")
    note(f"look: nubabel executions show {submitted.execution_id}")


def _print_end(submitted: Submitted, ended: Execution | None, *, as_json: bool) -> None:
    """The answer on stdout, everything else on stderr."""
    if as_json:
        say_json({"submitted": submitted, "execution": ended})
    elif ended is not None and ended.output:
        say(plain_lines(ended.output))
        for said in ended.notes:
            note(plain(said))
    if ended is None:
        complain(f"{submitted.execution_id} is not over yet; look: nubabel executions show {submitted.execution_id}")
    elif ended.status is not Status.COMPLETED:
        reason = ended.error.message if ended.error else "no reason was stored"
        complain(f"{ended.id} {ended.status}: {reason}")
    if ended is None or ended.status is not Status.COMPLETED:
        raise typer.Exit(EXIT_FAILED)
