"""A miner that reads stakes goes on with the last ones, whatever its node says."""

from __future__ import annotations

import asyncio
import json

import websockets

from coremesh.wire.keys import keypair_from_uri
from miner.chain import MinerChain
from miner.gate import Stakes
from tests.wait import wait_until


async def test_a_node_that_answers_what_nobody_foresaw_ends_no_miner() -> None:
    answered = 0

    async def oddly(node: websockets.ServerConnection) -> None:
        nonlocal answered
        async for asked in node:
            answered += 1
            await node.send(json.dumps({"jsonrpc": "2.0", "id": json.loads(asked)["id"], "result": "0x00"}))

    async with websockets.serve(oddly, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        chain = MinerChain(url, 1, keypair_from_uri("//Nobody"), Stakes())
        following = asyncio.create_task(chain.follow(0.05))
        # More than one attempt asks: it went on after the first.
        await wait_until(lambda: answered > 0)
        first = answered
        await wait_until(lambda: following.done() or answered > 2 * first)
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await chain.close()
