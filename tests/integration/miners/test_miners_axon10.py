"""Our client against the Axon that miners of SDK 6 to 10 run.

Opt-in: ``COREMESH_TEST_SDK10=1 pytest tests/integration/miners`` installs bittensor 10 in an environment of its own
outside the repository (20 s and 150 MB the first time).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import sdk10
from coremesh.wire.adapters import MinerRequest, SynapseAdapter
from coremesh.wire.status import Status
from services.querier.miners import MinerAnswer, MinerClient, MinerLimits, Target
from tests.integration.miners.conftest import SIGNER

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("COREMESH_TEST_SDK10") != "1", reason="COREMESH_TEST_SDK10=1 asks for it"
    ),
    pytest.mark.timeout(600),
]
LIMITS = MinerLimits(allow_loopback=True)


@pytest.fixture(scope="module")
def axon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    interpreter = sdk10.python()
    assert interpreter is not None, "bittensor 10 could not be installed"
    process = subprocess.Popen(
        [interpreter, Path(__file__).with_name("axon10.py"), tmp_path_factory.mktemp("wallets")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = next(line for line in process.stdout if line.startswith("{"))
        yield Target(7, json.loads(said)["hotkey"], "127.0.0.9", json.loads(said)["port"])
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def ask(adapter: SynapseAdapter, target: Target, times: int = 1) -> list[MinerAnswer]:
    request = MinerRequest(("user", "user"), ("Why is the sky blue?", "Ünïcode's “quotes”?"), 8.0)
    async with MinerClient(adapter, SIGNER.hotkey, LIMITS) as client:
        for _ in range(100):
            if (await client.query([target], request))[0].status is not Status.REFUSED:
                break
            await asyncio.sleep(0.1)  # its server thread is still starting
        return [(await client.query([target], request))[0] for _ in range(times)]


async def test_an_axon_answers(axon: Target) -> None:
    for answer in await ask(SynapseAdapter(SIGNER, hash_fields=("messages",)), axon, times=3):
        text = "You asked: Why is the sky blue? / Ünïcode's “quotes”?"
        assert (answer.status, answer.completion) == (Status.OK, text)


async def test_an_axon_refuses_what_is_not_signed_for_it(axon: Target) -> None:
    wrong = Target(7, SIGNER.hotkey[:-4] + "abcd", axon.host, axon.port)
    (answer,) = await ask(SynapseAdapter(SIGNER, hash_fields=("messages",)), wrong)
    assert (answer.status, answer.detail) == (Status.BAD_STATUS, "HTTP 401")
