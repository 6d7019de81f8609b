import ssl
from pathlib import Path

import pytest
from celery.exceptions import QueueNotFound

from config.celery_app import create_celery_app
from config.queues import QUEUE_OF_TASK, TaskName
from config.settings import Settings
from nubabel_workers.domain.hints import HintTask
from tests.unit.config.test_settings import KEY


def settings(**given: object) -> Settings:
    return Settings.model_validate(
        {
            "environment": "development",
            "database_url": "postgresql://owner@db/nubabel",
            "broker_url": "redis://broker:6379/0",
            "cache_url": "redis://cache:6379/1",
            "encryption_keys": (KEY,),
            **given,
        }
    )


def test_every_task_has_a_queue_and_every_hint_is_a_task() -> None:
    assert set(QUEUE_OF_TASK) == set(TaskName)
    assert {str(task) for task in HintTask} <= {str(task) for task in TaskName}


def test_names_on_the_wire_are_the_promised_ones() -> None:
    assert {str(task): str(queue) for task, queue in QUEUE_OF_TASK.items()} == {
        "slack_events.process": "slack-events",
        "orchestration.dispatch": "orchestration",
        "orchestration.complete": "orchestration",
        "orchestration.submit": "orchestration",
        "notifications.deliver": "notifications",
        "dead_letters.park": "dead-letter",
    }


def test_only_json_is_accepted_and_acknowledgement_is_late() -> None:
    conf = create_celery_app(settings()).conf

    assert conf.accept_content == ["json"]
    assert conf.task_acks_late is True
    assert conf.task_acks_on_failure is True
    assert conf.result_backend is None


def test_an_undeclared_queue_is_refused_at_the_producer() -> None:
    app = create_celery_app(settings())

    with pytest.raises(QueueNotFound):
        app.amqp.router.route({"queue": "orchestraton"}, "orchestration.dispatch")


def test_task_events_can_be_switched_off() -> None:
    conf = create_celery_app(settings(worker_send_events=False)).conf

    assert conf.worker_send_task_events is False
    assert conf.task_send_sent_event is False


def test_every_socket_of_the_broker_has_a_time_limit() -> None:
    options = create_celery_app(settings()).conf.broker_transport_options

    assert options["socket_timeout"] == 5
    assert options["socket_connect_timeout"] == 3
    assert options["visibility_timeout"] == 120


def test_a_tls_broker_must_show_a_valid_certificate(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()

    conf = create_celery_app(settings(broker_url="rediss://broker:6380/0", redis_ca_file=str(authority))).conf

    assert conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(authority)}
    assert create_celery_app(settings()).conf.broker_use_ssl is None


def test_creating_an_app_does_not_make_it_the_current_one() -> None:
    from celery import current_app

    assert create_celery_app(settings()) is not current_app._get_current_object()  # type: ignore[attr-defined]
