"""What `nubabel demo` shows stands below each other, in whatever language it is."""

from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from nubabel_workers.cli.demo_view import DemoView


@pytest.mark.parametrize("label", ["English", "한국어", "후속 질문", "[wide]"])
def test_what_happens_to_a_question_stands_in_one_column(label: str) -> None:
    shown = StringIO()
    view = DemoView(Console(file=shown, width=120))

    view.moved(label, "completed")
    view.replied(label, "다 됐어요")

    happened, _, answer = shown.getvalue().splitlines()
    assert cell_len(happened.partition("completed")[0]) == 25
    assert cell_len(answer.partition("다 됐어요")[0]) == 25
