"""A headless Chromium for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine's PATH")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """The machine's Chromium. As root it runs without its sandbox."""
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield found
        finally:
            await found.close()


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
