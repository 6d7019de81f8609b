"""`nubabel budget`: what an organization may use, and what it has used of it. Set by `nubabel limits`."""

from dataclasses import asdict

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationArgument, run
from nubabel_workers.cli.output import note, say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.domain.budgets import Amount, Books, Cap, Caps
from nubabel_workers.domain.decimals import in_full


def budget(context: typer.Context, organization: OrganizationArgument, as_json: AsJson = False) -> None:
    """Show the caps, what is used and held, and what waits for room. Days and months are UTC's."""

    async def work(administration: Administration) -> tuple[Caps, Books]:
        owner = await administration.organizations.resolve(organization)
        return await administration.budgets.books(owner.id)

    caps, books = run(context, work)
    if as_json:
        say_json({"caps": asdict(caps), "books": asdict(books)})
        return
    _print(caps, books)


def _print(caps: Caps, books: Books) -> None:
    rows: list[tuple[Cap, float | None]] = [
        (Cap.COST_PER_DAY, books.today.cost),
        (Cap.COST_PER_MONTH, books.this_month.cost),
        (Cap.TOKENS_PER_DAY, books.today.tokens),
        (Cap.TOKENS_PER_MONTH, books.this_month.tokens),
        (Cap.COST_PER_USER_DAY, None),
        (Cap.COST_PER_EXECUTION, None),
    ]
    table(
        [Column("CAP"), Column("LIMIT", right=True), Column("USED", right=True), Column("HELD", right=True)],
        [(cap.value, _number(getattr(caps, cap)), _number(used), _held(cap, books.held, used)) for cap, used in rows],
        empty="",
    )
    note(f"{books.holds} runs hold something; {books.queued} queued and {books.paused} paused wait for room")


def _held(cap: Cap, held: Amount, used: float | None) -> str:
    if used is None:
        return "-"
    return _number(held.tokens if cap in {Cap.TOKENS_PER_DAY, Cap.TOKENS_PER_MONTH} else held.cost)


def _number(value: float | None) -> str:
    return "-" if value is None else in_full(value)
