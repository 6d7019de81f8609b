"""`nubabel demo`. What it does is in `demo_run`, which loads the whole system: `nubabel --help` needs none of it."""

import typer

from nubabel_workers.cli.opencode_choice import OpenCodeChoice, OpenCodeOption


def command(opencode: OpenCodeOption = OpenCodeChoice.SIMULATOR) -> None:
    """Start everything, ask a few questions in a local Slack, show the answers, stop everything."""
    from nubabel_workers.cli.demo_run import demo as run  # noqa: PLC0415  # see above
    from nubabel_workers.cli.running import run_until_stopped  # noqa: PLC0415

    raise typer.Exit(run_until_stopped(lambda console: run(opencode.value, console)))
