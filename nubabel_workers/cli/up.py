"""`nubabel up`. What it does is in `up_run`, which loads the whole system: `nubabel --help` needs none of it."""

import typer

from nubabel_workers.cli.opencode_choice import OpenCodeChoice, OpenCodeOption


def command(opencode: OpenCodeOption = OpenCodeChoice.SIMULATOR) -> None:
    """Start everything on this machine and keep it running; its data is removed at the end."""
    from nubabel_workers.cli.running import run_until_stopped  # noqa: PLC0415
    from nubabel_workers.cli.up_run import up as run  # noqa: PLC0415  # see above

    # To be stopped is how it ends: no failure for `make up` to complain about.
    raise typer.Exit(run_until_stopped(lambda console: run(opencode.value, console), when_stopped=0))
