"""What the plugin inside an OpenCode server tells, while nobody but it is heard: it signs each try anew."""

import time
from contextlib import suppress
from typing import Any

import httpx
import orjson

from nubabel_workers.client import SubmitRequest
from nubabel_workers.domain.credentials import callback_key_text
from tests.fakes.callbacks import signed_headers
from tests.faults.kill_points.conversations import Check, answers
from tests.faults.kill_points.lane import Lane

_KEY = callback_key_text(b"k" * 32)


async def reports_of_a_run(lane: Lane) -> Check:
    """Tools of a sub-agent while it works, then the end; an upstream service follows the session."""
    words = f"apples{lane.number():05d}"
    (server,) = await lane.ids("instances WHERE url = %(url)s", url=lane.opencode.url)
    await lane.services.instances.add_callback_key(server, _KEY, actor="tests")
    async with lane.client() as client, lane.http(timeout_s=10) as http:
        request = SubmitRequest(prompt=f"[[delay=0.6]] {answers('Done.')} {words}", idempotency_key=f"key-{words}")
        submitted = await client.submit(request)
        await lane.until(lambda: sum(lane.model_runs(words)) > 0, "the model's run")
        root = await _session_of(lane, submitted.id)
        child = (await http.post(f"{lane.opencode.url}/session", json={"title": words, "parentID": root})).json()["id"]

        async def told(path: str, body: dict[str, Any]) -> bool:
            raw = orjson.dumps(body)
            headers = signed_headers(path, raw, _KEY, now_s=int(time.time()), instance=server)
            with suppress(httpx.TransportError):
                return (await http.post(lane.url + path, content=raw, headers=headers)).is_success
            return False

        tool = {"type": "tool", "session_id": child, "call_id": words, "tool": "grep", "status": "running"}
        progress = f"/api/sidecar/sessions/{root}/progress"
        update = f"/api/sidecar/sessions/{root}/update"
        await lane.until_true(lambda: told(progress, {"items": [tool]}), "the progress's acceptance")
        idle = {"type": "session.idle", "session_id": root}
        await lane.until_true(lambda: told(update, idle), "the update's acceptance")
        ended = await client.wait(submitted.id, timeout_s=30)
        token = {"authorization": f"Bearer {lane.tenant.token.get_secret_value()}"}
        stream = f"{lane.url}/api/sidecar/sessions/{submitted.session_id}/stream"

        async def followed() -> bool:
            with suppress(httpx.TransportError):
                return "event: done" in (await http.get(stream, headers=token)).text
            return False

        await lane.until_true(followed, "the stream's end")

    def check() -> None:
        assert ended.output == "Done."
        assert lane.model_runs(words) == [1]

    return check


async def _session_of(lane: Lane, execution_id: str) -> str:
    row = await lane.services.database.system().one(
        "SELECT opencode_session_id FROM executions WHERE id = %(id)s", {"id": execution_id}
    )
    assert row is not None
    return str(row["opencode_session_id"])
