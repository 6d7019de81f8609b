"""What the services need from the outside, as small protocols. Adapters implement them, fakes in the tests too.

Every method may raise the errors of `domain.errors`; stores raise TransientError while the database is away.
"""

from nubabel_workers.domain.ports.outside import (
    Messenger,
    OpenCodeEvents,
    OpenCodeServer,
    OpenCodeServers,
    PromptPart,
    WebhookSender,
)
from nubabel_workers.domain.ports.process import (
    Chance,
    Clock,
    Incident,
    Incidents,
)
from nubabel_workers.domain.ports.shared_state import (
    CircuitBreakers,
    HintPublisher,
    ProgressStream,
    SessionMapping,
    SessionMappings,
    Throttle,
)
from nubabel_workers.domain.ports.stores import (
    Accepted,
    ClaimedCheck,
    ClaimedDispatch,
    ClaimedInbound,
    ClaimedNotification,
    DeadLetterStore,
    ExecutionStore,
    Finish,
    Finished,
    InboundStore,
    InstanceStore,
    MaintenanceStore,
    NotificationStore,
    Started,
    TenantStore,
    WaitingStore,
)

__all__ = [
    "Accepted",
    "Chance",
    "CircuitBreakers",
    "ClaimedCheck",
    "ClaimedDispatch",
    "ClaimedInbound",
    "ClaimedNotification",
    "Clock",
    "DeadLetterStore",
    "ExecutionStore",
    "Finish",
    "Finished",
    "HintPublisher",
    "InboundStore",
    "Incident",
    "Incidents",
    "InstanceStore",
    "MaintenanceStore",
    "Messenger",
    "NotificationStore",
    "OpenCodeEvents",
    "OpenCodeServer",
    "OpenCodeServers",
    "ProgressStream",
    "PromptPart",
    "SessionMapping",
    "SessionMappings",
    "Started",
    "TenantStore",
    "Throttle",
    "WaitingStore",
    "WebhookSender",
]
