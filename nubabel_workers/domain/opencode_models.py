"""Models by the names that requests give them, `provider/model`, and what to say of one that a server does not have."""

from collections.abc import Collection

UNKNOWN_MODEL = "unknown_model"

_NAMED = 10  # of perhaps hundreds


def missing_model(wanted: str, known: Collection[str], *, is_default: bool) -> str | None:
    """For operators: that the server does not have the model, what it has, and what to change; None: it has it.

    is_default: the model is the operators' choice for requests that name none.
    """
    if wanted in known:
        return None
    change = (
        "set NUBABEL_OPENCODE_DEFAULT_MODEL to one of these"
        if is_default
        else "name one of these in the request's `model`"
    )
    return (
        f"its server has no model {wanted[:200]!r}; it has: {_listed(wanted, known)}. To change: {change}, "
        "or give every server that model and its provider's key"
    )


def _listed(wanted: str, known: Collection[str]) -> str:
    """Those of the same provider first."""
    provider = wanted.partition("/")[0]
    ordered = sorted(known, key=lambda name: (name.partition("/")[0] != provider, name))
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return (", ".join(ordered[:_NAMED]) or "none") + more
