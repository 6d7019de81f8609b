"""Forking a simulated session: its messages under new ids in a new session."""

import copy
import re

from nubabel_workers.simulators.opencode import wire_forms
from nubabel_workers.simulators.opencode.identifiers import IdSource
from nubabel_workers.simulators.opencode.state import Message, SimulatedSession, Store
from nubabel_workers.simulators.opencode.telling import Teller

_FORK_NUMBER = re.compile(r"(.*) \(fork #(\d+)\)", re.DOTALL)


class Forks:
    def __init__(self, store: Store, ids: IdSource, tell: Teller) -> None:
        self._store = store
        self._ids = ids
        self._tell = tell

    def fork(self, origin: SimulatedSession, *, before: str | None) -> SimulatedSession:
        """Messages before that one, all of them if it is unknown. Title and metadata are kept, choices are not."""
        given = {"metadata": origin.info["metadata"]} if "metadata" in origin.info else {}
        info = wire_forms.session_info(
            self._ids.new("ses"), directory=origin.directory, title=_fork_title(origin.info["title"]), given=given
        )
        session = self._store.add(SimulatedSession(info))
        self._tell.session_created(session)
        new_ids: dict[str, str] = {}
        for message in list(origin.messages.values()):
            if message.id == before:
                break
            self._copy(message, session, new_ids)
        return session

    def _copy(self, message: Message, session: SimulatedSession, new_ids: dict[str, str]) -> None:
        info = copy.deepcopy(message.info) | {"id": self._ids.new("msg"), "sessionID": session.id}
        new_ids[message.id] = info["id"]
        if "parentID" in info:
            info["parentID"] = new_ids.get(info["parentID"], info["parentID"])
        copied = session.add(Message(info))
        if copied.is_user:
            self._store.owners[copied.id] = session
        self._tell.message(session, copied)
        for part in message.parts:
            copied.parts.append(
                copy.deepcopy(part) | {"id": self._ids.new("prt"), "messageID": copied.id, "sessionID": session.id}
            )
            self._tell.part(session, copied.parts[-1])


def _fork_title(title: str) -> str:
    forked = _FORK_NUMBER.fullmatch(title)
    return f"{forked[1]} (fork #{int(forked[2]) + 1})" if forked is not None else f"{title} (fork #1)"
