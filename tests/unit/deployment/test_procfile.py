"""The Procfile: processes that exist, and a consumer for every queue."""

import importlib.util

from config.queues import QueueName
from tests.unit.deployment.files import ROOT, processes


def _option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def _workers() -> dict[str, list[str]]:
    return {name: words for name, words in processes().items() if "worker" in words}


def test_python_processes_exist() -> None:
    modules = [words[2] for words in processes().values() if words[:2] == ["python", "-m"]]

    assert len(modules) == 4
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__"), module


def test_every_queue_has_exactly_one_kind_of_worker() -> None:
    consumed = [queue for words in _workers().values() for queue in _option(words, "-Q").split(",")]

    assert sorted(consumed) == sorted(QueueName)


def test_workers_use_threads_and_have_names_of_their_own() -> None:
    workers = _workers()

    assert {_option(words, "-P") for words in workers.values()} == {"threads"}
    assert len({_option(words, "-n") for words in workers.values()}) == len(workers)


def test_settings_decide_about_concurrency_and_events() -> None:
    for words in _workers().values():
        assert not {"-c", "--concurrency", "-E", "--task-events"} & set(words)


def test_flower_reads_a_file_that_exists() -> None:
    option = processes()["flower"][-1]

    assert (ROOT / option.removeprefix("--conf=")).exists()
