"""A headless Chromium for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 60_000
"""How long anything on a page is waited for: machines that run tests are slow at times."""
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine's PATH")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """The machine's Chromium. As root it runs without its sandbox."""
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield found
        finally:
            await found.close()


async def tab(chromium: Browser, **how: Any) -> Page:
    """A page in a context of its own, 1280 x 900 unless ``how`` says otherwise."""
    context: BrowserContext = await chromium.new_context(
        **{"viewport": {"width": 1280, "height": 900}, **how}
    )
    context.set_default_timeout(PATIENCE_MS)
    return await context.new_page()


def complaints(page: Page, *, expected: tuple[str, ...] = ()) -> list[str]:
    """A list that fills with what the page's console complains of, but for messages with an ``expected`` part."""
    found: list[str] = []

    def said(message: ConsoleMessage) -> None:
        known = any(part in f"{message.text} {message.location.get('url', '')}" for part in expected)
        if message.type in ("error", "warning") and not known:
            found.append(f"{message.text} at {message.location}")

    page.on("console", said)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found
