"""A user's request through real services, as a collector sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from coremesh.events import ForwardEvent
from devnet.chain.testing import free_port
from tests.integration.querier.conftest import World, ask
from tests.integration.querier.network import answers, says
from tests.integration.traces.collector import Collector
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
BETTER = "Because air molecules scatter short wavelengths far more strongly: Rayleigh scattering."
PROMPT = "Why is the sky blue? MARKERPROMPT"
STRANGER = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"

TOP = ("querier: POST /inference", "querier: forward")
EXPECTED = {
    TOP[:1],
    TOP,
    (*TOP, "querier: filter"),
    (*TOP, "querier: filter", "reward: POST /filter"),
    (*TOP, "querier: gate"),
    (*TOP, "querier: gate", "gating: POST /score"),
    (*TOP, "querier: fan-out"),
    (*TOP, "querier: fan-out", "querier: miner"),
    (*TOP, "querier: reward"),
    (*TOP, "querier: reward", "reward: POST /reward"),
    (*TOP, "querier: choose"),
    (*TOP, "querier: record"),
}


@asynccontextmanager
async def service(
    world: World, name: str, port: int, *flags: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """A real service process that is alive; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"services.{name}", f"--http.port={port}", f"--redis.url={world.redis_url}", *flags),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COREMESH_MESH_TOKEN": "shared"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def alive() -> bool:
                try:
                    return (await client.get("/readyz")).json()["ready"]
                except httpx.HTTPError:
                    return False

            await wait_until(alive, timeout=90, every=0.1, why=f"{name} is ready")
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def querier_flags(world: World, gating: int, reward: int) -> list[str]:
    return [
        f"--mesh.gating_url=http://127.0.0.1:{gating}",
        f"--mesh.reward_url=http://127.0.0.1:{reward}",
        f"--mesh.weights_url={world.services_url}",
        f"--wallet.path={world.wallet_path}",
        "--wallet.name=validator",
        "--querier.allow_loopback=true",
        f"--querier.spool={world.spool}",
        "--querier.gating_timeout_s=20",
        "--querier.reward_timeout_s=20",
        "--querier.axon_off=true",
    ]


async def test_one_trace_leads_through_querier_gating_and_reward_into_the_event(
    world: World, collector: Collector
) -> None:
    miners = await world.miners(says(GOOD), says(BETTER), answers(500))
    ports = {name: free_port() for name in ("gating", "reward", "querier")}
    tracing = f"--traces.endpoint={collector.url}"
    async with AsyncExitStack() as stack:
        for name in ("gating", "reward"):
            await stack.enter_async_context(service(world, name, ports[name], tracing))
        flags = querier_flags(world, ports["gating"], ports["reward"])
        process, client = await stack.enter_async_context(
            service(world, "querier", ports["querier"], *flags, tracing)
        )
        response = await client.post(
            "/inference",
            json={"messages": [{"role": "user", "content": PROMPT}]},
            headers={"traceparent": STRANGER},
        )
        answer = response.json()
        assert response.status_code == 200, answer
        assert answer["degraded"] == []
        event: ForwardEvent = await world.event(answer["event_id"])
        (shown,) = (await client.get("/history")).json()["events"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await wait_until(lambda: collector.paths(event.trace) >= EXPECTED)

    # Completions are filtered too where the answer that there is no filter has grown old meanwhile.
    again = (*TOP, "querier: reward", "reward: POST /filter")
    assert collector.paths(event.trace) - {again} == EXPECTED
    assert event.trace != STRANGER.split("-")[1]
    assert shown["trace_id"] == event.trace
    (forward,) = collector.named("forward")
    assert forward.attributes == {"event_id": answer["event_id"], "kind": "inference", "result": "ok"}
    asked = {
        (span.attributes["uid"], span.attributes["hotkey"], span.attributes["status"])
        for span in collector.named("miner")
    }
    assert asked == {
        (1, miners[0].hotkey, "ok"),
        (2, miners[1].hotkey, "ok"),
        (3, miners[2].hotkey, "bad_status"),
    }
    (chosen,) = collector.named("choose")
    assert (chosen.attributes["uid"], chosen.attributes["hotkey"]) == (answer["uid"], answer["hotkey"])
    (scored,) = collector.named("POST /reward")
    assert scored.attributes == {"http.route": "/reward", "http.response.status_code": 200}
    # Miners hear nothing of it, and the collector no text.
    assert all("traceparent" not in str(body) for miner in miners for body in miner.asked)
    sent = b"".join(collector.bodies)
    for text in ("MARKERPROMPT", "scatter", "shared"):
        assert text.encode() not in sent


async def test_a_collector_that_is_down_is_in_nobodys_way(world: World) -> None:
    await world.miners(says(GOOD))
    port = free_port()
    flags = querier_flags(world, 1, 1)
    flags[:2] = [f"--mesh.gating_url={world.services_url}", f"--mesh.reward_url={world.services_url}"]
    tracing = f"--traces.endpoint=http://127.0.0.1:{free_port()}"
    async with service(world, "querier", port, *flags, tracing) as (process, client):
        for _ in range(5):
            response = await ask(client)
            assert response.status_code == 200
            assert response.json()["completion"] == GOOD
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert len([event for event in await world.forwards() if event.trace]) == 5
