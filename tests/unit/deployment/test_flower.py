"""config/flower.py: Flower's options from our settings."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from flower.options import default_options

from nubabel_workers.adapters.storage.encryption import generate_key
from tests.unit.deployment.files import ROOT

MINIMAL = {
    "NUBABEL_ENVIRONMENT": "development",
    "NUBABEL_DATABASE_URL": "postgresql://nubabel@localhost/nubabel",
    "NUBABEL_BROKER_URL": "redis://localhost/0",
    "NUBABEL_CACHE_URL": "redis://localhost/1",
    "NUBABEL_ENCRYPTION_KEYS": generate_key().get_secret_value(),
}


def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **settings: str) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)  # no .env of the checkout
    for name, value in (MINIMAL | settings).items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(ROOT / "config" / "flower.py"))


def test_address_and_password_come_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = options(
        monkeypatch,
        tmp_path,
        NUBABEL_FLOWER_HOST="10.0.0.1",
        NUBABEL_FLOWER_PORT="5999",
        NUBABEL_FLOWER_BASIC_AUTH="operator:secret",
        NUBABEL_FLOWER_COOKIE_SECRET="fixed",
    )

    assert (read["address"], read["port"]) == ("10.0.0.1", 5999)
    assert read["basic_auth"] == ["operator:secret"]
    assert read["cookie_secret"] == "fixed"


def test_flower_only_shows_and_listens_privately_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = options(monkeypatch, tmp_path, NUBABEL_FLOWER_BASIC_AUTH="operator:secret")

    assert read["read_only"] is True
    assert read["address"] == "127.0.0.1"


def test_every_address_is_that_of_ipv4_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = options(monkeypatch, tmp_path, NUBABEL_FLOWER_HOST="::", NUBABEL_FLOWER_BASIC_AUTH="operator:secret")

    assert read["address"] == ""


def test_flower_does_not_start_without_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="NUBABEL_FLOWER_BASIC_AUTH"):
        options(monkeypatch, tmp_path)


def test_flower_knows_every_option_that_the_file_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = options(monkeypatch, tmp_path, NUBABEL_FLOWER_BASIC_AUTH="a:b", NUBABEL_FLOWER_COOKIE_SECRET="c")
    known = {name.replace("-", "_") for name in default_options.as_dict()}
    imported = {"sys", "load_settings"}

    assert {name for name in read if not name.startswith("_")} - imported - known == set()
    assert imported & known == set()
