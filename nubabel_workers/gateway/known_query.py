"""Query fields that a path does not know are refused, as unknown members of a body are.

Where somebody else writes the query (authorization servers, Slack, a browser) or where callers of an older service must
find what they know, unknown fields stay without effect: those routers don't have this dependency.
"""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

_MAX_NAME_CHARS = 100


async def known_query(request: Request) -> None:
    """Raises RequestValidationError, which names the unknown fields and those that there are."""
    if not request.query_params or "authorization" not in request.headers:
        return  # who does not say who it is hears of that first
    known = list(_names_of(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        there_are = f"it takes {', '.join(known)}" if known else "it takes none"
        message = f"this path knows no such query field: {there_are}"
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name[:_MAX_NAME_CHARS]), "msg": message} for name in unknown]
        )


def _names_of(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for other in dependant.dependencies:
        yield from _names_of(other)
