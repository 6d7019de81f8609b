"""The list of agents, as plain OpenCode and as oh-my-opencode's plugin make the server send it."""

import orjson

from nubabel_workers.adapters.opencode.decoding import decode_agents


def test_null_counts_as_left_out() -> None:
    body = orjson.dumps(
        [
            {"name": "Sisyphus - ultraworker", "mode": "primary", "hidden": None, "description": None},
            {"name": "build", "mode": "subagent", "hidden": True, "description": "builds"},
        ]
    )

    sisyphus, build = decode_agents(body)

    assert (sisyphus.name, sisyphus.hidden, sisyphus.description) == ("Sisyphus - ultraworker", False, "")
    assert (build.hidden, build.description) == (True, "builds")
