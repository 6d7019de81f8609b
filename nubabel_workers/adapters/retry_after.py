"""The header Retry-After of other people's servers. Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_S = 24 * 3600.0  # whoever asks for more is asked again tomorrow; PostgreSQL's intervals end somewhere, too


def read_retry_after(value: str, now: datetime | None = None) -> float | None:
    """Seconds to wait, a day at most; None when absent or unreadable. now: UTC-aware; without it dates are not read."""
    if value.isascii() and value.isdigit():
        return min(float(value), _MAX_S)
    if now is None:
        return None
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), _MAX_S)
