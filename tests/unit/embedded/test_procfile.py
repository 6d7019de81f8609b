"""The Procfile is read as it stands, and is the one of this repository."""

from pathlib import Path

import pytest

from nubabel_workers.embedded.procfile import read_procfile


def test_names_and_commands_are_read_in_order(tmp_path: Path) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("# what runs\n\nweb: python -m web --port 1\nworker-a:  celery worker: -Q a\n")

    assert list(read_procfile(procfile).items()) == [
        ("web", "python -m web --port 1"),
        ("worker-a", "celery worker: -Q a"),
    ]


def test_a_line_that_is_no_process_is_refused(tmp_path: Path) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("web python -m web\n")

    with pytest.raises(ValueError, match="web python -m web"):
        read_procfile(procfile)


def test_the_repository_names_every_process_of_the_design() -> None:
    assert set(read_procfile()) == {
        "web",
        "slack",
        "worker-events",
        "worker-orchestration",
        "worker-notifications",
        "worker-dead-letters",
        "listener",
        "scheduler",
        "flower",
    }
