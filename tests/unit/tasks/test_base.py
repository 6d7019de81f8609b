"""The outcome of each kind of error, on a task that is called as Celery's tracer calls it."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import pytest
from celery import Celery
from celery.exceptions import Reject, Retry

from config.queues import TaskName
from nubabel_workers.adapters.broker.parking import Parking
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.errors import InvalidInputError, TransientError, UncertainError
from tasks.base import Carries, QueueTask, TaskDefinition, TaskFailedError, TaskSurroundings
from tasks.runtime import WorkerRuntime


class Stage:
    """A task with its surroundings, and what they saw."""

    def __init__(self) -> None:
        self.parked: list[NewDeadLetter] = []
        self.runs: list[tuple[str, str]] = []
        self.database_is_away = False
        self.runtime = WorkerRuntime(self._open)
        self.runtime.start()
        self.broker = fakeredis.FakeRedis()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[str]:
        yield "services"

    def _keep(self, letter: NewDeadLetter) -> None:
        if self.database_is_away:
            raise TransientError("away")
        self.parked.append(letter)

    def task(
        self,
        error: Exception | None = None,
        *,
        name: TaskName = TaskName.DISPATCH,
        carries: Carries = Carries.ROW_ID,
        broker: Any = None,
    ) -> QueueTask:
        async def body(services: str, argument: Any, delivery_id: str) -> str:
            if error:
                raise error
            return f"1 done {services} {argument} {delivery_id}"

        surroundings = TaskSurroundings(
            self.runtime,
            Parking(
                self._keep,
                self.broker if broker is None else broker,
                park_task="dead_letters.park",
                park_queue="dead-letter",
            ),
            timeout_s=5,
            on_run=lambda task, outcome, _seconds: self.runs.append((task, outcome)),
        )
        app = Celery("test", broker="memory://", set_as_current=False)
        task = QueueTask(TaskDefinition(name, body, carries), surroundings)
        app.register_task(task)
        task.push_request(id="delivery-1", called_directly=False, delivery_info={}, retries=0)
        return task


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.runtime.close()


def test_a_task_returns_the_line_of_its_body(stage: Stage) -> None:
    assert stage.task().run("exe_1") == "1 done services exe_1 delivery-1"
    assert stage.runs == [("orchestration.dispatch", "done")]


@pytest.mark.parametrize("error", [TransientError("away"), UncertainError("no answer"), TimeoutError()])
def test_a_passing_error_behind_a_hint_ends_the_hint(stage: Stage, error: Exception) -> None:
    line = stage.task(error).run("exe_1")

    assert line.startswith("again later: ")
    assert stage.runs == [("orchestration.dispatch", "again")]
    assert stage.parked == []


def test_a_passing_error_repeats_a_message_that_carries_content(stage: Stage) -> None:
    task = stage.task(TransientError("away"), name=TaskName.SUBMIT, carries=Carries.CONTENT)

    with pytest.raises(Retry) as caught:
        task.run({"prompt": "x"})

    assert isinstance(caught.value.when, float)
    assert 0 < caught.value.when <= 30
    assert stage.runs == [("orchestration.submit", "again")]


def test_a_bug_behind_a_hint_fails_the_task_with_one_line(stage: Stage) -> None:
    with pytest.raises(TaskFailedError, match="failed: KeyError"):
        stage.task(KeyError("x")).run("exe_1")

    assert stage.parked == []
    assert stage.runs == [("orchestration.dispatch", "failed")]


def test_a_bug_behind_content_parks_the_content(stage: Stage) -> None:
    with pytest.raises(TaskFailedError):
        stage.task(KeyError("x"), name=TaskName.SUBMIT, carries=Carries.CONTENT).run({"prompt": "x"})

    (letter,) = stage.parked
    assert letter.reason is DeadLetterReason.HANDLER_CRASH
    assert json.loads(letter.payload or "")["args"] == [{"prompt": "x"}]


def test_a_bug_in_parking_does_not_go_in_circles(stage: Stage) -> None:
    with pytest.raises(TaskFailedError):
        stage.task(KeyError("x"), name=TaskName.PARK, carries=Carries.CONTENT).run({"queue": "x"})

    assert stage.parked == []
    assert stage.broker.llen("dead-letter") == 0


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), (("a", "b"), {}), (("a",), {"b": 1}), ((7,), {}), (("",), {}), (("x" * 101,), {}), (({"a": 1},), {})],
)
def test_arguments_that_do_not_fit_are_parked(stage: Stage, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    line = stage.task().run(*args, **kwargs)

    assert line.startswith("refused: ")
    assert [letter.reason for letter in stage.parked] == [DeadLetterReason.BAD_ARGUMENTS]
    assert stage.runs == [("orchestration.dispatch", "refused")]


def test_content_that_the_service_refuses_is_parked(stage: Stage) -> None:
    task = stage.task(InvalidInputError("no"), name=TaskName.SUBMIT, carries=Carries.CONTENT)

    assert task.run({"prompt": ""}) == "refused: no"
    assert [letter.reason for letter in stage.parked] == [DeadLetterReason.BAD_ARGUMENTS]


def test_a_failure_before_the_task_is_parked(stage: Stage) -> None:
    stage.task().on_failure(TypeError("arguments"), "delivery-1", 7, {}, None)

    assert [letter.reason for letter in stage.parked] == [DeadLetterReason.BAD_ARGUMENTS]


def test_what_can_be_kept_nowhere_is_given_back_to_the_broker(stage: Stage) -> None:
    class Gone:
        def lpush(self, *_args: Any) -> None:
            raise ConnectionError("gone")

    stage.database_is_away = True
    task = stage.task(InvalidInputError("no"), name=TaskName.SUBMIT, carries=Carries.CONTENT, broker=Gone())

    with pytest.raises(Reject) as caught:
        task.run({"prompt": ""})

    assert caught.value.args == ("nowhere to keep it", True)  # True: put back
