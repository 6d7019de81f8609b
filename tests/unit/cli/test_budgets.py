"""nubabel budget, nubabel executions resume."""

from nubabel_workers.domain.executions import NewExecution
from tests.unit.cli.bench import ACME, Bench, fails_with


def test_changed_limits_let_what_waits_look_for_room(bench: Bench) -> None:
    bench.type("limits", "set", "acme", "cost_per_day=5")

    assert bench.budgets.woken == [ACME.id]


def test_a_small_amount_is_shown_as_it_was_given(bench: Bench) -> None:
    bench.type("limits", "set", "acme", "cost_per_day=0.00005", "cost_per_month=1234567.25")

    shown = bench.type("limits", "show", "acme").stdout.split()

    assert {"0.00005", "1234567.25"} <= set(shown)


def test_the_books_are_shown(bench: Bench) -> None:
    result = bench.type("budget", "acme")

    for words in ("cost_per_day", "1.5", "0.25", "50000"):
        assert words in result.stdout
    assert "2 runs hold something; 3 queued and 1 paused wait for room" in result.stderr
    assert bench.json("budget", "acme")["books"]["holds"] == 2


async def accepted(bench: Bench) -> str:
    new = NewExecution(ACME.id, "api", "hello", "s", "k", "h", {"kind": "none"})
    return (await bench.executions.accept(new, working=None, answer_by_s=60)).execution_id


def test_an_operator_lets_an_execution_go_on(bench: Bench) -> None:
    import asyncio

    execution_id = asyncio.run(accepted(bench))
    bench.budgets.waiting.add(execution_id)

    result = bench.type("executions", "resume", execution_id, "--usd", "2.5")

    assert f"{execution_id} goes on, for at most 2.5 US dollars more" in result.stdout
    (allowed,) = bench.budgets.allowed.values()
    assert allowed[0] == 2.5
    fails_with(bench.type("executions", "resume", execution_id, "--usd", "1"), 2, "does not wait for its budget")
    fails_with(bench.type("executions", "resume", "exe_none", "--usd", "1"), 2, "there is no execution")
    fails_with(bench.type("executions", "resume", execution_id, "--usd", "0"), 2, "usd")
