"""`nubabel restored`: after a restore of the database, before the processes start."""

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, actor, run
from nubabel_workers.cli.output import say, say_json
from nubabel_workers.domain.administration import RestoreReport


def restored(context: typer.Context, as_json: AsJson = False) -> None:
    """Have everything that may have been told since the backup looked up before it is told. Safe to repeat.

    Run it after a restore and before any process starts: what waits in the rows may have happened already.
    """

    async def work(administration: Administration) -> RestoreReport:
        return await administration.restore.mark(actor=actor(context))

    report = run(context, work)
    if as_json:
        say_json(report)
    else:
        say(f"{report.executions} open executions and {report.notifications} untold messages are looked up first")
