"""The settings of a command, and where its log lines go."""

import logging
import sys

from config.logging import configure_logging
from config.settings import Settings, load_settings


def command_settings() -> Settings:
    """Settings for a command: its log lines are for trouble, on stderr, beside its output."""
    settings = load_settings()
    configure_logging(process="cli", level="error", log_format=settings.log_format, stream=sys.stderr.buffer)
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it tells each try; the command tells the outcome
    return settings
