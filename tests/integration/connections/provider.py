"""A provider of the tests' own: an MCP server behind OAuth 2.1, as strict as the strictest known.

Refresh tokens are replaced at each use; a second use of an old one ends the whole grant, as Notion does.
"""

import asyncio
import base64
import hashlib
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from aiohttp import web


@dataclass
class Family:
    """One grant: ended as a whole."""

    access: str
    refresh: str
    used_up: set[str] = field(default_factory=set)
    ended: bool = False


@dataclass
class Provider:
    """What it says can be changed by a test: documents, issuer in the answer, how the token endpoint fails."""

    base: str = ""
    documents: dict[str, dict[str, Any] | str] = field(default_factory=dict)  # a text: a redirect there
    names_metadata: str = ""  # in its 401; empty: where they are
    expires_in: int | None = 3600
    answers_with_issuer: str | None = ""  # empty: its own
    token_trouble: list[str] = field(default_factory=list)  # of the next calls: "500", "429", "lost", "refused"
    calls: Counter[str] = field(default_factory=Counter)
    token_forms: list[dict[str, str]] = field(default_factory=list)
    token_authorizations: list[str] = field(default_factory=list)
    registrations: list[dict[str, Any]] = field(default_factory=list)
    clients: dict[str, str | None] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    families: list[Family] = field(default_factory=list)
    hold_tokens: asyncio.Event | None = None  # the token endpoint waits for it, after it took effect
    tools: list[str] = field(default_factory=lambda: ["search", "fetch"])

    @property
    def mcp_url(self) -> str:
        return f"{self.base}/mcp"

    def publish(self, *, says_issuer: bool = True, registers: bool = True, revokes: bool = True) -> None:
        self.documents = {
            "/.well-known/oauth-protected-resource/mcp": {
                "resource": self.mcp_url,
                "authorization_servers": [self.base],
                "scopes_supported": ["read", "write"],
            },
            "/.well-known/oauth-authorization-server": {
                "issuer": self.base,
                "authorization_endpoint": f"{self.base}/authorize",
                "token_endpoint": f"{self.base}/token",
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "authorization_response_iss_parameter_supported": says_issuer,
            }
            | ({"registration_endpoint": f"{self.base}/register"} if registers else {})
            | ({"revocation_endpoint": f"{self.base}/revoke"} if revokes else {}),
        }

    def server_document(self) -> dict[str, Any]:
        found = self.documents["/.well-known/oauth-authorization-server"]
        assert isinstance(found, dict)
        return found

    def resource_document(self) -> dict[str, Any]:
        found = self.documents["/.well-known/oauth-protected-resource/mcp"]
        assert isinstance(found, dict)
        return found

    def accepts(self, authorization: str | None) -> bool:
        return any(f"Bearer {one.access}" == authorization and not one.ended for one in self.families)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/register", self._register)
        app.router.add_post("/token", self._token)
        app.router.add_post("/revoke", self._revoke)
        app.router.add_route("*", "/mcp", self._mcp)
        app.router.add_get("/{path:.*}", self._document)
        return app

    async def _document(self, request: web.Request) -> web.StreamResponse:
        self.calls["document"] += 1
        found = self.documents.get(request.path)
        if found is None:
            raise web.HTTPNotFound
        if isinstance(found, str):
            raise web.HTTPFound(found)
        return web.json_response(found)

    async def _register(self, request: web.Request) -> web.StreamResponse:
        self.calls["register"] += 1
        asked = await request.json()
        self.registrations.append(asked)
        client_id, secret = f"client-{len(self.registrations)}", secrets.token_hex(8)
        self.clients[client_id] = secret
        return web.json_response({**asked, "client_id": client_id, "client_secret": secret}, status=201)

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        """Somebody agrees at once."""
        self.calls["authorize"] += 1
        asked = dict(request.query)
        code = secrets.token_hex(8)
        self.codes[code] = asked
        issuer = self.base if self.answers_with_issuer == "" else self.answers_with_issuer
        back = {"code": code, "state": asked["state"]} | ({"iss": issuer} if issuer else {})
        raise web.HTTPFound(f"{asked['redirect_uri']}?{urlencode(back)}")

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = dict(parse_qsl(await request.text()))
        self.calls[form["grant_type"]] += 1
        self.token_forms.append(form)
        self.token_authorizations.append(request.headers.get("Authorization", ""))
        trouble = self.token_trouble.pop(0) if self.token_trouble else ""
        if trouble in {"500", "429"}:
            return web.json_response({}, status=int(trouble))
        if trouble == "refused" or not self._is_client(form, request):
            return web.json_response({"error": "invalid_client"}, status=401)
        granted = self._granted(form)
        if self.hold_tokens is not None:
            await self.hold_tokens.wait()
        if trouble == "lost":  # it took effect, and nobody hears of it
            assert request.transport is not None
            request.transport.close()
        if granted is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        lasts = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return web.json_response(
            {"access_token": granted.access, "refresh_token": granted.refresh, "token_type": "bearer", **lasts}
        )

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        """RFC 7009, section 2: a refresh token ends its grant; a token that is not known is a success too."""
        form = dict(parse_qsl(await request.text()))
        self.calls["revoke"] += 1
        if not self._is_client(form, request):
            return web.json_response({"error": "invalid_client"}, status=401)
        for family in self.families:
            family.ended = family.ended or form["token"] in {family.refresh, family.access}
        return web.Response()

    def _is_client(self, form: dict[str, str], request: web.Request) -> bool:
        shown = request.headers.get("Authorization", "")
        if shown.startswith("Basic "):
            client_id, _, secret = base64.b64decode(shown.removeprefix("Basic ")).decode().partition(":")
            return self.clients.get(unquote(client_id), "") == unquote(secret)
        return form.get("client_id") in self.clients and self.clients[form["client_id"]] == form.get("client_secret")

    def _granted(self, form: dict[str, str]) -> Family | None:
        if form["grant_type"] == "authorization_code":
            return self._of_code(form)
        family = next((one for one in self.families if form["refresh_token"] in {one.refresh, *one.used_up}), None)
        if family is None or family.ended:
            return None
        if form["refresh_token"] in family.used_up:
            family.ended = True
            return None
        family.used_up.add(family.refresh)
        family.access, family.refresh = secrets.token_hex(8), secrets.token_hex(8)
        return family

    def _of_code(self, form: dict[str, str]) -> Family | None:
        asked = self.codes.pop(form["code"], None)
        if asked is None or asked["redirect_uri"] != form["redirect_uri"] or asked["resource"] != form["resource"]:
            return None
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return None
        family = Family(secrets.token_hex(8), secrets.token_hex(8))
        self.families.append(family)
        return family

    async def _mcp(self, request: web.Request) -> web.StreamResponse:
        self.calls["mcp"] += 1
        if not self.accepts(request.headers.get("Authorization")):
            place = self.names_metadata or f"{self.base}/.well-known/oauth-protected-resource/mcp"
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": f'Bearer resource_metadata="{place}"'})
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], **self._answer(message)})

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["method"]:
            case "initialize":
                result = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "provider", "version": "1"},
                }
            case "tools/list":
                result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools]}
            case _:
                return {"error": {"code": -32601, "message": "no such method"}}
        return {"result": result}
