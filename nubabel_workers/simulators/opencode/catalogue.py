"""What a simulated server tells of itself: agents, models and their keys, configuration, skills, MCP servers."""

from typing import Any

from aiohttp import web

from nubabel_workers.simulators.opencode.answers import RefusedError, bad_request, json_answer, read_body
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.state import Json

_AUTH_KEYS = {"api": ("key",), "oauth": ("refresh", "access", "expires"), "wellknown": ("key", "token")}
_SKILL = {
    "name": "customize-opencode",
    "description": "Use ONLY when the user is editing or creating opencode's own configuration.",
    "location": "<built-in>",
    "content": "# Customizing opencode",
}


class Catalogue:
    """Handlers of routes that belong to no session. provider_keys: what was set, in OpenCode's form."""

    def __init__(self, settings: SimulatorConfig) -> None:
        self.provider_keys: dict[str, Json] = {}
        self._settings = settings

    async def health(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer({"healthy": True, "version": self._settings.version})

    async def agents(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        shown = [
            {"name": a.name, "mode": a.mode, "native": a.name in {"build", "plan"}, "permission": [], "options": {}}
            | {"hidden": a.hidden or None}  # oh-my-opencode's agents have null where theirs is not set
            for a in self._settings.agents
        ]
        return json_answer(shown)

    async def offered_tools(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        """The delegating tool only, in the words of oh-my-opencode."""
        listed = "\n".join(f"  - {name}: {meaning}" for name, meaning in self._settings.categories.items())
        words = f"  - category: Use predefined category\n    Available categories:\n  {listed}\n  - subagent_type: ..."
        return json_answer([{"id": "task", "description": words, "parameters": {}}])

    async def config(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        denied = dict.fromkeys(("question", "doom_loop", "external_directory"), "deny")
        return json_answer({"model": self._settings.models[0], "share": "disabled", "plugin": [], "permission": denied})

    async def configured_providers(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer({"providers": self._providers(), "default": self._defaults()})

    async def all_providers(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        """Every provider that the model list names has what it needs."""
        connected = [provider["id"] for provider in self._providers()]
        return json_answer({"all": self._providers(), "default": self._defaults(), "connected": connected})

    async def auth_methods(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer({})

    async def set_auth(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        """Any provider's id is taken, unknown fields are ignored."""
        given = await read_body(request, bad=bad_request("Expected Auth", "Payload"))
        needed = _AUTH_KEYS.get(given.get("type", ""))
        if needed is None:
            raise RefusedError(400, bad_request("Expected Auth, got another object", "Payload"))
        if missing := [name for name in needed if name not in given]:
            raise RefusedError(400, bad_request(f'Missing key\n  at ["{missing[0]}"]', "Payload"))
        self.provider_keys[ids[0]] = given
        return json_answer(data=True)

    async def remove_auth(self, _request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        self.provider_keys.pop(ids[0], None)
        return json_answer(data=True)

    async def skills(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer([_SKILL])

    async def mcp_status(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer({})

    def _providers(self) -> list[Json]:
        models: dict[str, dict[str, Json]] = {}
        for name in self._settings.models:
            provider, _, model = name.partition("/")
            models.setdefault(provider, {})[model] = {"id": model, "providerID": provider}
        return [{"id": p, "name": p.capitalize(), "source": "config", "models": m} for p, m in models.items()]

    def _defaults(self) -> dict[str, Any]:
        return {provider["id"]: next(iter(provider["models"])) for provider in self._providers()}
