"""Setting messages aside: to PostgreSQL, else back to the broker, else to the log. Never raises."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import redis
import structlog
from pydantic import TypeAdapter, ValidationError

from nubabel_workers.adapters.broker.envelopes import storable_headers, storable_payload, storable_text
from nubabel_workers.adapters.broker.messages import compose_message
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.errors import InvalidInputError

_MAX_ERROR_CHARS = 2000
_MAX_TASK_CHARS = 200

log = structlog.get_logger(__name__)

Keep = Callable[[NewDeadLetter], object]
"""Writes a dead letter to PostgreSQL, within a few seconds; raises if it can't."""


ParkedCount = Callable[[str, str], None]
"""Told (reason, kept_in) of each message set aside; kept_in is database, broker or log."""


def _ignore(_reason: str, _kept_in: str) -> None:
    """Nobody counts."""


class Parking:
    """Where consumers put what they cannot work on.

    keep writes to the database. When it can't, the dead letter becomes a message of park_task on park_queue, whose
    worker writes it when the database is back. broker: a client with short time limits.
    """

    def __init__(
        self, keep: Keep, broker: redis.Redis, *, park_task: str, park_queue: str, on_parked: ParkedCount = _ignore
    ) -> None:
        self._keep = keep
        self._broker = broker
        self._park_task = park_task
        self._park_queue = park_queue
        self._on_parked = on_parked

    def park(self, letter: NewDeadLetter) -> bool:
        """False when it could be kept nowhere but in the log."""
        kept_in = self._put(letter)
        fields = {"reason": str(letter.reason), "queue": letter.queue, "task": letter.task, "error": letter.error}
        if kept_in == "log":
            log.critical("broker.message_not_kept", **fields, payload=letter.payload, headers=dict(letter.headers))
        else:
            log.warning("broker.message_parked", **fields, kept_in=kept_in)
        self._on_parked(str(letter.reason), kept_in)
        return kept_in != "log"

    def _put(self, letter: NewDeadLetter) -> str:
        try:
            self._keep(letter)
        except Exception as error:  # noqa: BLE001  # whatever is wrong there, the message must go somewhere
            log.warning("broker.parking_failed", error=f"{type(error).__name__}: {error}")
        else:
            return "database"
        try:
            self._broker.lpush(self._park_queue, self._message(letter))
        except Exception as error:  # noqa: BLE001  # the same
            log.warning("broker.parking_failed", error=f"{type(error).__name__}: {error}")
            return "log"
        return "broker"

    def _message(self, letter: NewDeadLetter) -> bytes:
        return compose_message(
            self._park_queue,
            self._park_task,
            dead_letter_to_json(letter),
            task_id=str(uuid.uuid4()),
            delivery_tag=str(uuid.uuid4()),
        )


def describe(
    reason: DeadLetterReason, *, queue: str, task: Any, error: str, raw: Any, headers: Any = None
) -> NewDeadLetter:
    """A dead letter for a message of unknown content: everything in it made storable."""
    return NewDeadLetter(
        queue=storable_text(queue),
        task=storable_text(task)[:_MAX_TASK_CHARS] if isinstance(task, str) else "",
        reason=reason,
        error=storable_text(error)[:_MAX_ERROR_CHARS],
        payload=storable_payload(raw),
        headers=storable_headers(headers),
    )


def dead_letter_to_json(letter: NewDeadLetter) -> dict[str, Any]:
    """The argument of the task `dead_letters.park`."""
    return {**asdict(letter), "headers": dict(letter.headers)}


def dead_letter_from_json(argument: Mapping[str, Any]) -> NewDeadLetter:
    """The other way round. Raises InvalidInputError for what nobody of ours wrote."""
    try:
        return _NEW_DEAD_LETTER.validate_python(argument)
    except ValidationError as error:
        raise InvalidInputError(f"not a dead letter: {error.error_count()} fields do not fit") from None


_NEW_DEAD_LETTER = TypeAdapter(NewDeadLetter)
