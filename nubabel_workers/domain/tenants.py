"""Organizations and what belongs to them: Slack workspaces, service tokens, submit keys; and the OpenCode servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import SecretStr

from nubabel_workers.domain.ids import InstanceId, OrganizationId, ServiceTokenId, WorkspaceId
from nubabel_workers.domain.masking import MaskingPolicy


class BusyPolicy(StrEnum):
    """What a follow-up does while its session still works on the previous message."""

    QUEUE = "queue"
    INTERRUPT = "interrupt"
    REJECT = "reject"


class ServersPolicy(StrEnum):
    """On which OpenCode servers an organization runs: those for everybody, or only those dedicated to it."""

    SHARED = "shared"
    DEDICATED = "dedicated"


class NearCap(StrEnum):
    """What becomes of requests when most of an organization's budget of the day or month is used."""

    KEEP = "keep"  # served as always, until there is no room
    ECONOMIZE = "economize"  # a cheaper category and shorter runs, and the answer says so


class RepeatedQuestions(StrEnum):
    """What becomes of a question that was answered lately, word for word, in the same organization."""

    RUN = "run"
    REUSE = "reuse"  # the same answer, marked as such


@dataclass(frozen=True)
class Organization:
    id: OrganizationId
    name: str
    plan: str = "default"
    busy_policy: BusyPolicy = BusyPolicy.QUEUE
    masking: MaskingPolicy = MaskingPolicy.MASK
    servers: ServersPolicy = ServersPolicy.SHARED
    near_cap: NearCap = NearCap.KEEP
    repeated_questions: RepeatedQuestions = RepeatedQuestions.RUN
    budget_approvers: Sequence[str] = ()  # ids of people in Slack who may let what waits for its budget cost more
    limits: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    disabled_at: datetime | None = None


@dataclass(frozen=True)
class PolicyChange:
    """What of an organization's policies changes; None: it stays."""

    busy_policy: BusyPolicy | None = None
    plan: str | None = None
    masking: MaskingPolicy | None = None
    servers: ServersPolicy | None = None
    near_cap: NearCap | None = None
    repeated_questions: RepeatedQuestions | None = None
    budget_approvers: Sequence[str] | None = None

    def changes(self) -> dict[str, str | list[str]]:
        """Column -> value of those that are given."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value) if isinstance(value, str) else list(value)
            for name, value in given.items()
            if value is not None
        }


# What Slack says of a token that is over for good: somebody removed the app, or closed the workspace.
TOKEN_REVOKED = frozenset({"account_inactive", "token_revoked"})
TOKEN_ENDED = TOKEN_REVOKED | {"invalid_auth", "not_authed"}


@dataclass(frozen=True)
class Workspace:
    """A Slack installation. The token is decrypted; it never appears in a repr or a log."""

    id: WorkspaceId
    organization_id: OrganizationId
    team_id: str
    enterprise_id: str | None
    team_name: str
    bot_user_id: str
    bot_id: str | None
    bot_token: SecretStr
    installed: bool
    installed_at: datetime  # the last time: tells an installation from the next one
    busy_policy: BusyPolicy = BusyPolicy.QUEUE  # of the organization, read along
    enabled: bool = True  # the organization

    @property
    def active(self) -> bool:
        """Whether something new may come from there. What runs is told also when its organization is disabled."""
        return self.installed and self.enabled


@dataclass(frozen=True)
class ServiceToken:
    """A caller's token; only its hash is stored."""

    id: ServiceTokenId
    organization_id: OrganizationId
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True)
class SubmitKey:
    """A key with which a producer signs submissions straight to the broker."""

    id: str
    organization_id: OrganizationId
    secret: SecretStr


@dataclass(frozen=True)
class InstanceChange:
    """What of a server changes; None: it stays."""

    capacity_runs: int | None = None
    submits_per_second: int | None = None
    max_directories: int | None = None
    username: str | None = None
    password: SecretStr | None = None

    def values(self) -> dict[str, int | str]:
        """Column -> value of those that are given, but for the password."""
        given = {
            "capacity_runs": self.capacity_runs,
            "submits_per_second": self.submits_per_second,
            "max_directories": self.max_directories,
            "username": self.username,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def is_empty(self) -> bool:
        return self.password is None and not self.values()

    @property
    def is_of_access(self) -> bool:
        return self.password is not None or self.username is not None


@dataclass(frozen=True)
class Instance:
    """An OpenCode server."""

    id: InstanceId
    url: str
    username: str
    password: SecretStr | None
    directory: str | None = None  # where its sessions live; None is the server's own working directory
    organization_id: OrganizationId | None = None  # dedicated to this one; None is shared
    unreadable: bool = False  # the stored password: it was encrypted with a key that this process was not given
    status: str = "active"  # active, draining, removed
    capacity_runs: int = 50
    submits_per_second: int = 20
    max_directories: int = 20  # of organizations, loaded at once
    directories_path: str | None = None  # where it makes one for each organization; None: it makes none
    agents: Sequence[str] = ()
    version: str = ""
    in_flight: int = 0  # executions occupying it now, counted from the rows
    awaited: int = 0  # queued executions of sessions that live there; counted while it is taken back after being away
    healthy: bool = True  # the listener's last word: an unreachable one gets no new sessions; health_detail says why
    health_detail: str = ""
    refused: bool = False  # unhealthy although it answers: we cannot work with it, not even for the sessions it has
    strain: str = ""  # it answers and is not well, and this is why: new sessions go to others, as long as there are any
    memory_bytes: int | None = None  # of its process, where its plugin tells
    event_lag_s: float | None = None  # how late its events came at the last check; None: nobody has looked yet
    checked_at: datetime | None = None
    unhealthy_since: datetime | None = None  # None: it is healthy
    recovered_ago_s: float | None = None  # since it was back after having been away; None: it never was
    given_up: bool = (
        False  # away for so long that its sessions go on elsewhere; there is another one that can take them
    )
    housed: frozenset[str] = frozenset()  # organizations whose directory is loaded there, or about to be
    just_used: frozenset[str] = frozenset()  # of the housed, those that were loaded and used within the last second
    directories_taken: int = 0  # places: of those, and of directories that are just being unloaded
    directories_awaited: int = 0  # of the housed, those that are not known to be loaded; a server loads one at a time
    directories_idle: int = 0  # of the housed, those that may make room; counted where no place is free

    @property
    def is_fit(self) -> bool:
        """It answers, and nothing is wrong with it."""
        return self.healthy and not self.strain
