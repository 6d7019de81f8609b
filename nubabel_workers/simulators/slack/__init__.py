"""A local Slack: Web API, Events API, Socket Mode, and a page to talk through. For demo, tests and load."""

from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from nubabel_workers.simulators.slack.model import Message, Workspace
from nubabel_workers.simulators.slack.server import SlackSimulator, SlackSimulatorOptions

__all__ = ["Fault", "FaultKind", "Message", "SlackSimulator", "SlackSimulatorOptions", "Workspace"]
