"""Names that people give to things: short, visible, on one line."""

from nubabel_workers.domain.errors import InvalidInputError

_MAX_NAME_CHARS = 100


def checked_name(text: str, what: str) -> str:
    """The name without spaces around it. Raises InvalidInputError, which begins with `what`."""
    name = text.strip()
    if not name:
        raise InvalidInputError(f"{what} must not be empty")
    if len(name) > _MAX_NAME_CHARS:
        raise InvalidInputError(f"{what} has at most {_MAX_NAME_CHARS} characters, not {len(name)}")
    if not name.isprintable():
        raise InvalidInputError(f"{what} must not contain control characters")
    return name
