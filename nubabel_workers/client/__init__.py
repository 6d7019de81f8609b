"""For upstream services: submit requests to Nubabel, follow them, read their answers.

    with NubabelClient("https://nubabel.example.com", token) as client:
        submitted = client.submit(SubmitRequest(prompt="Which tests are missing?", idempotency_key="order-4711"))
        print(client.wait(submitted.id, timeout_s=600).output)

`AsyncNubabelClient` is the same for asyncio; `BrokerProducer` publishes signed requests straight to the broker.
"""

from nubabel_workers.client.asynchronous import AsyncNubabelClient
from nubabel_workers.client.blocking import NubabelClient
from nubabel_workers.client.broker import BrokerProducer, Published
from nubabel_workers.client.connection import Timeouts
from nubabel_workers.client.errors import (
    ApiError,
    AuthenticationError,
    ConnectionFailedError,
    ExecutionNotFoundError,
    ForbiddenError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    NotAcceptedError,
    NubabelClientError,
    TooManyRequestsError,
    UnavailableError,
    WaitTimeoutError,
)
from nubabel_workers.client.protocol import RetryLimits
from nubabel_workers.client.results import (
    Batch,
    BatchItem,
    Delegated,
    Execution,
    Failure,
    ProgressEvent,
    Submitted,
    SubmittedBatch,
    Usage,
    WaitingFor,
)
from nubabel_workers.domain.delegation import DelegateRequest
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.submission import AskedRequest, BatchRequest, SubmitRequest

__all__ = [
    "ApiError",
    "AskedRequest",
    "AsyncNubabelClient",
    "AuthenticationError",
    "Batch",
    "BatchItem",
    "BatchRequest",
    "BrokerProducer",
    "ConnectionFailedError",
    "DelegateRequest",
    "Delegated",
    "Execution",
    "ExecutionNotFoundError",
    "Failure",
    "ForbiddenError",
    "IdempotencyKeyReusedError",
    "InvalidRequestError",
    "NotAcceptedError",
    "NubabelClient",
    "NubabelClientError",
    "ProgressEvent",
    "Published",
    "RetryLimits",
    "Status",
    "SubmitRequest",
    "Submitted",
    "SubmittedBatch",
    "Timeouts",
    "TooManyRequestsError",
    "UnavailableError",
    "Usage",
    "WaitTimeoutError",
    "WaitingFor",
]
