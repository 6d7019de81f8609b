"""Organizations and what belongs to them: Slack workspaces, service tokens, submit keys; and the OpenCode servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Organization:
    id: OrganizationId
    name: str
    plan: str = "default"
    busy_policy: BusyPolicy = BusyPolicy.QUEUE
    masking: MaskingPolicy = MaskingPolicy.MASK
    servers: ServersPolicy = ServersPolicy.SHARED
    limits: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    disabled_at: datetime | None = None


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
    active: bool
    busy_policy: BusyPolicy = BusyPolicy.QUEUE  # of the organization, read along


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
class Instance:
    """An OpenCode server."""

    id: InstanceId
    url: str
    username: str
    password: SecretStr | None
    directory: str | None = None  # where its sessions live; None is the server's own working directory
    organization_id: OrganizationId | None = None  # dedicated to this one; None is shared
    status: str = "active"  # active, draining, removed
    capacity_runs: int = 50
    submits_per_second: int = 20
    agents: Sequence[str] = ()
    version: str = ""
    in_flight: int = 0  # executions occupying it now, counted from the rows
    healthy: bool = True  # the listener's last word: an unreachable one gets no new sessions; health_detail says why
    health_detail: str = ""
    checked_at: datetime | None = None
    recovered_ago_s: float | None = None  # since it was back after having been away; None: it never was
    given_up: bool = (
        False  # away for so long that its sessions go on elsewhere; there is another one that can take them
    )
