"""One logging pipeline for every process: JSON lines in production, readable ones in a terminal.

Our own code logs through structlog: a constant event name plus fields. Libraries that log through the standard
library (Celery, uvicorn, Slack's SDK) are led into the same processors. Fields bound with `bind_context` appear on
every line until they are unbound.
"""

import functools
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.log_target import LogTarget

REDACTED = "[redacted]"

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Loggers of which only warnings are of interest; Celery's two tell per message what `tasks.base` says better.
_QUIET = (
    "aiohttp.access",
    "alembic",
    "asyncio",
    "celery.app.trace",
    "celery.worker.strategy",
    "httpcore",
    "httpx",
    "kombu",
    "slack_bolt",
    "slack_sdk",
    "uvicorn.access",
)

# The MCP SDK and its HTTP client: their records hold session ids and what other people's servers said. We tell
# ourselves what went wrong with a server.
_SILENT = ("client", "httpx2", "mcp")

_SECRET_KEY = re.compile(
    r"(?i)passw(or)?d|secret|token(?!s)|authorization|cookie|api_?key|private_?key|signature|credential"
)
_SECRET_TEXT = re.compile(
    r"xox[a-z]-[\w-]+"  # Slack tokens
    r"|xapp-[\w-]+"
    r"|xoxe\.[\w.-]+"
    r"|[Bb](?:earer|asic)\s+[\w.~+/=-]{8,}"
    r"|(?i:(?:password|passwd|secret|token|api_key)=)[^\s&\"']+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password in a URL
)
_NEVER_SECRET = frozenset({"event", "level", "timestamp", "logger"})
_MAX_DEPTH = 4


def configure_logging(
    *,
    process: str,
    level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    stream: BinaryIO | None = None,
) -> None:
    """Set the pipeline up for this process. Called once, by the entry point. process: its name in the Procfile.

    stream: where lines go instead of standard output.
    """
    output = stream or sys.stdout.buffer
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    target = LogTarget(output)
    shared = _shared_processors(process)
    renderers = _renderers(console=console)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, *shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_LineLoggerFactory(target),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(target, _LEVELS[level], shared, renderers)


def bind_context(**fields: str | None) -> Mapping[str, Any]:
    """Put fields (correlation_id, organization_id, …) on every later line of this task or thread; empty ones
    are left out. Pass the result to `unbind_context` to restore what was there before.
    """
    return structlog.contextvars.bind_contextvars(**{name: value for name, value in fields.items() if value})


def unbind_context(tokens: Mapping[str, Any]) -> None:
    structlog.contextvars.reset_contextvars(**tokens)


@contextmanager
def context(**fields: str | None) -> Iterator[None]:
    """The same for the time of a `with` block."""
    tokens = bind_context(**fields)
    try:
        yield
    finally:
        unbind_context(tokens)


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Processor: blank what looks like a secret, by the name of the field or by the text. A net, not a licence."""
    for key, value in event_dict.items():
        if key not in _NEVER_SECRET:
            event_dict[key] = _clean(key, value, 0)
    event = event_dict.get("event")
    if isinstance(event, str):
        event_dict["event"] = _clean_text(event)
    return event_dict


def _clean(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if _is_secret_key(key):
        return REDACTED
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {name: _clean(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < _MAX_DEPTH:
        return [_clean("", item, depth + 1) for item in value]
    return _clean_text(value if isinstance(value, str) else str(value))


def _clean_text(text: str) -> str:
    # The marks that every pattern needs come first: a look for each is far cheaper than the patterns.
    if "=" in text or "@" in text or "xox" in text or "xapp-" in text or "earer" in text or "asic" in text:
        return _SECRET_TEXT.sub(REDACTED, text)
    return text


@functools.lru_cache(maxsize=2048)
def _is_secret_key(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _shared_processors(process: str) -> list[Processor]:
    def add_process(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        event_dict["process"] = process
        return event_dict

    return [
        add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]


def _renderers(*, console: bool) -> list[Processor]:
    if console:
        readable = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=34, sort_keys=False)
        return [cast("Processor", lambda *args: str(readable(*args)).encode(errors="backslashreplace"))]
    return [_render_json]


def _render_json(_logger: WrappedLogger, _method: str, event_dict: MutableMapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event_dict, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates, integers of more than 64 bits: other people's values are no reason to fail
        return json.dumps(event_dict, default=str, skipkeys=True, separators=(",", ":")).encode()


class _LineLogger:
    def __init__(self, target: LogTarget) -> None:
        self._target = target

    def msg(self, line: bytes) -> None:
        self._target.write(line)

    debug = info = warning = error = critical = exception = log = msg


class _LineLoggerFactory:
    def __init__(self, target: LogTarget) -> None:
        self._logger = _LineLogger(target)

    def __call__(self, *_args: Any) -> _LineLogger:
        return self._logger


class _StandardLibraryHandler(logging.Handler):
    """Leads records of the standard library through the same processors."""

    def __init__(self, logger: _LineLogger, processors: Sequence[Processor]) -> None:
        super().__init__()
        self._line_logger = logger
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = structlog.contextvars.get_merged_contextvars(structlog.get_logger())
            event.update(event=record.getMessage(), level=record.levelname.lower(), logger=record.name)
            if record.exc_info:
                event["exc_info"] = record.exc_info
            for processor in self._processors:
                event = processor(None, record.levelname.lower(), event)
            self._line_logger.msg(event)
        except Exception:  # noqa: BLE001  # logging must never break what it reports on
            self.handleError(record)


def _configure_standard_library(
    target: LogTarget, level: int, shared: Sequence[Processor], renderers: Sequence[Processor]
) -> None:
    handler = _StandardLibraryHandler(_LineLogger(target), [*shared, *renderers])
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).handlers.clear()  # uvicorn and Celery bring handlers of their own
        logging.getLogger(name).propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(capture=True)
