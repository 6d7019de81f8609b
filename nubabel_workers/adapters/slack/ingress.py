"""How Slack's events come in, over HTTP or a socket: verified, handed to `accept`, and only then acknowledged.

slack_bolt checks the signature and the age of a request, answers URL verification and drops our bot's own events.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from logging import WARNING, getLogger
from typing import Any, Final

import structlog
from pydantic import SecretStr
from slack_bolt import BoltResponse
from slack_bolt.adapter.starlette.async_handler import to_async_bolt_request, to_starlette_response
from slack_bolt.async_app import AsyncApp, AsyncBoltContext, AsyncBoltRequest
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.middleware.async_middleware import AsyncMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nubabel_workers.domain.errors import InvalidInputError, TransientError

log = structlog.get_logger(__name__)

# Slack wants its answer within 3 s; a slower store becomes a redelivery, never a loss.
ACCEPT_TIMEOUT_S: Final = 2.0

# Events, and presses of buttons. Slack delivers the latter once: what is not acknowledged shows a warning to whoever
# pressed, who may press again. A tuple, since what stands there may be anything, also what has no hash.
_ACCEPTED: Final = ("event_callback", "block_actions")

# What the middlewares leave in the context of a request.
_UNKNOWN_WORKSPACE: Final = "nubabel_unknown_workspace"
_STORE_AWAY: Final = "nubabel_store_away"
_ANSWER_BY: Final = "nubabel_answer_by"


@dataclass(frozen=True, slots=True)
class InstalledBot:
    """Our bot in one workspace, as far as recognising its own messages needs it."""

    bot_user_id: str
    bot_id: str | None = None


FindBot = Callable[[str | None, str | None], Awaitable[InstalledBot | None]]  # (enterprise_id, team_id)
Accept = Callable[[dict[str, Any]], Awaitable[None]]
EventsApiHandler = Callable[[Request], Awaitable[Response]]


def slack_app(
    *,
    signing_secret: SecretStr | None,
    find_bot: FindBot,
    accept: Accept,
    accept_timeout_s: float = ACCEPT_TIMEOUT_S,
) -> AsyncApp:
    """Build the Bolt app that passes every event to accept(outer body).

    signing_secret: None for Socket Mode only. find_bot: None for a workspace that we don't know; its events are
    acknowledged and logged, since redelivering them would not help. accept must store, not work: whatever either raises
    leaves the event unacknowledged, so that Slack delivers it again, as do both together when they take longer than
    accept_timeout_s. What accept has begun by then it ends all the same: under load, work that is thrown away and asked
    for again would make everything later still. So it needs time limits of its own, and must bear the repetition.
    Only an InvalidInputError is final: such a body stays as it is, however often it comes.
    """
    app = AsyncApp(
        name="nubabel",
        logger=_quiet_bolt_logger(),
        signing_secret=signing_secret.get_secret_value() if signing_secret is not None else secrets.token_hex(32),
        authorize=_authorize_with(find_bot, accept_timeout_s),
        process_before_response=True,  # for listeners that may come: by default Bolt acknowledges before it works
    )
    # A middleware and not a listener: it sees every payload, while listeners leave unknown types with 404, which
    # Slack counts as a failure and delivers again.
    app.middleware(_Acceptance(accept, accept_timeout_s))
    return app


def events_api_handler(app: AsyncApp) -> EventsApiHandler:
    """An endpoint for POST requests of the Events API. Bodies that can't be read are refused before Bolt sees them."""

    async def handle(request: Request) -> Response:
        body = await request.body()
        try:
            bolt_request = to_async_bolt_request(request, body)
        except Exception:  # noqa: BLE001 - Bolt parses before it verifies: whatever garbage raises, it is no request
            return JSONResponse({"error": "unreadable request"}, status_code=400)
        return to_starlette_response(await dispatch(app, bolt_request))

    return handle


async def dispatch(app: AsyncApp, request: AsyncBoltRequest) -> BoltResponse:
    """What Bolt makes of the request; 400 for a body that Bolt's own middleware, or a look for its workspace, would
    fall over.
    """
    whose = (request.context.enterprise_id, request.context.team_id)
    if not isinstance(request.body.get("event", {}), dict) or not all(isinstance(one, str | None) for one in whose):
        return BoltResponse(status=HTTPStatus.BAD_REQUEST)
    return await app.async_dispatch(request)


def _quiet_bolt_logger() -> Any:
    """Bolt logs the body of a request with a bad signature at level INFO, and builds debug lines for every event."""
    logger = getLogger("slack_bolt.quiet")
    logger.setLevel(WARNING)
    return logger


def _authorize_with(find_bot: FindBot, timeout_s: float) -> Callable[..., Awaitable[AuthorizeResult]]:
    async def authorize(enterprise_id: str | None, team_id: str | None, context: AsyncBoltContext) -> AuthorizeResult:
        """Never None: Bolt would answer an unknown workspace's event with a message for its users."""
        context[_ANSWER_BY] = asyncio.get_running_loop().time() + timeout_s
        bot = None
        try:
            async with asyncio.timeout_at(context[_ANSWER_BY]):
                bot = await find_bot(enterprise_id, team_id)
            context[_UNKNOWN_WORKSPACE] = bot is None
        except (TransientError, TimeoutError) as error:
            context[_STORE_AWAY] = str(error) or "took too long"
        return AuthorizeResult(
            enterprise_id=enterprise_id,
            team_id=team_id,
            bot_user_id=bot.bot_user_id if bot is not None else None,
            bot_id=bot.bot_id if bot is not None else None,
        )

    return authorize


class _Acceptance(AsyncMiddleware):
    """The last middleware: hands the body over and answers; no listener runs after it."""

    def __init__(self, accept: Accept, timeout_s: float) -> None:
        self._accept = accept
        self._timeout_s = timeout_s
        self._accepting: set[asyncio.Future[None]] = set()  # the event loop itself keeps no tasks alive

    async def async_process(
        self,
        *,
        req: AsyncBoltRequest,
        resp: BoltResponse,  # noqa: ARG002 - Bolt passes it by name
        next: Callable[[], Awaitable[BoltResponse]],  # noqa: A002, ARG002 - Bolt's name; nothing comes next
    ) -> BoltResponse:
        body = req.body
        if body.get("type") not in _ACCEPTED:
            log.info("slack.payload_ignored", type=str(body.get("type"))[:40])
            return BoltResponse(status=200)
        if req.context.get(_UNKNOWN_WORKSPACE):
            log.warning("slack.unknown_workspace", team_id=req.context.team_id, enterprise_id=req.context.enterprise_id)
            return BoltResponse(status=200)
        return BoltResponse(status=await self._status(body, req.context))

    async def _status(self, body: dict[str, Any], context: AsyncBoltContext) -> int:
        """The HTTP status that tells Slack what became of the event; anything but 200 and it comes again."""
        if context.get(_STORE_AWAY):
            log.warning("slack.accept_failed", event_id=body.get("event_id"), error=context[_STORE_AWAY])
            return 503
        answer_by = context.get(_ANSWER_BY)  # missing where Bolt asks for no bot: the app was removed
        try:
            async with asyncio.timeout_at(answer_by or asyncio.get_running_loop().time() + self._timeout_s):
                await asyncio.shield(self._begin(body))
        except InvalidInputError as error:
            # No bug of ours, hence without a traceback.
            log.error("slack.event_refused", event_id=body.get("event_id"), error=str(error))  # noqa: TRY400 - see above
            return 200
        except (TransientError, TimeoutError) as error:  # a slow or missing store: tracebacks would slow it further
            log.warning("slack.accept_failed", event_id=body.get("event_id"), error=str(error) or "took too long")
            return 503
        except Exception:
            log.exception("slack.accept_failed", event_id=body.get("event_id"))
            return 500
        return 200

    def _begin(self, body: dict[str, Any]) -> "asyncio.Future[None]":
        accepting = asyncio.ensure_future(self._accept(body))
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)
        return accepting
