"""Pages in a real browser: what a person reads there, and what the browser complains about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from tests.browser.chromium import Chromium

_WITHIN_MS = 30_000
_LOOPBACK_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@dataclass
class Seen:
    """A page, and the browser's complaints about it: errors of its scripts, what it could not load."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("requestfailed", self._failed)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page went away before it had come
            self.complaints.append(f"not loaded: {request.url}: {request.failure}")


@asynccontextmanager
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    """It reaches nothing but this machine, whatever a page asks for."""
    expect.set_options(timeout=_WITHIN_MS)  # of its own 5 s a busy machine takes some for nothing
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=chromium.executable,
            env={**chromium.environment},
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", _LOOPBACK_ONLY],
            timeout=_WITHIN_MS,
        )
        try:
            yield running
        finally:
            await running.close()


@asynccontextmanager
async def opened(running: Browser, url: str, *, login: tuple[str, str] | None = None) -> AsyncIterator[Seen]:
    credentials = {"username": login[0], "password": login[1]} if login is not None else None
    context = await running.new_context(http_credentials=credentials)  # type: ignore[arg-type]
    context.set_default_timeout(_WITHIN_MS)
    try:
        seen = Seen(await context.new_page())
        seen.watch()
        await seen.page.goto(url)
        yield seen
    finally:
        await context.close()
