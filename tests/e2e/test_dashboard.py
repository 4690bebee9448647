"""The dashboard of a running devnet, as a person sees it in a browser."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser import browser, complaints, needs_chromium, tab
from tests.e2e.mesh import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_chromium]

PARTS = ["querier", "trainer", "gating", "reward", "weights", "history"]


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser() as chromium:
        yield await tab(chromium, color_scheme="dark")


def skilled(mesh: Mesh) -> list[dict[str, Any]]:
    """The rows of miners with a score, once there are some."""

    def look() -> list[dict[str, Any]] | None:
        scores = mesh.cli("scores")
        rows = [row for row in scores["rows"] if row["score"] > 0]
        return rows if scores["events"] >= 20 and len(rows) > 5 else None

    return mesh.until(look, 240, "scores of some miners")


async def test_a_person_sees_the_mesh_asks_it_and_learns_why_a_miner_has_its_score(
    mesh: Mesh, page: Page, tmp_path: Path
) -> None:
    rows = skilled(mesh)
    mesh.until(lambda: mesh.cli("weights")["on_chain"] or None, 120, "weights are on the chain")
    said = complaints(page)

    await page.goto(f"{mesh.url}/")
    names = page.locator(".service h3")
    assert [name.lower() for name in await names.all_text_contents()] == PARTS
    await expect(page.locator(".service .chip")).to_have_text(["up"] * len(PARTS))
    await expect(page.locator(".service", has_text="weights")).to_contain_text("v0.")
    await expect(page.locator(".events li", has_text="answered")).not_to_have_count(0)
    await expect(page.locator(".tops li").first).to_contain_text("%")
    await expect(page.locator(".chart canvas")).to_have_count(1)
    background = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(13, 16, 20)"
    await page.screenshot(path=tmp_path / "overview.png", full_page=True)

    await page.get_by_role("navigation").get_by_role("link", name="Miners").click()
    uids = page.locator("tbody td:first-child")
    for row in rows:
        await expect(page.get_by_role("link", name=str(row["uid"]), exact=True)).to_be_visible()
    best = await uids.first.text_content()
    await page.screenshot(path=tmp_path / "miners.png", full_page=True)

    await uids.first.get_by_role("link").click()
    await expect(page.locator("h1")).to_have_text(f"Miner {best}")
    await expect(page.locator(".stats")).to_contain_text(re.compile(r"rank \d"))
    await expect(page.locator(".explain")).to_contain_text(re.compile(r"Rank \d+ with a score of 0\.\d+"))
    await expect(page.locator(".explain tbody tr")).not_to_have_count(0)
    await expect(page.locator(".chart canvas")).to_have_count(1)
    await page.screenshot(path=tmp_path / "miner.png", full_page=True)

    await page.get_by_role("navigation").get_by_role("link", name="Weights").click()
    await expect(page.locator("tbody .chip.good").first).to_have_text("landed")

    await page.get_by_role("navigation").get_by_role("link", name="Gating").click()
    await expect(page.locator(".stats")).to_contain_text("\u00d7")
    await expect(page.locator(".chart canvas")).to_have_count(1)

    await page.get_by_role("navigation").get_by_role("link", name="Ask").click()
    await page.fill("#question", "How do vaccines train the immune system?")
    await page.get_by_role("button", name="Ask", exact=True).click()
    answer = page.locator(".answer .text")
    await expect(answer).not_to_be_empty()
    await expect(page.locator(".completions > li")).to_have_count(8)
    await expect(page.locator(".completions .chip", has_text="ok").first).to_be_visible()
    await page.screenshot(path=tmp_path / "ask.png", full_page=True)

    await page.get_by_role("navigation").get_by_role("link", name="Events").click()
    asked = page.locator(".events li", has_text="inference").first
    await asked.get_by_role("link").click()
    await expect(page.locator(".prompt .text")).to_have_text("How do vaccines train the immune system?")

    await page.get_by_role("button", name="Switch to the light theme").click()
    background = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(245, 246, 248)"
    assert said == []


async def test_a_service_that_is_away_shows_as_away_and_comes_back(mesh: Mesh, page: Page) -> None:
    skilled(mesh)
    seen: list[Any] = []
    page.on(
        "response",
        lambda response: seen.append(response.status) if "/dashboard/api" in response.url else None,
    )
    await page.goto(f"{mesh.url}/")
    gating = page.locator(".service", has=page.get_by_role("heading", name="gating"))
    await expect(gating.locator(".chip")).to_have_text("up")
    pid = mesh.pids()["services.gating"]
    os.kill(pid, signal.SIGSTOP)
    try:
        await expect(gating.locator(".chip")).to_have_text("away")
        await expect(page.locator(".events li").first).to_be_visible()
    finally:
        os.kill(pid, signal.SIGCONT)
    await expect(gating.locator(".chip")).to_have_text("up")
    assert set(seen) == {200}
