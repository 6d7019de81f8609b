"""`python -m nubabel_workers.simulators.slack --port 8090 --events-url http://127.0.0.1:8000/slack/events`"""

import argparse
import asyncio
import contextlib
import os
import signal

from nubabel_workers.simulators.slack.limits import RateLimits
from nubabel_workers.simulators.slack.server import SlackSimulator, SlackSimulatorOptions

# Secrets may come from here instead of the command line, where every user of the machine can read them.
_SIGNING_SECRET_VARIABLE = "SLACK_SIMULATOR_SIGNING_SECRET"  # noqa: S105 - a variable's name
_APP_TOKEN_VARIABLE = "SLACK_SIMULATOR_APP_TOKEN"  # noqa: S105 - a variable's name


def _options() -> SlackSimulatorOptions:
    defaults = SlackSimulatorOptions()
    parser = argparse.ArgumentParser(description="A local Slack for development, demos and tests.")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0: any free one")
    parser.add_argument("--events-url", help="Events API receiver; without it events go through Socket Mode")
    parser.add_argument("--signing-secret", default=os.environ.get(_SIGNING_SECRET_VARIABLE, defaults.signing_secret))
    parser.add_argument("--app-token", default=os.environ.get(_APP_TOKEN_VARIABLE, defaults.app_token))
    parser.add_argument("--team", action="append", help="workspace id; may be repeated")
    parser.add_argument("--time-scale", type=float, default=1.0, help="of the waits between deliveries of an event")
    parser.add_argument("--real-limits", action="store_true", help="one post a second per channel")
    parser.add_argument("--reads-per-minute", type=float, help="limit of conversations.replies per workspace")
    parser.add_argument("--no-echo", action="store_true", help="don't deliver the bot's own messages as events")
    arguments = parser.parse_args()
    return SlackSimulatorOptions(
        host=arguments.host,
        port=arguments.port,
        events_url=arguments.events_url,
        signing_secret=arguments.signing_secret,
        app_token=arguments.app_token,
        teams=tuple(arguments.team or defaults.teams),
        limits=RateLimits(
            posts_per_channel_per_s=1.0 if arguments.real_limits else None,
            reads_per_minute=arguments.reads_per_minute,
        ),
        time_scale=arguments.time_scale,
        echo_own_messages=not arguments.no_echo,
    )


async def _serve(options: SlackSimulatorOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with SlackSimulator(options) as simulator:
        print(f"Local Slack: {simulator.base_url}/  Web API: {simulator.api_url}", flush=True)  # noqa: T201 - its output
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(_options()))
