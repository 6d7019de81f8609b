"""The one error taxonomy (DESIGN.md section 8); adapters translate every outside error into it.

NubabelError
  TransientError          nothing took effect, a later try may succeed; retry_after_s when the other side said when
    RateLimitedError      the other side counts and said no
      LimitReachedError   the organization's own limit (`admission.py`)
    NotLookedThroughError there was no time to look through a prompt for what must not leave: it waits
    UnavailableError      not reachable, overloaded, restarting
      ProviderAwayError   away is somebody else's service, which the caller named: the message is for them
      ConnectionLostError gone in the middle of a call that is safe to repeat, but may have taken effect
  PermanentError          the same request can never succeed: a dead letter, the user is told
    InvalidInputError     what somebody sent does not fit; the message says what to change
    NotFoundError         the thing named does not exist (or belongs to another organization)
    CredentialsError      a token or password was refused; an administrator must act
      SecretUnreadableError  stored here, encrypted with a key that this process was not given
    PromptRefusedError    the organization's policy lets nothing like that leave; the caller is told what kind
    ForeignSessionError   OpenCode gave us what belongs to another: nothing of it is used, and somebody is told
  UncertainError          sent, no clear answer: look before repeating
  LeaseLostError          another process owns the row now; stop, write nothing
  IllegalTransitionError  a bug of ours: a state change that the state machine does not know
"""

from collections.abc import Sequence

from nubabel_workers.domain.foreign_ids import Sought


class NubabelError(Exception):
    """Anything this system raises on purpose. The message is safe to log: no secrets, no user text."""


class TransientError(NubabelError):
    """Nothing took effect; try again later, not before retry_after_s seconds if that is given."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitedError(TransientError):
    """The other side refused because of a limit; retry_after_s is its own word where it gave one."""


class NotLookedThroughError(TransientError):
    """A question that may hold what must not leave could not be looked through in time. The machine is busy, which is
    no failure of the request: it waits.
    """


class UnavailableError(TransientError):
    """The other side could not be reached or could not serve."""


class ProviderAwayError(UnavailableError):
    """Somebody else's service, which the caller named, is away: no insides of ours, so that the message is theirs."""


class ConnectionLostError(UnavailableError):
    """The other side went away in the middle: repeating is safe for us, but the call may have taken effect."""


class PermanentError(NubabelError):
    """Repeating the same request is pointless. code: a stable machine-readable word, e.g. `channel_not_found`."""

    def __init__(self, message: str, *, code: str = "permanent") -> None:
        super().__init__(message)
        self.code = code


class InvalidInputError(PermanentError):
    """Input does not fit; the message says what to change."""

    def __init__(self, message: str, *, code: str = "invalid_input") -> None:
        super().__init__(message, code=code)


class NotFoundError(PermanentError):
    """No such thing within the caller's scope. sought: what an organization named, for `ReportForeignIds`."""

    def __init__(self, message: str, *, code: str = "not_found", sought: Sought | None = None) -> None:
        super().__init__(message, code=code)
        self.sought = sought


class CredentialsError(PermanentError):
    """Credentials were refused; the tenant or the operator has to act before anything can succeed."""

    def __init__(self, message: str, *, code: str = "credentials_refused") -> None:
        super().__init__(message, code=code)


class SecretUnreadableError(CredentialsError):
    """A stored secret was encrypted with a key that is not configured; the secret itself may well be good."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="secret_unreadable")


class PromptRefusedError(PermanentError):
    """What was asked holds data that the organization's policy lets out under no name. kinds: of what, never what.

    files: the names of those in which it was found, as whoever sent them knows them.
    """

    def __init__(self, kinds: Sequence[str], *, files: Sequence[str] = ()) -> None:
        super().__init__(f"the prompt holds: {', '.join(kinds)}", code="sensitive_data")
        self.kinds = tuple(kinds)
        self.files = tuple(files)


class ForeignSessionError(PermanentError):
    """OpenCode spoke of a session that is another's than the one we asked about: the run stops."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="foreign_session")


class UncertainError(NubabelError):
    """A request was sent and its outcome is unknown: look it up before repeating it."""


class UnansweredError(UncertainError):
    """We gave up waiting: the other side may still act, so that for a while what is not there proves nothing."""


class LeaseLostError(NubabelError):
    """The row's lease ran out or was taken over; whatever was being done must stop and write nothing."""


class IllegalTransitionError(NubabelError):
    """A state change that the state machine does not allow."""
