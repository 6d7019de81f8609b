"""Queue items as kombu's Redis transport takes them: is it an envelope, and what of it can be stored. Pure."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from kombu.utils.json import loads

MAX_PAYLOAD_BYTES = 65_536
_MAX_HEADER_CHARS = 500
_MAX_HEADERS = 50
_BODY_ENCODINGS = frozenset({"", "utf-8", "base64"})


class BadEnvelopeError(Exception):
    """The message says what is wrong with an envelope: "it has no delivery_tag"."""


def check_envelope(raw: bytes | str) -> None:
    """Raise BadEnvelopeError for a queue item that would break the transport before any consumer saw it."""
    envelope = _object(raw)
    properties = envelope.get("properties")
    if not isinstance(properties, dict):
        raise BadEnvelopeError("it has no properties")
    if not isinstance(properties.get("delivery_tag"), str) or not properties["delivery_tag"]:
        raise BadEnvelopeError("it has no delivery_tag")
    delivery_info = properties.get("delivery_info")
    if not isinstance(delivery_info, dict) or not _are_texts(delivery_info, "exchange", "routing_key"):
        raise BadEnvelopeError("its delivery_info does not say exchange and routing_key")
    headers = envelope.get("headers") or {}
    if not isinstance(headers, dict):
        raise BadEnvelopeError("its headers are not an object")
    if headers.get("compression"):
        raise BadEnvelopeError("it is compressed")  # kombu would unpack it here and now, a megabyte to a gigabyte
    _check_body(envelope.get("body"), properties.get("body_encoding"))


def settle_delivery(envelope: dict[str, Any], queue: str, delivery_tag: str) -> None:
    """Replace what the producer says about the delivery, once it is in a queue, by what is so.

    A tag used twice would have one message acknowledged with the other; and a message that is given back, at a stop or
    after a crash, or tried again, would go to wherever its own delivery_info says: with celery-node's, to nowhere.
    """
    envelope["properties"].update(
        delivery_tag=delivery_tag, delivery_info={"exchange": "", "routing_key": queue}, priority=0
    )
    envelope["headers"] = envelope.get("headers") or {}


def _object(raw: bytes | str) -> dict[str, Any]:
    """As kombu reads it: UTF-8 only, and its `__type__` objects turned into values."""
    try:
        envelope = loads(raw)
    except RecursionError:
        raise BadEnvelopeError("it is nested too deeply") from None
    except Exception:  # noqa: BLE001  # the types' own constructors raise whatever they like
        raise BadEnvelopeError("it is not JSON") from None
    if not isinstance(envelope, dict):
        raise BadEnvelopeError("it is not a JSON object")
    return envelope


def _check_body(body: Any, encoding: Any) -> None:
    if encoding is not None and (not isinstance(encoding, str) or encoding.lower() not in _BODY_ENCODINGS):
        raise BadEnvelopeError("its body_encoding is unknown")
    if body is not None and not isinstance(body, str):
        raise BadEnvelopeError("its body is not text")
    if body and encoding and encoding.lower() == "base64":
        try:
            base64.b64decode(body)
        except (binascii.Error, ValueError):
            raise BadEnvelopeError("its body is not base64") from None


def storable_payload(raw: Any) -> str:
    """Raw bytes, text or a decoded envelope as text that PostgreSQL takes, cut at MAX_PAYLOAD_BYTES."""
    if isinstance(raw, (bytes, bytearray)):
        text = bytes(raw[: MAX_PAYLOAD_BYTES + 1]).decode("utf-8", "replace")
    elif isinstance(raw, str):
        text = raw
    else:
        text = json.dumps(raw, default=str)
    return _cut(storable_text(text))


def storable_headers(headers: Any) -> dict[str, Any]:
    """Headers as a flat object that PostgreSQL takes: texts and numbers, long ones shortened."""
    if not isinstance(headers, Mapping):
        return {}
    return {
        storable_text(str(name))[:_MAX_HEADER_CHARS]: _storable_header(value)
        for name, value in list(headers.items())[:_MAX_HEADERS]
    }


def storable_text(text: str) -> str:
    """Without NUL and lone surrogates, which PostgreSQL refuses."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _storable_header(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    return storable_text(value if isinstance(value, str) else str(value))[:_MAX_HEADER_CHARS]


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= MAX_PAYLOAD_BYTES:
        return text
    return encoded[:MAX_PAYLOAD_BYTES].decode("utf-8", "ignore")


def _are_texts(values: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(values.get(name), str) for name in names)
