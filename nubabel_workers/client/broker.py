"""Submissions straight to the broker: signed, and in the form that any Celery worker reads (message protocol 2).

Source of the form: https://docs.celeryq.dev/en/stable/internals/protocol.html
kombu is imported when the first producer is made; programs that only use HTTP don't need it.
"""

import secrets
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from pydantic import SecretStr

from nubabel_workers.client.credentials import checked_credential
from nubabel_workers.client.errors import ConnectionFailedError, NotAcceptedError
from nubabel_workers.client.results import Execution
from nubabel_workers.domain.submission import SUBMIT_QUEUE, SUBMIT_TASK, SubmitRequest, sign

_ATTEMPTS = 3
_FIRST_LOOK_S = 0.05
_LAST_LOOK_S = 1.0


class Finder(Protocol):
    """The part of NubabelClient that tells whether a request was accepted."""

    def find(self, idempotency_key: str) -> Execution | None: ...


@dataclass(frozen=True)
class Published:
    """On its way, not accepted yet: a broker may lose messages. wait_accepted() makes sure."""

    request: SubmitRequest
    message_id: str

    @property
    def idempotency_key(self) -> str:
        return self.request.idempotency_key or ""


class BrokerProducer:
    """Publishes requests of the organization that the submit key belongs to. Thread-safe; close it at the end.

    key_id, secret: `nubabel submit-keys create` prints both, the secret once. publish_timeout_s: for connecting and
    for the broker's answer, each; a broker that hangs costs at most a few of them. Raises ValueError for a key that
    cannot be one.
    """

    def __init__(
        self,
        broker_url: SecretStr | str,
        *,
        key_id: str,
        secret: SecretStr | str,
        publish_timeout_s: float = 3.0,
        queue: str = SUBMIT_QUEUE,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._broker_url = broker_url if isinstance(broker_url, SecretStr) else SecretStr(broker_url)
        self._key_id = checked_credential(key_id, "the submit key's id").get_secret_value()
        self._secret = checked_credential(secret, "the submit key's secret")
        self._timeout_s = publish_timeout_s
        self._queue = queue
        self._now = now
        self._lock = threading.Lock()
        self._connection: Any = None

    def submit(self, request: SubmitRequest | str) -> Published:
        """Sign and publish. Raises ConnectionFailedError; what was published nevertheless is harmless to repeat."""
        asked = SubmitRequest(prompt=request) if isinstance(request, str) else request
        if asked.idempotency_key is None:
            asked = asked.model_copy(update={"idempotency_key": secrets.token_urlsafe(18)})
        message_id = str(uuid.uuid4())
        self._publish(self._signed(asked), message_id, asked.idempotency_key or "")
        return Published(asked, message_id)

    def wait_accepted(
        self, published: Published, api: Finder, *, timeout_s: float, submit_again_after_s: float = 10.0
    ) -> Execution:
        """The execution, as soon as its row exists. Raises NotAcceptedError.

        api: a NubabelClient of the same organization. While there is no row the request is published again every
        submit_again_after_s seconds, under the same key: a lost message is replaced, a late one does nothing twice.
        Each look keeps to the limits of that client, which may add a wait when the gateway asks for one.
        A refused request (wrong key, too old, invalid) never gets a row; the operators find it as a dead letter.
        """
        started = time.monotonic()
        wait_s, publish_at = _FIRST_LOOK_S, started + submit_again_after_s
        while True:
            execution = api.find(published.idempotency_key)
            if execution is not None:
                return execution
            if time.monotonic() - started + wait_s > timeout_s:
                raise NotAcceptedError(f"no execution for {published.idempotency_key} after {timeout_s:g} s")
            if time.monotonic() >= publish_at:
                publish_at = time.monotonic() + submit_again_after_s
                with suppress(ConnectionFailedError):  # the broker may be the reason; the next round tries again
                    self.submit(published.request)
            time.sleep(wait_s)
            wait_s = min(_LAST_LOOK_S, wait_s * 1.5)

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _signed(self, request: SubmitRequest) -> dict[str, Any]:
        return sign(
            request.model_dump(exclude_none=True),
            key_id=self._key_id,
            secret=self._secret,
            issued_at=int(self._now()),
            nonce=secrets.token_urlsafe(24),
        )

    def _publish(self, submission: dict[str, Any], message_id: str, shown: str) -> None:
        """The same message, signature included, as often as it takes: the worker knows it by its nonce."""
        for attempt in range(1, _ATTEMPTS + 1):
            with self._lock:
                connection = self._connected()
                try:
                    connection.Producer().publish(
                        [[submission], {}, {}],
                        routing_key=self._queue,
                        serializer="json",
                        correlation_id=message_id,
                        headers=_headers(message_id, shown),
                        retry=False,
                    )
                except _errors_of(connection) as error:
                    self._disconnect()
                    if attempt == _ATTEMPTS:
                        raise ConnectionFailedError(f"the broker did not answer ({type(error).__name__})") from None
                else:
                    return

    def _connected(self) -> Any:
        from kombu import Connection  # noqa: PLC0415 - only broker producers need kombu

        if self._connection is None:
            url = self._broker_url.get_secret_value()
            self._connection = Connection(
                url,
                connect_timeout=self._timeout_s,
                ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss://") else False,
                transport_options={
                    "socket_timeout": self._timeout_s,
                    "socket_connect_timeout": self._timeout_s,
                    "priority_steps": [0],
                    "max_retries": 0,
                },
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # what is closed is given up, whatever its state
                connection.close()


def _errors_of(connection: Any) -> tuple[type[BaseException], ...]:
    """Everything that the transport may raise. kombu counts KeyError among them: that one would be a bug."""
    from kombu.exceptions import OperationalError  # noqa: PLC0415 - only broker producers need kombu

    known = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
    return tuple(error for error in known if error is not KeyError)


def _headers(message_id: str, shown: str) -> dict[str, Any]:
    """Argsrepr is what Flower shows of the argument: the key, never the prompt."""
    return {
        "lang": "py",
        "task": SUBMIT_TASK,
        "id": message_id,
        "root_id": message_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": f"({shown!r},)",
        "kwargsrepr": "{}",
        "origin": "nubabel-client",
        "ignore_result": True,
    }
