"""What commands work with: the operators' services in one piece. `wiring` builds it, tests build their own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from nubabel_workers.domain.ports import Chance, Clock
from nubabel_workers.domain.ports.administration import AuditTrail, ExecutionReports, GroupReports, RestoreMarks
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.await_execution import AwaitExecution
from nubabel_workers.services.cancel_by_operator import CancelByOperator
from nubabel_workers.services.cancel_group import CancelGroup
from nubabel_workers.services.check_health import CheckHealth
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.erase_organization import EraseOrganization
from nubabel_workers.services.export_organization import ExportOrganization
from nubabel_workers.services.find_unserved import FindUnserved
from nubabel_workers.services.install_workspace import InstallWorkspace
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from nubabel_workers.services.manage_instances import ManageInstances
from nubabel_workers.services.manage_keys import ManageKeys
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.manage_tokens import ManageSubmitKeys, ManageTokens
from nubabel_workers.services.manage_workspaces import ManageWorkspaces
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_tool_calls import ReadToolCalls
from nubabel_workers.services.read_usage import ReadUsage
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.submit_execution import SubmitExecution


@dataclass(frozen=True)
class Defaults:
    """What the settings say when an operator says nothing."""

    opencode_username: str = "opencode"
    capacity_runs: int = 50
    submits_per_second: int = 20
    max_directories: int = 20
    slack_bot_token: SecretStr | None = field(default=None, repr=False)


@dataclass(frozen=True)
class InstallationLinks:
    """Links under which somebody installs the Slack app for an organization."""

    public_url: str
    install: InstallWorkspace

    def link(self, organization: Organization) -> str:
        return f"{self.public_url}/slack/install?link={self.install.link(organization)}"


@dataclass(frozen=True)
class Administration:
    """Everything that commands use."""

    organizations: ManageOrganizations
    export: ExportOrganization
    limits: ManageLimits
    erase: EraseOrganization
    workspaces: ManageWorkspaces
    tokens: ManageTokens
    submit_keys: ManageSubmitKeys
    keys: ManageKeys
    instances: ManageInstances
    unserved: FindUnserved
    callback_keys: ManageCallbackKeys
    dead_letters: ManageDeadLetters
    tool_calls: ReadToolCalls
    usage: ReadUsage
    budgets: KeepBudgets
    health: CheckHealth
    audit: AuditTrail
    restore: RestoreMarks
    reports: ExecutionReports
    submit: SubmitExecution
    read: ReadExecution
    waiting: ReadWaiting
    cancel_by_operator: CancelByOperator
    groups: GroupReports
    cancel_group: CancelGroup
    wait: AwaitExecution
    foreign_ids: ReportForeignIds
    clock: Clock
    chance: Chance
    connections: Callable[[], Connections]  # loads the MCP SDK, which takes a second
    installation: InstallationLinks | None = None  # None without OAuth credentials and a public URL
    defaults: Defaults = field(default_factory=Defaults)


class Migrations(Protocol):
    """The schema, as the database's owner."""

    def head(self) -> str: ...
    def current(self) -> str | None: ...
    def up(self, revision: str) -> None: ...
    def down(self, revision: str) -> None: ...
    def set_role_passwords(self) -> list[str]:
        """Give each role the password that the settings' URL for it contains; the roles that got one."""
        ...
