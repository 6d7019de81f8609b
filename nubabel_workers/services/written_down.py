"""After an effect outside: what was done but could not be written down is in doubt, not undone."""

from collections.abc import Iterator
from contextlib import contextmanager

from nubabel_workers.domain.errors import TransientError, UncertainError


@contextmanager
def in_doubt_unless_written(what: str) -> Iterator[None]:
    """A database that is away at this moment must not make the effect happen again: the next try looks first."""
    try:
        yield
    except TransientError as error:
        raise UncertainError(f"{what}, which could not be written down: {error}") from error
