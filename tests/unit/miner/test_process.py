from __future__ import annotations

import ipaddress
import json
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bittensor as bt
import httpx
import pytest

from coremesh.wire.btauth import Signer
from coremesh.wire.wallets import load_keypair
from devnet.chain.testing import RunningChain, free_port, running_chain
from devnet.roster import VALIDATOR
from devnet.wallets import ensure_wallets
from tests.unit.miner.servers import ASKED, FakeOpenAI, running
from tests.wait import wait_until

NAME = "generalist-1"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningChain]:
    with running_chain(tmp_path_factory.mktemp("chain")) as chain:
        yield chain


def words(chain: RunningChain, base: str, port: int, wallet: str = NAME) -> list[str]:
    return [
        *("--backend", "openai", "--base-url", f"{base}/v1", "--model", "tiny"),
        *("--wallet-path", str(chain.wallets_dir), "--wallet-name", wallet),
        *("--network", chain.url, "--host", "127.0.0.1", "--port", str(port)),
    ]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "miner", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], 30)
    return process.stdout.readline() if readable else ""


async def axon(chain: RunningChain, hotkey: str) -> tuple[str, int, int]:
    """Address, port and block of an axon, as an independent client reads them."""
    async with bt.Client(chain.url, fallback_endpoints=[], archive_endpoints=[]) as client:
        neurons = await client.read("neurons", netuid=1, lite=True)
    (found,) = [neuron.raw["axon_info"] for neuron in neurons if neuron.hotkey == hotkey]
    return str(ipaddress.ip_address(int(found["ip"]))), int(found["port"]), int(found["block"])


async def test_a_miner_from_start_to_end(chain: RunningChain) -> None:
    """It publishes its axon once, answers validators with stake and nobody else, and ends on SIGTERM."""
    hotkey = chain.wallets[NAME].hotkey
    port = free_port()
    published: set[tuple[str, int, int]] = set()
    with running(FakeOpenAI().app()) as base:
        arguments = [*words(chain, base, port), "--external-ip", "127.9.9.9", "--min-stake", "1"]
        for _ in range(2):
            with started(*arguments) as process:
                assert first_line(process) == f"miner ready: http://127.0.0.1:{port}\n"
                published.add(await axon(chain, hotkey))

                async def ask(name: str) -> httpx.Response:
                    signer = Signer(load_keypair(chain.wallets_dir, name, "default"))
                    body = json.dumps(ASKED).encode()
                    headers = signer.headers("POST", "/forward", body, hotkey)
                    async with httpx.AsyncClient(trust_env=False) as client:
                        return await client.post(
                            f"http://127.0.0.1:{port}/forward",
                            content=body,
                            headers={"content-type": "application/json", **headers},
                        )

                async def stakes_are_read() -> bool:
                    return (await ask(VALIDATOR)).status_code == 200

                await wait_until(stakes_are_read)
                assert (await ask(VALIDATOR)).json() == {"completion": "Ice is frozen water."}
                assert (await ask("vague-1")).json()["code"] == "forbidden"
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=15) == 0
    # The second start found its axon on the chain and left it alone.
    ((ip, published_port, block),) = published
    assert (ip, published_port) == ("127.9.9.9", port)
    assert block > 0


def failing(*arguments: str) -> tuple[int, str]:
    """Exit code and the last line of standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "miner", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_hotkey_that_is_not_registered_ends_it_at_once(chain: RunningChain) -> None:
    ensure_wallets(chain.wallets_dir, ("newcomer",))
    arguments = [*words(chain, "http://127.0.0.1:9", free_port(), "newcomer"), "--external-ip", "127.9.9.8"]
    code, error = failing(*arguments)
    assert code == 2
    assert error.endswith("is not registered on subnet 1. Register it: btcli subnets register.")


def test_a_chain_that_is_not_there(chain: RunningChain) -> None:
    nowhere = f"ws://127.0.0.1:{free_port()}"
    arguments = [
        *words(chain, "http://127.0.0.1:9", free_port()),
        "--network",
        nowhere,
        "--chain-deadline",
        "2",
    ]
    code, error = failing(*arguments)
    assert (code, error) == (
        2,
        f"miner: the chain at {nowhere} does not answer. "
        "Check COREMESH_CHAIN_NETWORK, and that the node answers.",
    )


def test_a_port_that_is_taken(chain: RunningChain) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, error = failing(*words(chain, "http://127.0.0.1:9", port))
    assert code == 2
    assert error == (
        f"miner: cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Stop what listens there, or choose another --port."
    )


def test_a_wallet_and_a_model_that_are_not_there(chain: RunningChain, tmp_path: Path) -> None:
    code, error = failing(*words(chain, "http://127.0.0.1:9", free_port(), "nobody"), "--no-serve")
    assert code == 2
    assert error.startswith("miner: there is no hotkey file")
    model = ("--backend", "transformers", "--model", str(tmp_path), "--no-serve")
    code, error = failing(*words(chain, "http://127.0.0.1:9", free_port()), *model)
    assert code == 2
    assert error.startswith(f"miner: --model {tmp_path}: cannot be loaded as a causal language model")
