"""What an organization may use: limits by plan, and its own on top of them. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nubabel_workers.domain.errors import InvalidInputError

DEFAULT_PLAN = "default"

_NONE = "none"
_UNSET = "unset"
_LARGEST = 1e15


@dataclass(frozen=True)
class Limits:
    """None: no limit. Money in US dollars; days and months in UTC."""

    requests_per_minute: int | None = None
    in_flight: int | None = None  # executions that occupy their session: being dispatched, running, waiting in a run
    queued: int | None = None  # executions that wait for their turn
    sessions: int | None = None  # conversations with an execution that is not over
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_per_execution: float | None = None
    cost_per_user_day: float | None = None
    cost_per_day: float | None = None
    cost_per_month: float | None = None
    longest_run_s: float | None = None
    weight: float = 1.0  # share of the capacity, compared to other organizations'; never None


LIMIT_NAMES = tuple(field.name for field in fields(Limits))
_WHOLE = frozenset({"requests_per_minute", "in_flight", "queued", "sessions", "tokens_per_day", "tokens_per_month"})
_AT_LEAST_ONE = frozenset({"requests_per_minute", "longest_run_s"})
_WEIGHT = "weight"
_WEIGHTS = (0.01, 100.0)


@dataclass(frozen=True)
class Plans:
    """Limits by name of plan; there is always one named `default`."""

    plans: Mapping[str, Limits]

    def knows(self, plan: str) -> bool:
        return plan in self.plans

    def of(self, plan: str, own: Mapping[str, Any]) -> Limits:
        """An organization's limits: its own where it has any, else its plan's; an unknown plan counts as `default`.

        What cannot be read in `own` (a newer release may have written it) counts as not there.
        """
        base = self.plans.get(plan, self.plans[DEFAULT_PLAN])
        return Limits(**{name: _own_or(own, name, getattr(base, name)) for name in LIMIT_NAMES})


def parse_plans(*layers: Mapping[str, Any]) -> Plans:
    """Each layer has the form of `plans.toml`; a later one's plan replaces the one of the same name.

    Raises InvalidInputError that names the place.
    """
    plans = {DEFAULT_PLAN: Limits()}
    for layer in layers:
        if unknown := sorted(set(layer) - {"plans"}):
            raise InvalidInputError(f"plans: unknown table {unknown[0]!r}; there is: plans")
        for name, entry in _table(layer.get("plans", {}), "plans").items():
            limits = _table(entry, f"plans.{name}")
            plans[name] = Limits(**{key: checked_limit(key, value) for key, value in limits.items()})
    return Plans(plans)


@dataclass(frozen=True)
class LimitChange:
    """What changes of an organization's own limits. unset: names that its plan decides again."""

    set: Mapping[str, float | None]
    unset: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.set, *self.unset)


def checked_change(own: Mapping[str, Any], unset: tuple[str, ...] = ()) -> LimitChange:
    """Raises InvalidInputError that says what does not fit."""
    for name in unset:
        _check_name(name)
    if not own and not unset:
        raise InvalidInputError("nothing to change: name a limit")
    if twice := sorted(set(own) & set(unset)):
        raise InvalidInputError(f"{twice[0]} is both set and unset: say one of them")
    return LimitChange({name: checked_limit(name, value) for name, value in own.items()}, tuple(dict.fromkeys(unset)))


def parse_change(assignments: list[str]) -> LimitChange:
    """From `name=value`, where the value is a number, `none` (no limit) or `unset` (the plan decides)."""
    own: dict[str, float | None] = {}
    unset: list[str] = []
    if not assignments:
        raise InvalidInputError("nothing to change: name a limit, e.g. in_flight=20")
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise InvalidInputError(f"{assignment!r} is not of the form name=value, e.g. in_flight=20")
        if name in own or name in unset:
            raise InvalidInputError(f"{name} is named twice")
        if text == _UNSET:
            unset.append(name)
        else:
            own[name] = None if text == _NONE else _number(name, text)
    return checked_change(own, tuple(unset))


def checked_limit(name: str, value: Any) -> Any:
    """The value as it is stored. Raises InvalidInputError that says what would fit."""
    _check_name(name)
    if value is None and name != _WEIGHT:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInputError(f"{name} must be a number{'' if name == _WEIGHT else ', or none for no limit'}")
    if name == _WEIGHT:
        least, most = _WEIGHTS
    else:
        least, most = (1.0 if name in _AT_LEAST_ONE else 0.0), _LARGEST
    if not least <= value <= most:
        raise InvalidInputError(f"{name} must be between {least:g} and {most:g}")
    if name in _WHOLE:
        if value != int(value):
            raise InvalidInputError(f"{name} must be a whole number")
        return int(value)
    return float(value)


def _own_or(own: Mapping[str, Any], name: str, of_plan: Any) -> Any:
    if name not in own:
        return of_plan
    try:
        return checked_limit(name, own[name])
    except InvalidInputError:
        return of_plan


def _check_name(name: str) -> None:
    if name not in LIMIT_NAMES:
        raise InvalidInputError(f"there is no limit {name!r}; there are: {', '.join(LIMIT_NAMES)}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{name}={text}: the value is a number, {_NONE} or {_UNSET}") from error


def _table(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{place} must be a table")
    return value
