"""`nubabel doctor`: is everything there that the system depends on, and what to do about what isn't?"""

from collections.abc import Sequence

import typer
from rich.cells import cell_len

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_BAD_INPUT, EXIT_FAILED, describe
from nubabel_workers.cli.invocation import AsJson, run
from nubabel_workers.cli.output import print_line, say, say_json, styled
from nubabel_workers.cli.wording import padded, plain
from nubabel_workers.services.check_health import Finding


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look at every dependency: OK or FAIL, and what to do. Fails when one of them does."""

    async def work(administration: Administration) -> list[Finding]:
        return await administration.health.run()

    try:
        findings = [Finding("settings", ok=True, detail="complete"), *run(context, work)]
    except Exception as error:
        line, code = describe(error)
        if code != EXIT_BAD_INPUT:
            raise
        findings = [Finding("settings", ok=False, detail=line, advice="see .env.example for every setting")]
    if as_json:
        say_json(findings)
    else:
        _print(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _print(findings: Sequence[Finding]) -> None:
    width = max(cell_len(plain(finding.name)) for finding in findings)
    for finding in findings:
        word = "OK" if finding.ok else "FAIL"
        took = f"  {finding.latency_ms:.0f} ms" if finding.latency_ms else ""
        print_line(
            (f"{word:<6}", styled(word)),
            (f"{padded(plain(finding.name), width)}  ", "bold"),
            (plain(finding.detail), ""),
            (took, "dim"),
        )
        if finding.advice:
            say(f"{'':<6}{'':<{width}}  → {plain(finding.advice)}")
    failed = sum(not finding.ok for finding in findings)
    say()
    say(f"{failed} of {len(findings)} failed" if failed else f"all {len(findings)} are well")
