import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from config.logging import configure_logging, context


class Sink(io.BytesIO):
    """Standard output of the test."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def sink(restored_logging: None) -> Sink:
    sink = Sink()
    configure_logging(process="worker", log_format="json", stream=sink)
    return sink


def test_a_line_has_its_event_its_fields_and_the_bound_context(sink: Sink) -> None:
    with context(correlation_id="cor_1", organization_id="org_1", session_id=None):
        structlog.get_logger().info("execution.dispatched", instance_id="ins_1", wait_s=0.5)
    structlog.get_logger().info("worker.idle")

    dispatched, idle = sink.lines()
    timestamp = dispatched.pop("timestamp")
    assert timestamp.endswith("Z")
    assert dispatched == {
        "event": "execution.dispatched",
        "level": "info",
        "process": "worker",
        "correlation_id": "cor_1",
        "organization_id": "org_1",
        "instance_id": "ins_1",
        "wait_s": 0.5,
    }
    assert "correlation_id" not in idle


def test_inner_context_is_undone_to_the_outer_one(sink: Sink) -> None:
    with context(execution_id="exe_outer"):
        with context(execution_id="exe_inner"):
            structlog.get_logger().info("inner")
        structlog.get_logger().info("outer")

    assert [line["execution_id"] for line in sink.lines()] == ["exe_inner", "exe_outer"]


def test_libraries_log_through_the_same_pipeline(sink: Sink) -> None:
    with context(correlation_id="cor_1"):
        logging.getLogger("celery.worker").warning("Connection to %s lost", "redis://user:hunter2@broker:6379/0")

    (line,) = sink.lines()
    assert line["logger"] == "celery.worker"
    assert line["level"] == "warning"
    assert line["correlation_id"] == "cor_1"
    assert line["event"] == "Connection to redis://[redacted]@broker:6379/0 lost"


@pytest.mark.parametrize("logger", ["mcp.client.streamable_http", "client", "httpx2"])
def test_what_an_mcp_server_said_does_not_come_into_the_log(sink: Sink, logger: str) -> None:
    logging.getLogger(logger).info("Received session ID: %s", "b4a2")
    logging.getLogger(logger).error("Error parsing SSE message: input_value=%s", "a page of theirs")

    assert sink.lines() == []


def test_lines_below_the_level_are_not_written(sink: Sink) -> None:
    structlog.get_logger().debug("too.much")
    logging.getLogger("celery").debug("too much")

    assert sink.lines() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"bot_token": "hunter2"},
        {"headers": {"Authorization": "hunter2"}},
        {"text": "xoxb-hunter2-1"},
        {"text": "xapp-1-hunter2"},
        {"text": "Authorization: Bearer hunter2hunter2"},
        {"text": "dsn: password=hunter2 host=db"},
        {"url": "postgresql://nubabel:hunter2@db/nubabel"},
        {"items": [{"client_secret": "hunter2"}, "x?token=hunter2"]},
        {"deep": {"a": {"b": {"c": {"d": {"password": "password=hunter2"}}}}}},
        {"nbl_service_token": ["hunter2"]},
    ],
)
def test_what_looks_like_a_secret_is_blanked(sink: Sink, fields: dict[str, Any]) -> None:
    structlog.get_logger().info("something.happened", **fields)

    assert b"hunter2" not in sink.getvalue()
    assert b"[redacted]" in sink.getvalue()


@pytest.mark.parametrize(
    "fields",
    [{"input_tokens": 12, "output_tokens": 30}, {"title": "a = b at 5 @ noon"}, {"execution_id": "exe_1"}],
)
def test_ordinary_fields_are_left_alone(sink: Sink, fields: dict[str, Any]) -> None:
    structlog.get_logger().info("something.happened", **fields)

    assert b"redacted" not in sink.getvalue()


def test_an_exception_is_written_with_its_traceback_and_without_secrets(sink: Sink) -> None:
    error = RuntimeError("cannot reach redis://:hunter2@broker")

    structlog.get_logger().error("broker.failed", exc_info=error)

    (line,) = sink.lines()
    assert line["exception"] == "RuntimeError: cannot reach redis://[redacted]@broker"


def test_a_value_that_json_does_not_know_is_written_as_text(sink: Sink) -> None:
    structlog.get_logger().info("something.happened", value=ValueError("odd"), numbers={1: {2}})

    (line,) = sink.lines()
    assert line["value"] == "odd"
    assert line["numbers"] == {"1": [2]}


@pytest.mark.parametrize("value", ["\ud800", 2**64, {"\udfff": [2**64]}, float("nan")])
def test_a_value_that_json_cannot_hold_is_written_all_the_same(sink: Sink, value: Any) -> None:
    structlog.get_logger().info("slack.event_refused", value=value)

    (line,) = sink.lines()
    assert line["event"] == "slack.event_refused"


def test_a_terminal_gets_readable_lines(restored_logging: None) -> None:
    sink = Sink()
    configure_logging(process="worker", log_format="console", stream=sink)

    structlog.get_logger().info("execution.dispatched", execution_id="exe_1")
    logging.getLogger("celery").warning("careful")

    written = sink.getvalue().decode()
    assert "execution.dispatched" in written
    assert "exe_1" in written
    assert "careful" in written


def test_a_broken_log_call_of_a_library_does_not_break_its_caller(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    logging.getLogger("celery").warning("%d items", "many")

    assert sink.lines() == []
