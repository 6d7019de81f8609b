"""Request analysis: which category, skills, agent and model a request gets, and the words that ask OpenCode for them.

Rules are data (`analysis_rules.yaml`); `parse_rules` turns their parsed form into values, reading files is an adapter's
work. OpenCode's API has no field for category or skills: they are asked for in the system text, and the model decides
whether it follows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Overrides
from nubabel_workers.domain.keywords import KeywordIndex, split_words

# A long request says what it wants at its beginning or at its end; between them stands what was pasted.
_LOOKED_AT_HEAD = 3000
_LOOKED_AT_TAIL = 1000

# oh-my-opencode's agent that delegates by category; what follows the dash changes between its releases.
SISYPHUS = "Sisyphus - "
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # stands inside quotes in the system text
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[^\s\"'`]{1,200}")

_CATEGORY = "category"
_SKILL = "skill"


@dataclass(frozen=True)
class Award:
    """Points that a keyword gives to a category or a skill."""

    kind: str
    name: str
    points: int


@dataclass(frozen=True)
class Rules:
    """Parsed rules. categories and skills: every name that may be used, with its meaning, in order of preference."""

    default_category: str
    minimum_points: int
    max_skills: int
    categories: Mapping[str, str]
    skills: Mapping[str, str]
    deadlines_s: Mapping[str, int]  # category -> seconds that its runs may take; the others have the setting's
    awards: Mapping[str, Sequence[Award]]
    main_agent: str  # the default agent is the one whose name begins like this
    index: KeywordIndex = field(repr=False, compare=False)


@dataclass(frozen=True)
class Analysis:
    """How an execution is to be run. agent, model: None means the server's default. reasons: for the timeline."""

    category: str | None
    skills: tuple[str, ...]
    agent: str | None
    model: str | None
    instructions: str  # system text of the prompt; empty when nothing is to be delegated
    reasons: tuple[str, ...]

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Analysis":
        """From what `as_dict` gave; what is not there counts as not decided."""
        return cls(
            category=stored.get("category"),
            skills=tuple(stored.get("skills") or ()),
            agent=stored.get("agent"),
            model=stored.get("model"),
            instructions=str(stored.get("instructions") or ""),
            reasons=tuple(stored.get("reasons") or ()),
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "category": self.category,
            "skills": list(self.skills),
            "agent": self.agent,
            "model": self.model,
            "instructions": self.instructions,
            "reasons": list(self.reasons),
        }


def analyse(text: str, overrides: Overrides, rules: Rules, available_agents: Sequence[str]) -> Analysis:
    """Decide how a request is run; what the caller decided stands.

    available_agents: the display names that the OpenCode server lists; empty when they are not known.
    Raises InvalidInputError when the caller named something that does not exist.
    """
    check_overrides(overrides, rules)
    agent, agent_reason = _choose_agent(overrides.agent, available_agents, rules.main_agent)
    model_reasons = (f"model {overrides.model}: the caller's choice",) if overrides.model else ()
    if not _delegates(agent, overrides, available_agents):
        reasons = (agent_reason, *model_reasons, "no delegation: the agent works on the request itself")
        return Analysis(None, (), agent, overrides.model, "", reasons)
    score = _score(text, rules)
    category, category_reason = _choose_category(overrides, rules, score)
    skills, skill_reasons = _choose_skills(overrides, rules, score)
    decided = overrides.category is not None or bool(skills) or category != rules.default_category
    return Analysis(
        category=category,
        skills=skills,
        agent=agent,
        model=overrides.model,
        instructions=_instructions(category, skills, decided=decided),
        reasons=(category_reason, *skill_reasons, agent_reason, *model_reasons),
    )


def check_overrides(overrides: Overrides, rules: Rules) -> None:
    """Raise InvalidInputError for a category, skill or model that no request can use; for the door, before storing."""
    if overrides.category is not None and overrides.category not in rules.categories:
        raise InvalidInputError(
            f"unknown category {_quoted(overrides.category)}; there are: {', '.join(rules.categories)}",
            code="unknown_category",
        )
    for skill in overrides.skills or ():
        if skill not in rules.skills:
            raise InvalidInputError(
                f"unknown skill {_quoted(skill)}; there are: {', '.join(rules.skills)}", code="unknown_skill"
            )
    if overrides.model is not None and not _MODEL.fullmatch(overrides.model):
        raise InvalidInputError(
            f'model {_quoted(overrides.model)} must have the form "provider/model"', code="invalid_model"
        )


def check_agent(wanted: str, available: Sequence[str]) -> None:
    """Raise InvalidInputError for an agent that no server has; available: empty when they are not known."""
    _choose_agent(wanted, available, "")


def _delegates(agent: str | None, overrides: Overrides, available_agents: Sequence[str]) -> bool:
    """Whether the request is to be handed on by category, which only a server with Sisyphus understands."""
    if available_agents and not any(name.startswith(SISYPHUS) for name in available_agents):
        return False
    if overrides.category is not None or overrides.skills:
        return True
    return agent.startswith(SISYPHUS) if agent else True


def _choose_agent(wanted: str | None, available: Sequence[str], main_agent: str) -> tuple[str | None, str]:
    """The exact display name: OpenCode accepts a prompt with any other one, and then never answers."""
    if wanted is None:
        default = next((name for name in available if name.startswith(main_agent)), None)
        return default, f"agent {default or 'of the server'}: the default"
    if not available:
        return wanted, f"agent {wanted}: the caller's choice, the server's agents are not known"
    exact = [name for name in available if name == wanted]
    short = [name for name in available if name.partition(" - ")[0].casefold() == wanted.casefold()]
    for name in (*exact, *short):
        return name, f"agent {name}: the caller's choice"
    raise InvalidInputError(
        f"unknown agent {_quoted(wanted)}; the server has: {', '.join(available)}", code="unknown_agent"
    )


# What each category and skill, by (kind, name), got points for: keyword and points.
_Score = Mapping[tuple[str, str], Sequence[tuple[str, int]]]


def _score(text: str, rules: Rules) -> _Score:
    if len(text) > _LOOKED_AT_HEAD + _LOOKED_AT_TAIL:
        text = f"{text[:_LOOKED_AT_HEAD]}\n{text[-_LOOKED_AT_TAIL:]}"
    score: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for keyword in rules.index.find(text):
        for award in rules.awards[keyword]:
            score.setdefault((award.kind, award.name), []).append((keyword, award.points))
    return score


def _choose_category(overrides: Overrides, rules: Rules, score: _Score) -> tuple[str, str]:
    if overrides.category is not None:
        return overrides.category, f"category {overrides.category}: the caller's choice"
    ranked = _ranked(_CATEGORY, rules.categories, rules, score)
    if not ranked:
        return rules.default_category, f"category {rules.default_category}: no keyword decided"
    return ranked[0], _because(_CATEGORY, ranked[0], score)


def _choose_skills(overrides: Overrides, rules: Rules, score: _Score) -> tuple[tuple[str, ...], list[str]]:
    if overrides.skills is not None:
        skills = tuple(dict.fromkeys(overrides.skills))
        return skills, [f"skills {', '.join(skills) or 'none'}: the caller's choice"]
    ranked = _ranked(_SKILL, rules.skills, rules, score)[: rules.max_skills]
    return tuple(ranked), [_because(_SKILL, name, score) for name in ranked]


def _ranked(kind: str, names: Iterable[str], rules: Rules, score: _Score) -> list[str]:
    """Names with enough points, most first; equal ones in the order of the rules (sorting keeps it)."""
    totals = {name: sum(points for _, points in score.get((kind, name), ())) for name in names}
    enough = [name for name, total in totals.items() if total >= rules.minimum_points]
    return sorted(enough, key=lambda name: -totals[name])


def _because(kind: str, name: str, score: _Score) -> str:
    return f"{kind} {name}: {', '.join(f'{keyword} {points}' for keyword, points in score[kind, name])}"


def _instructions(category: str, skills: Sequence[str], *, decided: bool) -> str:
    load_skills = ", ".join(f'"{skill}"' for skill in skills)
    call = f'task(category="{category}", load_skills=[{load_skills}], run_in_background=false)'
    opening = (
        f"Delegate this request with {call}"
        if decided
        else f"Answer directly if a short answer is all it needs; otherwise delegate this request with {call}"
    )
    return f"{opening}, wait for its result and give the answer yourself. Never start a task in the background."


def _quoted(value: str) -> str:
    return f'"{value[:80]}"'


# --- rules -----------------------------------------------------------------------------------------------------------

_FIELDS = frozenset({"default_category", "minimum_points", "max_skills", "categories", "skills"})
_ENTRY_FIELDS = frozenset({"meaning", "keywords", "by_caller_only", "deadline_s"})


def parse_rules(*layers: Mapping[str, Any], main_agent: str = SISYPHUS) -> Rules:
    """Check and compile rules. Each layer has the form of `analysis_rules.yaml` and adds to those before it.

    Raises InvalidInputError that names the place in the rules.
    """
    merged: dict[str, Any] = {"minimum_points": 1, "max_skills": 3, "default_category": None}
    names: dict[str, dict[str, str]] = {_CATEGORY: {}, _SKILL: {}}
    points: dict[tuple[str, str, str], int] = {}
    for layer in layers:
        if unknown := sorted(set(layer) - _FIELDS):
            raise InvalidInputError(f"rules: unknown field {unknown[0]!r}; there are: {', '.join(sorted(_FIELDS))}")
        merged |= {key: layer[key] for key in layer if key not in {"categories", "skills"}}
        for kind, group in ((_CATEGORY, "categories"), (_SKILL, "skills")):
            for name, entry in _mapping(layer.get(group) or {}, group).items():
                _read_entry(kind, f"{group}.{name}", name, entry, names[kind], points)
    default = merged["default_category"]
    if default not in names[_CATEGORY]:
        raise InvalidInputError(f"rules: default_category {default!r} is not one of the categories")
    awards: dict[str, list[Award]] = {}
    for (kind, name, keyword), value in points.items():
        if value:
            awards.setdefault(keyword, []).append(Award(kind, name, value))
    return Rules(
        default_category=default,
        minimum_points=_positive(merged["minimum_points"], "minimum_points"),
        max_skills=_positive(merged["max_skills"], "max_skills"),
        categories=names[_CATEGORY],
        deadlines_s=_deadlines(layers),
        skills=names[_SKILL],
        awards=awards,
        main_agent=main_agent,
        index=KeywordIndex(awards),
    )


def _deadlines(layers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Seconds per category; a later layer's word counts."""
    return {
        name: _positive(entry["deadline_s"], f"categories.{name}.deadline_s")
        for layer in layers
        for name, entry in (layer.get("categories") or {}).items()
        if "deadline_s" in entry
    }


def _read_entry(
    kind: str,
    place: str,
    name: Any,
    entry: Any,
    meanings: dict[str, str],
    points: dict[tuple[str, str, str], int],
) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(f"rules: {place}: a name has letters, digits, dots, dashes and underscores only")
    entry = _mapping(entry, place)
    if unknown := sorted(map(str, set(entry) - _ENTRY_FIELDS)):
        raise InvalidInputError(f"rules: {place}: unknown field {unknown[0]!r}")
    meanings[name] = str(entry.get("meaning", meanings.get(name, "")))
    if entry.get("by_caller_only") is True:
        for key in [key for key in points if key[:2] == (kind, name)]:
            del points[key]
        return
    for value, keywords in _mapping(entry.get("keywords") or {}, f"{place}.keywords").items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidInputError(f"rules: {place}.keywords: points must be whole numbers, not {value!r}")
        if not isinstance(keywords, list):
            raise InvalidInputError(f"rules: {place}.keywords.{value} must be a list of keywords")
        for keyword in keywords:
            points[kind, name, _keyword(keyword, f"{place}.keywords.{value}")] = value


def _keyword(keyword: Any, place: str) -> str:
    """YAML reads an unquoted yes, no or 404 as something else than text."""
    if not isinstance(keyword, str) or not split_words(keyword):
        raise InvalidInputError(f"rules: {place}: {keyword!r} is not a keyword; quote it if it is meant as text")
    if "*" in keyword.removesuffix("*"):
        raise InvalidInputError(f"rules: {place}: {keyword!r} may have a * at its end only")
    return keyword


def _mapping(value: Any, place: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"rules: {place} must be a mapping")
    return value


def _positive(value: Any, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"rules: {place} must be a whole number above 0")
    return value
