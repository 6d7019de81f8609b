"""Every setting with its meaning, default and bounds, in groups. `config.settings` reads and joins them.

A field's description is its documentation: `.env.example` is made from it.
"""

import base64
import binascii
import ipaddress
import re
import shlex
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, FilePath, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import NoDecode

Port = Annotated[int, Field(ge=1, le=65535)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode]
CommaSeparatedSecrets = Annotated[tuple[SecretStr, ...], NoDecode]

_FERNET_KEY_BYTES = 32
_PORTS = 65536
_ROLLOUT = re.compile(r"opencode|(delegate|fallback):(100(\.0{1,2})?|\d{1,2}(\.\d{1,2})?)(:(session|organization))?")
_NAMED_DIGEST = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}:[0-9a-f]{64}")


def _url_of(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in schemes:
            raise ValueError(f"must be a URL beginning with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


def _http_origin(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL beginning with https:// (or http://)")
    return value.rstrip("/")


def _rollout(value: str) -> str:
    if not _ROLLOUT.fullmatch(value):
        raise ValueError(
            "must be opencode, or delegate or fallback with a percentage and session or organization, "
            "e.g. delegate:10:session"
        )
    return value


def _fernet_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for position, key in enumerate(keys, start=1):
        try:
            decoded = base64.urlsafe_b64decode(key.get_secret_value())
        except (binascii.Error, ValueError):
            decoded = b""
        if len(decoded) != _FERNET_KEY_BYTES:
            raise ValueError(f"key {position} is not a key made by `nubabel keys generate` (32 bytes, url-safe base64)")
    return keys


def _named_digests(entries: tuple[str, ...]) -> tuple[str, ...]:
    for position, entry in enumerate(entries, start=1):
        if not _NAMED_DIGEST.fullmatch(entry):
            raise ValueError(f"entry {position} is not a line of `nubabel keys operator-token` (name:digest)")
    return entries


def _user_and_password(value: SecretStr) -> SecretStr:
    user, separator, password = value.get_secret_value().partition(":")
    if not (user and separator and password):
        raise ValueError("must be user:password")
    return value


def _command(value: str) -> str:
    try:
        arguments = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be read as a command: {error}") from None
    if not arguments:
        raise ValueError("is no command")
    return value


RedisUrl = Annotated[SecretStr, _url_of("redis", "rediss")]
PostgresUrl = Annotated[SecretStr, _url_of("postgresql", "postgres")]
HttpOrigin = Annotated[str, AfterValidator(_http_origin)]
Rollout = Annotated[str, AfterValidator(_rollout)]
EncryptionKeys = Annotated[CommaSeparatedSecrets, Field(min_length=1), AfterValidator(_fernet_keys)]
OperatorTokens = Annotated[CommaSeparated, AfterValidator(_named_digests)]
CommandLine = Annotated[str, AfterValidator(_command)]
BasicAuth = Annotated[SecretStr, AfterValidator(_user_and_password)]


class SettingGroup(BaseModel):
    """Settings that are read about together."""

    title: ClassVar[str] = ""


class ProcessSettings(SettingGroup):
    title = "This installation"

    environment: Literal["production", "development"] = Field(
        "production",
        description="production insists on separate database roles and on https for public_url; development does not.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level logged: debug, info, warning or error."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, console (readable lines), or auto: console in a terminal, json everywhere else."
    )
    metrics_host: str = Field("127.0.0.1", description="Address for the metrics of processes other than web.")
    metrics_port: Port | None = Field(
        None, description="Port on which this process (not web, which has /metrics) serves its metrics. Empty: none."
    )
    metrics_organizations: CommaSeparated = Field(
        (),
        max_length=100,
        description="Ids of the organizations (100 at most) that metrics name always, comma-separated; others: other.",
    )


class StoreSettings(SettingGroup):
    title = "PostgreSQL, broker and cache"

    database_url: PostgresUrl = Field(
        description="PostgreSQL as the owner of the tables: migrations and operators' commands."
    )
    tenant_database_url: PostgresUrl | None = Field(
        None,
        description="The same database as role nubabel_tenant. Empty (development only): database_url with that user.",
    )
    system_database_url: PostgresUrl | None = Field(
        None,
        description="The same database as role nubabel_system. Empty (development only): database_url with that user.",
    )
    database_pool_min: int = Field(1, ge=0, description="Connections kept open per process and role.")
    database_pool_max: PositiveInt = Field(10, description="Connections at most per process and role.")
    database_connect_timeout_s: PositiveInt = Field(5, description="Seconds to wait for a connection to be made.")
    database_acquire_timeout_s: PositiveFloat = Field(5, description="Seconds to wait for a free connection.")
    database_statement_timeout_s: PositiveFloat = Field(
        5, description="Seconds that one statement may take; 2 s later we no longer wait for a server that hangs."
    )
    database_lock_timeout_s: PositiveFloat = Field(3, description="Seconds that a statement may wait for a lock.")
    database_idle_in_transaction_timeout_s: PositiveFloat = Field(
        15, description="Seconds after which a forgotten transaction is ended."
    )
    broker_url: RedisUrl = Field(
        description="Redis or Valkey for Celery, its own server or database, with maxmemory-policy noeviction."
    )
    cache_url: RedisUrl = Field(
        description="Redis or Valkey for mappings, progress streams and limits; all of it may be lost at any time."
    )
    cache_pool_max: PositiveInt = Field(20, description="Cache connections at most per process.")
    cache_timeout_s: PositiveFloat = Field(2, description="Seconds that one cache command may take.")
    redis_ca_file: FilePath | None = Field(
        None, description="Certificate authority for rediss:// URLs. Empty: the system's. Certificates are checked."
    )
    encryption_keys: EncryptionKeys = Field(
        description="Fernet keys for secrets at rest, comma-separated: the first encrypts, all decrypt. "
        "Rotate by putting a new one in front. Made by `nubabel keys generate`."
    )


_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


def _private_address(value: str) -> str:
    """host:port on which nobody outside reaches us; a name may lead anywhere, hence literal addresses only."""
    host, separator, port = value.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if not separator or not port.isdecimal() or not 0 < int(port) < _PORTS or address is None:
        raise ValueError("must be address:port, e.g. 127.0.0.1:3001; names are not taken")
    if not any(address in network for network in _PRIVATE_NETWORKS):
        raise ValueError("must be a loopback or private address: whoever reaches it needs no token")
    return value


PrivateAddress = Annotated[str, AfterValidator(_private_address)]


class GatewaySettings(SettingGroup):
    title = "Gateway (process web)"

    http_host: str = Field("127.0.0.1", description="Address that the gateway listens on.")
    http_port: Port = Field(8000, description="Port that the gateway listens on.")
    public_url: HttpOrigin | None = Field(
        None, description="How people and Slack reach the gateway, e.g. https://nubabel.example.com."
    )
    max_request_bytes: PositiveInt = Field(1_048_576, description="Largest request body that is read.")
    max_batch_requests: PositiveInt = Field(50, description="Most requests that one dispatched batch may have.")
    max_prompt_bytes: PositiveInt = Field(131_072, description="Largest prompt (UTF-8) that is accepted.")
    idempotency_keep_h: PositiveInt = Field(24, description="Hours for which an Idempotency-Key is remembered.")
    callbacks_per_second: PositiveInt = Field(
        200, description="Callbacks of OpenCode's plugin per second and organization; more are answered with 429."
    )
    stream_heartbeat_s: PositiveFloat = Field(15, description="Seconds between comments on a quiet event stream.")
    delegate_wait_s: float = Field(
        100, gt=0, le=3600, description="Seconds that POST /delegate_task waits for the answer before it says 202."
    )
    sidecar_wait_s: float = Field(
        120, gt=0, le=3600, description="Seconds that the old sidecar's calls wait before they say that it timed out."
    )
    sidecar_listen: PrivateAddress | None = Field(
        None,
        description="A second, private address, e.g. 127.0.0.1:3001, for callers of the old sidecar without a token: "
        "they act for sidecar_organization. Empty: none.",
    )
    sidecar_organization: str | None = Field(None, description="Organization of sidecar_listen, org_...")
    operator_tokens: OperatorTokens = Field(
        (),
        description="Who may use /v1/operator, comma-separated name:digest; made by `nubabel keys operator-token`. "
        "Two of one name may be valid while one replaces the other.",
    )
    egress_allow: CommaSeparated = Field(
        (),
        description="Exceptions to the guard of outgoing URLs (webhooks, MCP servers), comma-separated host:port, host "
        "(any port) or network (10.1.0.0/16); these may be private addresses and plain http.",
    )
    webhook_timeout_s: PositiveFloat = Field(10, description="Seconds that a webhook may take to answer.")


class SlackSettings(SettingGroup):
    title = "Slack"

    slack_mode: Literal["events", "socket", "off"] = Field(
        "off", description="events: Slack calls the gateway; socket: process slack connects to Slack; off: no Slack."
    )
    slack_signing_secret: SecretStr | None = Field(None, description="Signing secret of the app (events).")
    slack_app_token: SecretStr | None = Field(None, description="App-level token, xapp-... (socket).")
    slack_bot_token: SecretStr | None = Field(
        None, description="Bot token, xoxb-..., when one workspace is configured here instead of by installation."
    )
    slack_team_id: str | None = Field(None, description="Workspace of slack_bot_token, T...")
    slack_organization: str | None = Field(None, description="Organization that slack_team_id belongs to, org_...")
    slack_client_id: str | None = Field(None, description="OAuth client id, for installation into workspaces.")
    slack_client_secret: SecretStr | None = Field(None, description="OAuth client secret.")
    slack_api_base_url: HttpOrigin = Field("https://slack.com/api", description="Slack's Web API, or a stand-in.")
    slack_timeout_s: PositiveFloat = Field(10, description="Seconds that one Web API call may take.")
    slack_read_quota_per_minute: PositiveInt = Field(
        50, description="conversations.replies calls per minute and workspace. 1 for apps distributed commercially."
    )
    slack_read_page_size: int = Field(
        100, ge=1, le=1000, description="Messages read per call. 15 for apps distributed commercially."
    )
    slack_progress_interval_s: PositiveFloat = Field(2, description="Seconds between edits of a progress message.")
    max_files: int = Field(5, ge=0, description="Attached files that are passed on per message.")
    max_file_bytes: PositiveInt = Field(5_242_880, description="Largest attached file that is passed on.")


class OpenCodeSettings(SettingGroup):
    title = "OpenCode"

    opencode_username: str = Field("opencode", description="Basic authentication user, unless a server says otherwise.")
    opencode_agent_prefix: str = Field("Sisyphus - ", description="The default agent is the one beginning like this.")
    opencode_default_model: str | None = Field(
        None, description="provider/model for requests that name none. Empty: the server's own."
    )
    opencode_connect_timeout_s: PositiveFloat = Field(3, description="Seconds to connect to an OpenCode server.")
    opencode_read_timeout_s: PositiveFloat = Field(10, description="Seconds for one answer of an OpenCode server.")
    opencode_give_up_after_s: PositiveFloat = Field(
        600,
        description="Seconds after which a server that is away is given up, if another one can take its sessions.",
    )
    opencode_restart_command: CommandLine | None = Field(
        None,
        description="Starts a server anew that stays away: {id} and {url} stand for the server's; no shell reads it. "
        "The scheduler runs it, without our settings in its environment.",
    )
    opencode_restart_after_s: PositiveFloat = Field(
        60, description="Seconds that a server is away before it is started anew; five times as long between tries."
    )
    opencode_drain_s: PositiveFloat = Field(
        600, description="Seconds that the runs of a server that is not well are waited for before it is started anew."
    )
    opencode_memory_bound_bytes: PositiveInt = Field(
        3_000_000_000,
        description="Memory of one server's process, told by its plugin, above which it gets no new sessions.",
    )
    opencode_memory_within_s: PositiveFloat = Field(
        900, description="The same for a server whose memory grows so fast that it would reach the bound within this."
    )
    opencode_memory_window_s: PositiveFloat = Field(
        600, description="Seconds over which that growth is measured: loading directories takes memory, and ends."
    )
    opencode_event_lag_s: PositiveFloat = Field(
        10, description="Seconds that a server's events may come late. Later than that is not well."
    )
    opencode_event_lag_checks: PositiveInt = Field(
        3, description="Checks of opencode_event_lag_check_s in a row that have to agree on that."
    )
    opencode_event_lag_check_s: PositiveFloat = Field(10, description="Seconds of one such check.")
    opencode_model_retries: PositiveInt = Field(
        6, description="Tries of a server to reach its model, which have no end of their own, until a run is given up."
    )
    opencode_stream_idle_s: PositiveFloat = Field(
        30, description="Seconds of silence after which an event stream counts as dead."
    )
    breaker_failures: PositiveInt = Field(
        5, description="Failed calls in a row after which an OpenCode server gets no more for a while."
    )
    breaker_failing_share: float = Field(
        0.5, gt=0, le=1, description="The same for this share of 20 or more calls within breaker_window_s."
    )
    breaker_window_s: PositiveFloat = Field(30, description="Seconds in which failed calls count together.")
    breaker_first_wait_s: PositiveFloat = Field(
        2, description="Seconds, at most, until one call tries such a server again; doubled each time that it fails."
    )
    breaker_max_wait_s: PositiveFloat = Field(30, description="Seconds between two such tries, at most.")
    opencode_capacity_runs: PositiveInt = Field(50, description="Runs at once per server, unless it says otherwise.")
    opencode_submits_per_second: PositiveInt = Field(
        20, description="Prompts per second and server, unless it says otherwise."
    )
    opencode_max_directories: PositiveInt = Field(
        20, description="Organizations' directories loaded at once per shared server, unless it says otherwise."
    )
    opencode_directories_per_second: PositiveInt = Field(
        1, description="Of those, how many a server loads a second: each costs it about a second of CPU."
    )
    opencode_directory_idle_s: float = Field(
        3600, ge=60, description="Seconds without a prompt after which such a directory is unloaded; its files stay."
    )
    analysis_rules_file: Path | None = Field(
        None, description="YAML with rules of your own for the request analysis, added to the built-in ones."
    )
    model_prices_file: Path | None = Field(
        None,
        description="TOML with prices of models, added to the built-in ones; they count where OpenCode reports tokens "
        "and no cost.",
    )
    plans_file: Path | None = Field(
        None, description="TOML with plans (limits of organizations), added to the built-in ones."
    )
    budget_first_hold_usd: PositiveFloat = Field(
        0.25, description="US dollars held for a run of an organization whose last runs are too few to guess from."
    )
    budget_first_hold_tokens: PositiveInt = Field(50_000, description="The same in tokens.")
    budget_pause_h: PositiveInt = Field(
        168, description="Hours for which a run that was paused for lack of budget is kept."
    )
    budget_button_usd: PositiveFloat = Field(
        1.0,
        description="US dollars that a press of the button in Slack lets a request cost more that waits for budget.",
    )
    economy_from: float = Field(
        0.8, gt=0, le=1, description="Share of a day's or month's cap from which organizations that economize do so."
    )
    economy_category: str = Field("quick", description="Category of their requests then, where the caller chose none.")
    economy_run_s: PositiveInt = Field(300, description="Seconds that a run of theirs may take then.")
    answer_reuse_s: PositiveInt = Field(
        3600, description="Seconds for which an answer is given again, to organizations that want that."
    )
    late_notice_s: PositiveInt = Field(90, description="Seconds after which a waiting Slack thread is told so, once.")
    answer_by_s: PositiveInt = Field(3600, description="Seconds from acceptance until a waiting request is given up.")
    earlier_turns_bytes: int = Field(
        24_000,
        ge=2_000,
        description="Room for the earlier turns of a conversation that goes on elsewhere; longer ones are compressed.",
    )
    run_deadline_s: PositiveInt = Field(1800, description="Seconds that a run on OpenCode may take.")
    run_stalled_s: PositiveFloat = Field(
        600, description="Seconds in which a run has not come further, until it is stopped and tried again."
    )


class OrchestratorSettings(SettingGroup):
    title = "Orchestrators besides OpenCode"

    rollout: Rollout = Field(
        "opencode",
        description="Who answers: opencode; or delegate (another service, POST /delegate_task) or fallback (a model "
        "asked directly) with a percentage of sessions or organizations, e.g. delegate:10:session; OpenCode the rest.",
    )
    delegate_url: HttpOrigin | None = Field(None, description="The other service, without /delegate_task.")
    delegate_token: SecretStr | None = Field(None, description="Bearer token for it.")
    fallback_api: Literal["anthropic", "openai"] | None = Field(
        None,
        description="anthropic or openai: the kind of API that the fallback's model is asked through, the provider's "
        "own or a compatible one. Empty: no model, every answer of the fallback says so.",
    )
    fallback_model: str | None = Field(None, description="The fallback's model, as its API names it.")
    fallback_api_key: SecretStr | None = Field(None, description="Key for that API.")
    fallback_base_url: HttpOrigin | None = Field(
        None, description="A compatible API elsewhere, as its SDK wants it. Empty: the provider's own."
    )
    fallback_max_tokens: PositiveInt = Field(4096, description="Tokens of an answer of the fallback.")
    orchestrator_calls: PositiveInt = Field(
        100, description="Calls that one worker process keeps up at once; they take no worker thread."
    )


class WorkSettings(SettingGroup):
    title = "Workers, listener and scheduler"

    worker_concurrency: PositiveInt = Field(32, description="Threads of one Celery worker process.")
    worker_send_events: bool = Field(
        True, description="Task events for Flower. About 0.4 ms of CPU per message; false blinds Flower."
    )
    task_timeout_s: PositiveFloat = Field(
        55, le=60, description="Seconds after which a task is cancelled; below the broker's redelivery by far."
    )
    lease_s: float = Field(
        10,
        ge=3,
        description="Seconds for which a claimed row is ours without renewal; a call needs one and a half of them.",
    )
    fair_half_life_s: PositiveFloat = Field(
        300,
        description="Seconds after which what an organization has used counts half when it is about whose turn it is.",
    )
    fair_expected_run_s: PositiveFloat = Field(
        30, description="Seconds that a run is expected to take, of an organization of which none has ended lately."
    )
    fair_aged_after_s: PositiveFloat = Field(
        600,
        description="Seconds after which a waiting request goes first now and then, whoever's turn it is.",
    )
    fair_kept_free: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Of all places for runs, what an organization that has its share leaves free while others were "
        "active in the last half hour: so whoever comes finds a place at once. With 0 it may take them all.",
    )
    batch_share: float = Field(
        0.8, ge=0, le=1, description="Share of the capacity that requests of priority batch may occupy at most."
    )
    claim_batch: PositiveInt = Field(32, description="Rows at most that one task takes.")
    hint_flag_ms: int = Field(
        1000, ge=1, le=1000, description="Milliseconds for which one hint stands for all of its kind."
    )
    trusted_broker_organization: str | None = Field(
        None, description="Organization that unsigned broker submissions belong to. Empty: unsigned ones are refused."
    )
    max_lone_deliveries: PositiveInt = Field(
        5, description="How often a row may be taken alone without a result before it is set aside."
    )
    retry_slack_events_max_attempts: PositiveInt = Field(8, description="Tries of an incoming Slack event.")
    retry_slack_events_first_wait_s: PositiveFloat = Field(1, description="Seconds before its second try, at most.")
    retry_slack_events_max_wait_s: PositiveFloat = Field(60, description="Seconds between two tries, at most.")
    retry_orchestration_max_attempts: PositiveInt = Field(6, description="Tries of an execution.")
    retry_orchestration_first_wait_s: PositiveFloat = Field(2, description="Seconds before its second try, at most.")
    retry_orchestration_max_wait_s: PositiveFloat = Field(120, description="Seconds between two tries, at most.")
    retry_notifications_max_attempts: PositiveInt = Field(12, description="Tries of a Slack post or webhook.")
    retry_notifications_first_wait_s: PositiveFloat = Field(1, description="Seconds before its second try, at most.")
    retry_notifications_max_wait_s: PositiveFloat = Field(300, description="Seconds between two tries, at most.")
    scheduler_tick_s: PositiveFloat = Field(1, description="Seconds between the scheduler's looks for waiting rows.")
    scheduler_hint_after_s: PositiveFloat = Field(2, description="Age at which a waiting row is hinted again.")
    scheduler_reconcile_s: PositiveFloat = Field(15, description="Seconds between comparisons with each server.")
    scheduler_retention_interval_s: PositiveFloat = Field(300, description="Seconds between deletions of old rows.")
    listener_lease_s: PositiveFloat = Field(10, description="Seconds after which another listener takes over.")
    mapping_keep_h: PositiveInt = Field(
        24, description="Hours to keep session mappings in the cache; PostgreSQL knows them for longer."
    )
    progress_keep_s: PositiveInt = Field(3600, description="Seconds to keep a progress stream after its last event.")
    retention_executions_days: PositiveInt = Field(90, description="Days to keep finished executions.")
    retention_inbound_days: PositiveInt = Field(
        14, description="Days to keep handled Slack events and what was told about them."
    )
    retention_tool_calls_days: PositiveInt = Field(
        30, description="Days to keep tool calls; their arguments and results go with them."
    )
    retention_dead_letters_days: PositiveInt = Field(90, description="Days to keep resolved dead letters.")
    retention_audit_days: PositiveInt = Field(365, description="Days to keep the audit log.")


class ToolSettings(SettingGroup):
    title = "Tools of organizations (MCP)"

    tool_commands_file: Path | None = Field(
        None,
        description="YAML catalogue of MCP servers that may be started by a command; organizations choose by name. "
        "Empty: none.",
    )
    tool_oauth_timeout_s: float = Field(
        10, gt=0, le=30, description="Seconds that one call to a provider's authorization server may take."
    )
    tool_call_timeout_s: float = Field(
        60, ge=1, le=300, description="Seconds that an organization's server may take for the answer to a tool call."
    )
    tool_sessions: PositiveInt = Field(200, description="Sessions with tool servers that a process keeps at once.")
    tool_sessions_per_organization: PositiveInt = Field(
        20, description="Of those, for one organization. A call that needs one more waits for seconds, then is refused."
    )
    tool_processes: PositiveInt = Field(20, description="Of tool_sessions, servers that were started by a command.")
    tool_processes_per_organization: PositiveInt = Field(5, description="Of those, for one organization.")
    tool_check_timeout_s: PositiveFloat = Field(20, description="Seconds that the check of one connection may take.")


class FlowerSettings(SettingGroup):
    title = "Flower"

    flower_host: str = Field("127.0.0.1", description="Address that Flower listens on.")
    flower_port: Port = Field(5555, description="Port that Flower listens on.")
    flower_basic_auth: BasicAuth | None = Field(None, description="user:password; Flower does not start without.")
    flower_cookie_secret: SecretStr | None = Field(None, description="Signs Flower's cookies; fixed, or logins end.")


GROUPS: tuple[type[SettingGroup], ...] = (
    ProcessSettings,
    StoreSettings,
    GatewaySettings,
    SlackSettings,
    OpenCodeSettings,
    OrchestratorSettings,
    WorkSettings,
    ToolSettings,
    FlowerSettings,
)
