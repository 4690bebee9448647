"""The Dendrite of bittensor 10 in its best form, session and schema kept: run by ``benchmarks.sdk10``'s interpreter.

``python fanout_dendrite.py`` reads one JSON line {targets: [[hotkey, host, port], …], messages: […]}, then for each
line ``n`` asks all of them n times and prints ``{"cpu_s": …, "ok": …}``. Imports nothing of coremesh: bittensor 10
cannot live beside it.
"""

import asyncio
import json
import logging
import sys
import time
from functools import cache

import bittensor as bt
from bittensor.core.axon import AxonInfo
from bittensor.core.dendrite import Dendrite
from bittensor.core.synapse import Synapse
from bittensor.utils import networking
from bittensor_wallet import Keypair
from pydantic import Field


class Prompting(Synapse):
    # Defaults, because the hosts answer with the completion alone.
    roles: list[str] = Field(default_factory=list)
    messages: list[str] = Field(default_factory=list)
    completion: str = ""

    def get_required_fields(self) -> list[str]:
        """Worked out once: as shipped it is worked out twenty times a request, which costs 40 ms."""
        return required_fields(type(self))


@cache
def required_fields(synapse: type[Synapse]) -> list[str]:
    return synapse.model_json_schema().get("required", [])


async def main() -> None:
    loop = asyncio.get_running_loop()
    setup = json.loads(sys.stdin.readline())
    # The Dendrite asks the internet for its own address first; loopback needs none.
    networking.get_external_ip = lambda: "192.0.2.1"
    keypair = Keypair.create_from_uri("//Validator")
    dendrite = Dendrite(wallet=keypair)
    axons = [
        AxonInfo(version=10_002_001, ip=host, port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey)
        for hotkey, host, port in setup["targets"]
    ]
    prompt = Prompting(roles=["user"], messages=setup["messages"])
    # The session's own default is 100 connections, which K=64 does not reach.
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        ok = 0
        start = time.process_time()
        for _ in range(int(line)):
            # What `forward` does, less the session that `query` closes behind it.
            answers = await asyncio.gather(
                *(dendrite.call(axon, prompt.model_copy(), timeout=10, deserialize=False) for axon in axons)
            )
            dendrite.synapse_history.clear()  # it would grow for ever
            ok += sum(bool(answer.completion) for answer in answers)
        print(json.dumps({"cpu_s": time.process_time() - start, "ok": ok}), flush=True)
    await dendrite.aclose_session()


if __name__ == "__main__":
    bt.logging.off()
    logging.disable(logging.CRITICAL)
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
