"""Tables: what may be copied or compared is never cut, whatever the terminal's width."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.text import Text

from nubabel_workers.cli.table_layout import Column, lay_out
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterReason, DeadLetterStatus, SubjectKind
from nubabel_workers.domain.ids import DeadLetterId
from tests.fakes.clock import START
from tests.unit.cli.bench import Bench

_ID = "exe_01kahmz7p1h0v5v6m6bqz0x3ja"
_LONG = "the model's provider closed the connection " * 50
_COLUMNS = (
    Column("ID"),
    Column("STATUS"),
    Column("ACCEPTED"),
    Column("TOKENS", right=True),
    Column("WHY", whole=False),
)
_ROW = (_ID, "waiting_budget", "3 min 20 s ago", "1_200", _LONG)


def _laid_out(*rows: Sequence[str], width: int | None) -> list[str]:
    return [line.plain for line in lay_out(_COLUMNS, [[Text(cell) for cell in row] for row in rows], width=width)]


def _letter(number: int, error: str) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(f"dlq_01kahmz7p1h0v5v6m6bqz0x3j{number}"),
        organization_id="org_acme",
        queue="orchestration",
        task="orchestration.dispatch",
        reason=DeadLetterReason.ATTEMPTS_EXHAUSTED,
        error=error,
        status=DeadLetterStatus.OPEN,
        created_at=START,
        subject_kind=SubjectKind.EXECUTION,
        subject_id=_ID,
    )


def test_in_a_pipe_nothing_is_cut() -> None:
    titles, row = _laid_out(_ROW, width=None)

    assert titles.split() == ["ID", "STATUS", "ACCEPTED", "TOKENS", "WHY"]
    assert row.endswith(_LONG.rstrip())
    for cell in _ROW[:4]:
        assert cell in row


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_on_a_terminal_ids_times_and_states_are_whole_and_free_text_ends_in_an_ellipsis(width: int) -> None:
    lines = _laid_out(_ROW, _ROW, width=width)

    for cell in _ROW[:4]:
        assert sum(cell in line for line in lines) == 2
    assert sum(line.endswith("…") for line in lines) == 2
    assert max(map(cell_len, lines)) <= width


def test_a_row_that_is_too_wide_goes_on_in_the_next_line_under_its_titles() -> None:
    lines = _laid_out((*_ROW[:4], "unknown_model"), width=66)

    assert lines == [
        f"{'ID':30}  {'STATUS':14}  ACCEPTED",
        "    TOKENS  WHY",
        f"{_ID}  waiting_budget  3 min 20 s ago",
        "     1_200  unknown_model",
    ]


def test_a_row_without_free_text_has_no_empty_line() -> None:
    columns = (Column("ID"), Column("WHY", whole=False))

    lines = list(lay_out(columns, [[Text(_ID), Text("")], [Text(_ID), Text(_LONG)]], width=40))

    assert [line.plain for line in lines][2:4] == [_ID, _ID]


def test_wide_characters_count_as_two_cells() -> None:
    lines = _laid_out((*_ROW[:4], "안녕하세요 여러분 " * 20), width=100)

    assert max(map(cell_len, lines)) <= 100
    assert lines[1].endswith("…")


def test_an_id_is_whole_even_where_the_terminal_is_narrower() -> None:
    assert _ID in _laid_out(_ROW, width=20)


def test_dead_letters_keep_their_columns_beside_a_long_error(bench: Bench) -> None:
    bench.dead_letters.put(_letter(1, "HTTP 503"), _letter(2, _LONG))

    listed = bench.type("dead-letters", "list", "--all").stdout

    assert listed.split("\n")[0].split() == ["ID", "REASON", "QUEUE", "SUBJECT", "SET", "ASIDE", "ERROR"]
    for letter in (_letter(1, ""), _letter(2, "")):
        assert f"{letter.id}  attempts-exhausted  orchestration  {_ID}" in listed


def test_the_audit_log_keeps_its_columns_beside_a_long_detail(bench: Bench) -> None:
    entry = AuditEntry("cli:anna", AuditAction.EXECUTION_CANCELLED, "org_acme", _ID, at=START, detail={"reason": _LONG})
    bench.audit.entries.append(entry)

    listed = bench.type("audit").stdout

    assert f"{START:%Y-%m-%d %H:%M:%S}  cli:anna  execution.cancelled  {_ID}  org_acme" in listed
    assert _LONG.rstrip() in listed


def test_a_terminals_width_is_obeyed() -> None:
    program = (
        "from nubabel_workers.cli.output import Column, table; "
        f"table([Column('ID'), Column('WHY', whole=False)], [({_ID!r}, {_LONG!r})], empty='')"
    )
    ours, theirs = pty.openpty()

    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=theirs,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
        check=True,
        timeout=30,
    )
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)

    assert done.returncode == 0
    assert _ID in shown
    assert "…" in shown
    assert len(shown.splitlines()) == 2
