"""The Celery app: every delivery option with its reason. Tasks and guards are added by `tasks.app`.

Messages are hints and PostgreSQL is the truth, so these options aim at short delays and at never losing a message in
silence; they are not what correctness rests on.
"""

import ssl
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from config.queues import QUEUE_OF_TASK, QueueName
from config.settings import Settings

VISIBILITY_TIMEOUT_S = 120
SOCKET_TIMEOUT_S = 5
CONNECT_TIMEOUT_S = 3


def create_celery_app(settings: Settings) -> Celery:
    """An app without tasks: enough to publish; a worker adds tasks and guards."""
    app = Celery("nubabel", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker_url.get_secret_value(),
        broker_use_ssl=_tls(settings),
        broker_transport_options=_transport_options(),
        **_delivery_options(),
        **_worker_options(settings),
    )
    return app


def _transport_options() -> dict[str, Any]:
    return {
        # Every task ends within 60 s, so nothing runs twice at once; a killed worker's messages are back after two
        # minutes. The shortest value of any worker wins for all: change it everywhere or nowhere.
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 5,  # by default abandoned messages are looked for every 100 s only
        "unacked_restore_throttle": 1,
        "priority_steps": [0],  # one list per queue: its length is the queue's length
        # Without these a hung broker blocks a publisher for ever. Longer than the blocking fetch of 1 s.
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 25,  # half-open connections are noticed
        # No global_keyprefix: foreign producers know nothing of it.
    }


def _delivery_options() -> dict[str, Any]:
    return {
        "task_queues": [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QueueName],
        "task_routes": {str(task): {"queue": str(queue)} for task, queue in QUEUE_OF_TASK.items()},
        "task_create_missing_queues": False,  # a typo fails at the producer instead of filling an unread list
        "task_default_queue": str(QueueName.DEAD_LETTER),  # what nobody routes ends where it gets explained
        "task_acks_late": True,  # a crash during the run must redeliver
        "task_reject_on_worker_lost": True,  # for a prefork worker: a lost child must not acknowledge
        "task_retry_on_worker_lost": True,  # bounds that redelivery (max_retries of the task)
        "task_acks_on_failure": True,  # failures are rows and dead letters of ours; a rejected message would vanish
        "task_acks_on_timeout": True,
        "task_ignore_result": True,  # state lives in PostgreSQL; no result keys, no result backend
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],  # pickle would be remote code execution for whoever reaches the broker
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
        "broker_pool_acquire_timeout": 5,  # by default for ever
        "broker_connection_retry_on_startup": True,  # processes may start before the broker
        "broker_connection_max_retries": None,  # by default a worker gives up after a while and exits
        "enable_utc": True,
        "timezone": "UTC",
    }


def _worker_options(settings: Settings) -> dict[str, Any]:
    return {
        "worker_pool": "threads",  # tasks wait for I/O: one process, a tenth of prefork's memory
        "worker_concurrency": settings.worker_concurrency,
        "worker_prefetch_multiplier": 1,  # messages stay short in a worker, others get their share
        "worker_send_task_events": settings.worker_send_events,
        "task_send_sent_event": settings.worker_send_events,
        "worker_enable_remote_control": True,  # Flower and `celery inspect`
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # threads cannot be cancelled
        "worker_soft_shutdown_timeout": 10,
        "worker_hijack_root_logger": False,  # one logging pipeline: config.logging
        "worker_redirect_stdouts": False,
        "worker_proc_alive_timeout": 10,
    }


def _tls(settings: Settings) -> dict[str, Any] | None:
    """For rediss:// kombu would otherwise accept any certificate."""
    if not settings.broker_url.get_secret_value().startswith("rediss://"):
        return None
    authority = {"ssl_ca_certs": str(settings.redis_ca_file)} if settings.redis_ca_file else {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **authority}
