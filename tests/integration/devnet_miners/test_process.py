from __future__ import annotations

import ipaddress
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bittensor as bt
import httpx
import pytest

from devnet.chain.admin import DevnetAdmin
from devnet.chain.testing import RunningChain, free_port, running_chain
from devnet.roster import RESIDENTS, Resident
from tests.integration.devnet_miners.street import moved

# The roster's own ports may be taken by a devnet that runs beside the tests.
PROGRAM = """
import sys, uvloop
from pathlib import Path
from devnet.miners.cli import Options, run
from devnet.roster import Resident
wallets, network, serve, *residents = sys.argv[1:]
options = Options(Path(wallets), network, 1, tuple(eval(one) for one in residents), serve == "serve", 0, 20.0)
sys.exit(uvloop.run(run(options)))
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningChain]:
    with running_chain(tmp_path_factory.mktemp("chain")) as chain:
        yield chain


@contextmanager
def running_miners(chain: RunningChain, *residents: Resident, serve: bool) -> Iterator[subprocess.Popen[str]]:
    words = [str(chain.wallets_dir), chain.url, "serve" if serve else "no", *map(repr, residents)]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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


async def served(chain: RunningChain) -> dict[str, tuple[str, int]]:
    """Address and port by hotkey, as an independent client reads them."""
    async with bt.Client(chain.url, fallback_endpoints=[], archive_endpoints=[]) as client:
        neurons = await client.read("neurons", netuid=1, lite=True)
    axons = {neuron.hotkey: neuron.raw["axon_info"] for neuron in neurons}
    return {
        hotkey: (str(ipaddress.ip_address(int(axon["ip"]))), int(axon["port"]))
        for hotkey, axon in axons.items()
        if int(axon["ip"])
    }


async def test_axons_are_published_once_and_a_signal_ends_the_process(chain: RunningChain) -> None:
    residents = moved("specialist-music", "hostile-drip", "dead")
    expected = {chain.wallets[one.name].hotkey: (one.host, one.port) for one in residents}
    blocks: list[int] = []
    for _ in range(2):
        with running_miners(chain, *residents, serve=True) as process:
            assert first_line(process) == "miners ready: 2 serving\n"
            assert await served(chain) == expected
            async with bt.Client(chain.url, fallback_endpoints=[], archive_endpoints=[]) as client:
                neurons = await client.read("neurons", netuid=1, lite=True)
            blocks.append(max(int(neuron.raw["axon_info"]["block"]) for neuron in neurons))
            music = residents[0]
            async with httpx.AsyncClient(trust_env=False) as http:
                health = await http.get(f"http://{music.host}:{music.port}/healthz")
            assert health.json() == {"status": "alive"}
            # A caller of the drip must not hold the process.
            with socket.create_connection((residents[1].host, residents[1].port)) as held:
                held.sendall(b"POST /forward HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
                assert held.recv(100).startswith(b"HTTP/1.1 200")
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=8) == 0
    # What the chain shows already is not published again.
    assert blocks[0] == blocks[1]


async def test_a_resident_that_was_replaced_is_left_out(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        by_name = {one.name: one for one in RESIDENTS}
        stays, goes = moved("generalist-1", "vague-1")
        with DevnetAdmin(chain.url) as admin:
            owner = chain.wallets["owner"]
            admin.replace_hotkey(1, 2 + RESIDENTS.index(by_name["vague-1"]), owner.hotkey, owner.coldkey)
        with running_miners(chain, stays, goes, serve=True) as process:
            assert first_line(process) == "miners ready: 2 serving\n"
            assert list(await served(chain)) == [chain.wallets[stays.name].hotkey]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=8) == 0
            assert process.stderr is not None
            hotkey = chain.wallets[goes.name].hotkey
            assert process.stderr.read() == (
                f"miners: {hotkey} has no uid any more (`devnet replace`): nobody asks it\n"
            )


async def test_nothing_is_published_when_that_is_off(chain: RunningChain) -> None:
    (resident,) = moved("generalist-2")
    with running_miners(chain, resident, serve=False) as process:
        assert first_line(process) == "miners ready: 1 serving\n"
        assert chain.wallets["generalist-2"].hotkey not in await served(chain)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=8) == 0


def failing(*words: str) -> tuple[int, str]:
    """Exit code and standard error of the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "devnet", "miners", *words], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode, done.stderr


def test_a_resident_that_does_not_exist(chain: RunningChain) -> None:
    code, error = failing("--only", "specialist-cooking", "--wallets", str(chain.wallets_dir))
    assert code == 2
    assert error.startswith(
        "miners: --only: there is no resident specialist-cooking. Choose from specialist-"
    )


def test_a_wallet_that_is_not_there(tmp_path: Path) -> None:
    code, error = failing("--wallets", str(tmp_path))
    assert code == 2
    assert error.startswith(f"miners: there is no hotkey file {tmp_path}/specialist-astronomy")


def test_a_port_that_is_taken(chain: RunningChain) -> None:
    one = next(one for one in RESIDENTS if one.name == "offtopic")
    with socket.socket() as taken:
        try:
            taken.bind((one.host, one.port))
            taken.listen()
        except OSError:
            # A devnet runs on this machine: the port is taken already.
            pass
        code, error = failing("--only", "offtopic", "--no-serve", "--wallets", str(chain.wallets_dir))
    assert code == 2
    assert error.startswith(
        f"miners: the resident offtopic cannot listen on {one.host}:{one.port}: Address already in use."
    )


def test_a_chain_that_is_not_there(chain: RunningChain) -> None:
    nowhere = f"ws://127.0.0.1:{free_port()}"
    started = time.monotonic()
    words = ("--wallets", str(chain.wallets_dir), "--network", nowhere, "--chain-deadline", "2")
    # The dead one listens nowhere, so this cannot meet a taken port.
    code, error = failing("--only", "dead", *words)
    assert (code, error) == (
        2,
        f"miners: the chain at {nowhere} does not answer. "
        "Check COREMESH_CHAIN_NETWORK, and that the node answers.\n",
    )
    assert time.monotonic() - started > 1.5


def test_a_hotkey_that_is_not_registered(chain: RunningChain) -> None:
    words = (
        "--wallets",
        str(chain.wallets_dir),
        "--network",
        chain.url,
        "--netuid",
        "9",
        "--chain-deadline",
        "3",
    )
    code, error = failing("--only", "dead", *words)
    assert code == 2
    assert "does not take the axon 127.1." in error
