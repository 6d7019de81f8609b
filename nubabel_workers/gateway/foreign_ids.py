"""What a caller named over HTTP and its organization does not have, on its way to the audit log of operators."""

from fastapi import Request

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.foreign_ids import Naming, Sought
from nubabel_workers.gateway.authentication import Caller
from nubabel_workers.gateway.dependencies import GatewayParts


def report_refused(request: Request, error: Exception) -> None:
    """Returns at once, whosever the id is: the answer that follows must not tell."""
    if isinstance(error, NotFoundError) and error.sought is not None:
        report(request, error.sought)


def report(request: Request, sought: Sought) -> None:
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        return
    parts: GatewayParts = request.app.state.parts
    parts.foreign_ids.soon(Naming(caller.actor, door_of(request), sought))


def door_of(request: Request) -> str:
    """The operation, without what stands in its path."""
    return f"{request.method} {getattr(request.scope.get('route'), 'path', '')}"
