"""docs/opencode-client.md is one program. It runs against the simulator and prints what the page says."""

import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.opencode import AsyncOpenCode
from nubabel_workers.simulators.opencode import SimulatorConfig, simulator

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "opencode-client.md"
_EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```)?", re.DOTALL)
_PASSWORD = SecretStr("simulated")


def _run_page() -> None:
    namespace: dict[str, Any] = {}
    for number, example in enumerate(_EXAMPLE.finditer(_PAGE.read_text()), start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example["code"], f"example {number}", "exec"), namespace)  # noqa: S102 - our own page
        if example["printed"] is not None:
            assert _lines(printed.getvalue()) == _lines(example["printed"]), f"example {number}"


def _lines(text: str) -> list[str]:
    """Without the spaces at their ends, which editors take away."""
    return [line.rstrip() for line in text.strip().splitlines()]


async def test_examples_run_in_order_and_print_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async with simulator(SimulatorConfig(password=_PASSWORD, plugin="none")) as running:
        monkeypatch.setenv("OPENCODE_URL", running.url)
        monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", _PASSWORD.get_secret_value())

        await asyncio.wait_for(asyncio.to_thread(_run_page), timeout=30)


def test_every_call_of_the_client_is_named() -> None:
    calls = {name for name in dir(AsyncOpenCode) if not name.startswith("_")}

    named = set(re.findall(r"\w+", _PAGE.read_text()))

    assert calls - named == {"send_message", "submit_prompt"}  # what send and submit are made of
