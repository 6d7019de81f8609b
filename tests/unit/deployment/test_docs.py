"""The documentation is true: what it names exists (commands, settings, metrics, paths, links), and its code runs."""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from typer.core import TyperGroup

from config.metrics import ProcessMetrics
from nubabel_workers.adapters.storage import maintenance
from nubabel_workers.cli.main import app
from nubabel_workers.domain.submission import check_signature, read_submission
from nubabel_workers.gateway import metrics as gateway_metrics
from tests.unit.deployment.files import ROOT, SETTING_NAMES

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
# Named in .env for docker-compose.yml alone, or by the compose file for the images.
NOT_SETTINGS = {"NUBABEL_ENV_FILE", "NUBABEL_VERSION"}
_BRIDGE = ROOT / "opencode-server" / "config" / "bridge"

_CODE = re.compile(r"```(?P<language>\w*)\n(?P<text>.*?)```|`(?P<span>[^`\n]+)`", re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_PATH = re.compile(r"(?<![/\w.-])[A-Za-z_.-]+(?:/[\w.-]+)+/?")  # not the end of a URL's path
_ROOTS = ("docs/", "nubabel_workers/", "config/", "tasks/", "tests/", "opencode-server/")
_INSIDE_THE_PACKAGE = ("domain/", "services/", "adapters/", "gateway/", "listener/", "scheduler/", "cli/", "client/")


def page_id(page: Path) -> str:
    return page.name


def code_of(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of each block; language "span" for code within a sentence."""
    for match in _CODE.finditer(page.read_text()):
        yield ("span", match["span"]) if match["span"] else (match["language"], match["text"])


def commands_of(page: Path, program: str) -> Iterator[list[str]]:
    """Words of each command line that begins with the program, wherever in code it stands."""
    for language, text in code_of(page):
        if language not in {"span", "sh"}:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"#|&&|[;|(]", line):
                words = part.split()
                if program in words:
                    yield words[words.index(program) + 1 :]


def test_there_is_something_to_check() -> None:
    assert len(PAGES) >= 6
    assert any(commands_of(page, "nubabel") for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    named = {words[0] for words in commands_of(page, "make") if words}

    assert named - targets == set()


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def unknown_part(words: list[str]) -> str | None:
    """The first word of a `nubabel` command line that is no command and no option; None when all exist."""
    command = command_line()
    for word in words:
        if isinstance(command, TyperGroup):
            if word == "…":
                return None
            if word not in command.commands:
                return word
            command = command.commands[word]
        elif word.startswith("--") and word not in {option for one in command.params for option in one.opts}:
            return word
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_nubabel_commands_exist(page: Path) -> None:
    wrong = {" ".join(words): part for words in commands_of(page, "nubabel") if (part := unknown_part(words))}

    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_settings_exist(page: Path) -> None:
    named = set(re.findall(r"NUBABEL_[A-Z0-9_]+", page.read_text()))

    of_the_plugin = set(re.findall(r"NUBABEL_[A-Z0-9_]+", (_BRIDGE / "settings.ts").read_text()))
    assert named - SETTING_NAMES - NOT_SETTINGS - of_the_plugin == set()


def metric_names() -> set[str]:
    own = gateway_metrics.GatewayMetrics(CollectorRegistry())
    described = [*ProcessMetrics(CollectorRegistry()).registry.collect(), *own.registry.collect()]
    written = set(re.findall(r'GaugeMetricFamily\(\s*"(\w+)"', inspect.getsource(gateway_metrics)))
    columns = re.findall(r"\bAS (\w+)(?:,|\s*$)", maintenance._GAUGES, flags=re.MULTILINE)
    rows = {gateway_metrics.metric_name(column) for column in columns}
    return written | rows | {f"{one.name}_total" if one.type == "counter" else one.name for one in described}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_metrics_exist(page: Path) -> None:
    spans = " ".join(text for language, text in code_of(page) if language == "span")
    named = set(re.findall(r"\bnubabel_[a-z_]+", spans)) - {"nubabel_workers", "nubabel_tenant", "nubabel_system"}

    tools = set(re.findall(r"\bnubabel_[a-z_]+", (_BRIDGE / "tools.ts").read_text()))
    assert named - metric_names() - tools == set()


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()

    assert [name for name in sorted(metric_names()) if f"`{name}" not in text] == []


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    plain = (re.sub(r"[`*]", "", match["text"]).lower() for match in _HEADING.finditer(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in plain}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    broken = []
    for match in _LINK.finditer(page.read_text()):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        file = page if not target else (page.parent / target).resolve()
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(match["target"])

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_exist(page: Path) -> None:
    spans = [text for language, text in code_of(page) if language == "span"]
    named = {path for text in spans for path in _PATH.findall(text) if path.startswith((*_ROOTS, *_INSIDE_THE_PACKAGE))}

    missing = [path for path in named if not (ROOT / path).exists() and not (ROOT / "nubabel_workers" / path).exists()]

    assert missing == []


def blocks(page: str, language: str) -> list[str]:
    return [text for found, text in code_of(ROOT / page) if found == language]


@pytest.mark.parametrize("text", blocks("docs/producers.md", "json"))
def test_json_examples_are_json(text: str) -> None:
    assert json.loads(text)


@pytest.mark.parametrize("text", blocks("docs/producers.md", "python"))
def test_names_that_python_examples_import_exist(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def test_submission_signed_as_the_python_example_does_is_accepted() -> None:
    (text,) = [block for block in blocks("docs/producers.md", "python") if "def signed" in block]
    namespace: dict[str, Any] = {}
    exec(text, namespace)  # noqa: S102 - our own documentation

    raw = namespace["signed"]({"prompt": "질문", "idempotency_key": "k"}, "key_1", "secret")

    assert read_submission(raw).is_signed
    check_signature(raw, SecretStr("secret"), now_s=raw["issued_at"])


def test_node_example_is_the_tested_program() -> None:
    tested = (ROOT / "tests" / "integration" / "producers" / "submit.js").read_text()
    (example,) = blocks("docs/producers.md", "js")

    for passage in example.strip("\n").split("\n\n"):
        assert passage in tested
