"""The page in a browser, over a querier with a real history and hostile miners."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from playwright.async_api import Browser, expect

from coremesh.metagraph import Metagraph
from tests.browser import browser, complaints, needs_chromium, tab
from tests.integration.querier.conftest import World
from tests.integration.querier.dashboard import Doubles, append, explanation, make_event, seed, submission
from tests.integration.querier.network import make_metagraph, says

pytestmark = needs_chromium

ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
TURNED = "invoice\u202egnp.exe \u0007 zero\u200bwidth"
SPELT_OUT = "invoice\u27e8202E\u27e9gnp.exe \u27e80007\u27e9 zero\u27e8200B\u27e9width"
VIEWS = ("", "miners", "miners/1", "events", "weights", "gating", "ask")


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as found:
        yield found


async def world_with_page(
    world: World, *texts: str, hotkeys: dict[int, str] | None = None, **querier: Any
) -> tuple[httpx.AsyncClient, Doubles, Metagraph, str]:
    """Miners that say ``texts``, a snapshot, doubles of the services, a querier, and its address."""
    miners = await world.miners(*(says(text) for text in texts), publish=False)
    ports = [int(running.listener.getsockname()[1]) for running in world.servers._running[-len(miners) :]]
    metagraph = make_metagraph(miners, ports)
    neurons = tuple(
        msgspec.structs.replace(n, hotkey=(hotkeys or {}).get(n.uid, n.hotkey)) for n in metagraph.neurons
    )
    metagraph = msgspec.structs.replace(metagraph, neurons=neurons)
    await world.publish(metagraph)
    doubles = Doubles(metagraph, scores={uid: 1 / (1 + uid) for uid in range(1, len(texts) + 1)})
    doubles.on_chain = {1: 40_000, 2: 20_000}
    app = world.services.app()
    doubles.add_to(app)
    world.services_url = await world.servers.serve(app, "127.3.0.8")
    client = await world.querier(wait=False, querier=querier)
    return client, doubles, metagraph, str(client.base_url)


async def test_nothing_from_a_miner_becomes_markup_or_hides(world: World, chromium: Browser) -> None:
    hotkeys = {3: ATTACK}
    _, doubles, metagraph, url = await world_with_page(
        world, f"{ATTACK} {TURNED}", "Another answer.", "Words.", hotkeys=hotkeys
    )
    # The querier cleans what it hears; the page has to stand what an older one recorded.
    forward = make_event(metagraph, {1: 0.9, 2: 0.8}, time_ms=1_700_000_000_000, prompt=ATTACK)
    await append(world.history, forward, (f"{ATTACK} {TURNED}", "B" * 1_000_000))
    doubles.submissions = [submission(1, "failed", reason=f"{ATTACK} {TURNED}")]
    doubles.explanations[3] = explanation(metagraph, 3, 0.2, note=f"{ATTACK} {TURNED}")
    page = await tab(chromium)
    said = complaints(page)

    await page.goto(f"{url}/#/miners")
    await expect(page.locator("tbody tr")).to_have_count(3)
    await expect(page.locator(".key").nth(2)).to_contain_text("<img s")
    await page.goto(f"{url}/#/miners/3")
    await expect(page.locator(".head p.mono")).to_contain_text("<img src=x onerror=")
    await expect(page.locator(".explain")).to_contain_text("<img src=x onerror=")
    await expect(page.locator(".explain")).to_contain_text("invoice\u27e8202E\u27e9gnp.exe")
    await page.goto(f"{url}/#/weights")
    await expect(page.locator(".reason")).to_contain_text("<img src=x onerror=")

    await page.goto(f"{url}/#/events/{forward.id}")
    await expect(page.locator(".prompt .text")).to_have_text(ATTACK)
    told = page.locator(".completions .text")
    await expect(told).to_have_count(2)
    await expect(told.first).to_contain_text(ATTACK)
    await expect(told.first).to_contain_text(SPELT_OUT)
    assert len(await told.nth(1).inner_text()) == 4_000
    await expect(page.locator(".cut")).to_have_text("The first 4,000 of 1,000,000 characters.")

    await page.goto(f"{url}/#/ask")
    await page.fill("#question", "Why is the sky blue?")
    await page.press("#question", "Control+Enter")
    answers = page.locator(".completions > li")
    await expect(answers).to_have_count(3)
    await expect(page.locator(".completions")).to_contain_text("<img src=x onerror=")

    # No miner gets a megabyte past the querier: the page has to stand it all the same.
    long = f"{ATTACK} {TURNED} " + "B" * 1_000_000
    item = {"uid": 1, "hotkey": ATTACK, "completion": long, "reward": 1.0, "status": ATTACK, "latency_s": 1.0}
    timings = {"filter": 0.1, "gating": 0.1, "query": 0.1, "reward": 0.1, "total": 0.4}
    answer = {**item, "completions": [item], "event_id": ATTACK, "timings": timings, "degraded": [ATTACK]}
    await page.route("**/inference", lambda route: route.fulfill(json=answer))
    await page.press("#question", "Control+Enter")
    await expect(page.locator(".answer .text")).to_contain_text(f"{ATTACK} {SPELT_OUT} BBB")
    await expect(page.locator(".cut").first).to_have_text(f"The first 4,000 of {len(long):,} characters.")
    assert len(await page.locator("main").inner_text()) < 12_000

    assert await page.locator("img, main script, iframe").count() == 0
    assert await page.title() == "Ask \u00b7 coremesh"
    assert said == []


async def test_even_a_slip_in_our_own_script_could_not_make_markup(world: World, chromium: Browser) -> None:
    *_, url = await world_with_page(world, "Words.")
    page = await tab(chromium)
    await page.goto(url)
    refused = await page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return 'done'; } catch (e) { return e.name; } }"
    )
    assert refused == "TypeError"
    refused = await page.evaluate(
        "() => { try { document.body.setAttribute('onclick', 'x'); return 'done'; } catch (e) { return e.name; } }"
    )
    assert refused == "TypeError"


async def test_a_key_is_asked_for_and_stays_in_the_tab(world: World, chromium: Browser) -> None:
    *_, url = await world_with_page(world, "A good answer.", "Another answer.", api_keys=["sesame"])
    page = await tab(chromium)
    said = complaints(page, expected=("401", "/explanation"))
    await page.goto(f"{url}/#/ask")
    await page.get_by_role("button", name="This validator needs a key").click()
    await page.get_by_label("Key", exact=True).fill("wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("#key-button")).to_have_text("Key refused")
    await page.locator("#key-button").click()
    await expect(page.locator("#key-problem")).to_be_visible()
    await page.get_by_label("Key", exact=True).fill("sesame")
    await page.keyboard.press("Enter")
    await expect(page.locator("#key-button")).to_have_text("Key in use")
    await page.fill("#question", "Why is the sky blue?")
    await page.get_by_role("button", name="Ask", exact=True).click()
    await expect(page.locator(".answer .text")).to_have_text("Another answer.")
    kept = await page.evaluate("() => [sessionStorage.getItem('coremesh.key'), JSON.stringify(localStorage)]")
    assert kept == ["sesame", "{}"]
    await page.locator("#key-button").click()
    await page.get_by_role("button", name="Forget").click()
    assert await page.evaluate("() => sessionStorage.getItem('coremesh.key')") is None
    assert said == []


async def test_the_leaderboard_is_sorted_searched_and_walked_by_keyboard(
    world: World, chromium: Browser
) -> None:
    _, _, metagraph, url = await world_with_page(world, "One.", "Two.", "Three.")
    await seed(world.history, metagraph, 20)
    page = await tab(chromium)
    said = complaints(page)
    await page.goto(f"{url}/#/miners")
    uids = page.locator("tbody td:first-child")
    await expect(uids).to_have_text(["1", "2", "3"])  # by score
    await expect(page.locator("th[aria-sort]")).to_have_text("Score")
    await page.get_by_role("button", name="Uid").press("Enter")
    await expect(uids).to_have_text(["3", "2", "1"])
    await expect(page.locator("th[aria-sort='descending']")).to_have_text("Uid")
    await page.get_by_role("button", name="Latency").click()
    await expect(uids).to_have_text(["1", "2", "3"])
    await expect(page.locator(".spark path")).to_have_count(3)
    await page.get_by_label("miners only").uncheck()
    await expect(uids).to_have_count(5)
    await page.get_by_role("searchbox").fill(metagraph.neurons[2].hotkey[5:20])
    await expect(uids).to_have_text(["2"])
    await page.get_by_role("searchbox").fill("nobody")
    await expect(page.get_by_text("No miner matches")).to_be_visible()
    await page.get_by_role("searchbox").fill("2")
    await page.get_by_role("link", name="2", exact=True).press("Enter")
    await expect(page.locator("h1")).to_have_text("Miner 2")
    assert await page.evaluate("() => document.activeElement.id") == "main"
    assert said == []


async def test_dark_and_light_follow_the_system_until_one_is_chosen(world: World, chromium: Browser) -> None:
    *_, url = await world_with_page(world, "Words.")
    page = await tab(chromium, color_scheme="dark")

    async def lightness() -> int:
        colour = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    await page.goto(url)
    assert await lightness() < 120
    await page.get_by_role("button", name="Switch to the light theme").click()
    assert await lightness() > 600
    await page.reload()
    assert await lightness() > 600
    await page.get_by_role("button", name="Switch to the dark theme").click()
    assert await lightness() < 120
    await page.emulate_media(color_scheme="light")
    assert await lightness() > 600


async def test_every_view_fits_a_phone_and_says_what_is_missing(world: World, chromium: Browser) -> None:
    _, doubles, _, url = await world_with_page(world, "Words.")
    doubles.down |= {"/scores", "/weights", "/head", "/submissions"}
    page = await tab(chromium, viewport={"width": 390, "height": 844}, has_touch=True)
    said = complaints(page)
    expected = {
        "": "3 uids changed",
        "miners": "1 of 3 uids",
        "miners/1": "Its requests appear here as they happen.",
        "events": "3 uids changed",
        "weights": "No weights submitted yet",
        "gating": "Nothing learnt yet",
        "ask": "Miners of the subnet see the question.",
    }
    for view, text in expected.items():
        await page.goto(f"{url}/#/{view}")
        await expect(page.locator("main")).to_contain_text(text)
        width = await page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= 390, view
    assert set(expected) == set(VIEWS)
    assert said == []


async def test_the_page_stays_when_the_querier_goes_away(world: World, chromium: Browser) -> None:
    _, _, metagraph, url = await world_with_page(world, "One.", "Two.")
    await seed(world.history, metagraph, 5)
    page = await tab(chromium)
    await page.goto(url)
    await expect(page.locator(".service")).to_have_count(6)
    await expect(page.locator(".tops li")).to_have_count(2)
    await world.stop_querier()
    await expect(page.locator("#link-state")).to_have_text("not connected")
    await expect(page.locator(".notice").first).to_contain_text("The querier does not answer.")
    await expect(page.locator(".service")).to_have_count(6)
    await expect(page.locator(".tops li")).to_have_count(2)


LOW_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (c) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const found = rgba(getComputedStyle(element).backgroundColor);
      if (found[3] > 200) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.getClientRects().length || element.disabled) continue;
    const style = getComputedStyle(element);
    const [one, two] = [luminance(rgba(style.color)), luminance(behind(element))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < least) low.push(`${walker.currentNode.textContent} ${ratio.toFixed(2)}`);
  }
  return low;
}"""
"""Texts whose contrast is below WCAG 2.2's level AA (1.4.3): 4.5 to 1, and 3 to 1 from 24 px on."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_enough_from_what_is_behind_it(
    world: World, chromium: Browser, scheme: str
) -> None:
    _, doubles, metagraph, url = await world_with_page(world, "One.", "Two.")
    made = await seed(world.history, metagraph, 8)
    doubles.submissions = [
        submission(3, "held", reason="few"),
        submission(2, "landed"),
        submission(1, "failed"),
    ]
    doubles.explanations[1] = explanation(metagraph, 1, 0.2)
    page = await tab(chromium, color_scheme=scheme, reduced_motion="reduce")
    seen = {"": ".tops li", "miners": "tbody tr", "miners/1": ".explain tr", "events": ".events li"}
    seen |= {
        "weights": "tbody .chip",
        "gating": ".stats",
        "ask": ".hint",
        f"events/{made[-1].id}": "tbody tr",
    }
    for view, there in seen.items():
        await page.goto(f"{url}/#/{view}")
        await expect(page.locator(there).first).to_be_visible()
        assert await page.evaluate(LOW_CONTRAST) == [], view


async def test_weights_that_were_due_and_held_are_told_on_the_first_page(
    world: World, chromium: Browser
) -> None:
    _, doubles, _, url = await world_with_page(world, "Words.")
    doubles.held = "nothing new was scored"
    doubles.submissions = [submission(1, "landed")]
    page = await tab(chromium)
    await page.goto(url)
    await expect(page.locator(".service .chip").first).to_have_text("up")
    await expect(page.get_by_text("Weights are held")).to_be_hidden()
    doubles.submissions = [submission(2, "held", reason="the vector moved too far"), submission(1, "landed")]
    await expect(page.get_by_text("Weights are held: the vector moved too far.")).to_be_visible()
    await page.goto(f"{url}/#/weights")
    await expect(page.locator(".next")).to_contain_text("they would be held: nothing new was scored.")
    await expect(page.locator(".terms")).to_contain_text("due, but not sent")


async def test_a_uid_that_nobody_has_is_said_to_be_nobodys(world: World, chromium: Browser) -> None:
    *_, url = await world_with_page(world, "Words.")
    page = await tab(chromium)
    await page.goto(f"{url}/#/miners/999")
    await expect(page.locator("main")).to_contain_text("There is no miner 999")
    await expect(page.locator(".card")).to_have_count(1)
    await page.goto(f"{url}/#/miners/0")
    await expect(page.locator("main")).to_contain_text("Validators are not asked, only miners.")


async def test_a_chart_tells_the_values_under_the_pointer(world: World, chromium: Browser) -> None:
    _, _, metagraph, url = await world_with_page(world, "One.", "Two.")
    await seed(world.history, metagraph, 30)
    page = await tab(chromium)
    await page.goto(f"{url}/#/gating")
    await expect(page.locator(".legend .at")).to_contain_text("newest:")
    await page.locator(".chart .u-over").hover(position={"x": 5, "y": 50})
    await expect(page.locator(".legend .at")).to_contain_text(re.compile(r"^at \d\d:\d\d:\d\d$"))
